"""Pages of a list by keyset: a signed, opaque cursor says after which row the next page begins."""

import hashlib
import hmac
import logging
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson
from flask import current_app, request
from pydantic import Field
from sqlalchemy import make_url

from service.chassis.data.settings import DatabaseSettings
from service.chassis.http.routes import Reply
from service.chassis.http.validation import Invalid, Model

T = TypeVar("T")

log = logging.getLogger("service.database")

SIGNATURE_SIZE = 16  # bytes


class PageQuery(Model):
    """The query of a list; a subclass adds filters and the order."""

    limit: int = Field(20, ge=1, le=100, description="Maximum page size")
    cursor: str | None = Field(
        None, max_length=512, description="From the `next` link of the previous page"
    )

    def scope(self) -> bytes:
        """Return what a cursor is bound to: it continues no other list, filters or order."""
        filters = self.model_dump_json(exclude={"limit", "cursor"})
        return f"{request.path}\0{filters}".encode()

    def position(self, *parsers: Callable[[Any], Any]) -> list[Any] | None:
        """Return the values after which the page begins, None for the first page.

        A parser makes each from JSON. Raise Invalid for a cursor that was not made for this list.
        """
        if self.cursor is None:
            return None
        try:
            values = orjson.loads(self._open(self.cursor))
            return [parse(value) for parse, value in zip(parsers, values, strict=True)]
        except (AttributeError, TypeError, ValueError):
            detail = "Not a cursor of this list; start with the first page"
            raise Invalid({"detail": detail, "parameter": "cursor"}) from None

    def next_link(self, *values: Any) -> dict[str, str]:
        """Return the header that leads to the page after the row with these values."""
        payload = orjson.dumps(values)
        cursor = urlsafe_b64encode(self._sign(payload) + payload).decode()
        query = [item for item in request.args.items(multi=True) if item[0] != "cursor"]
        return {"Link": f'<?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'}

    def _open(self, cursor: str) -> bytes:
        sealed = urlsafe_b64decode(cursor.encode("ascii"))
        signature, payload = sealed[:SIGNATURE_SIZE], sealed[SIGNATURE_SIZE:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise ValueError("another signature")
        return payload

    def _sign(self, payload: bytes) -> bytes:
        key = current_app.extensions["cursor_key"]
        return hmac.digest(key, self.scope() + b"\0" + payload, hashlib.sha256)[:SIGNATURE_SIZE]


class Page(Reply[T]):
    """An answer with, but for the last page, a link to the next."""

    sends = ("Link",)


def make_cursor_key(settings: DatabaseSettings) -> bytes:
    """Return CURSOR_KEY, or one that all replicas derive alike from the database's password.

    Without either it is random: what is known to others is no key.
    """
    if settings.cursor_key:
        return settings.cursor_key.get_secret_value().encode()
    secret_settings = (settings.database_url, settings.database_password)
    parts = [secret.get_secret_value() for secret in secret_settings if secret]
    url = make_url(parts[0]) if settings.database_url else None
    if settings.database_password or (url and url.password):
        return _derive_key(" ".join(parts))
    if url and not url.drivername.startswith("sqlite"):  # which serves one process
        log.warning("cursors of lists end with this process: set CURSOR_KEY")
    return secrets.token_bytes(32)


@cache
def _derive_key(secret: str) -> bytes:
    """Derive it slowly, so that a cursor does not help to guess the database's password."""
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), b"cursors", 100_000)

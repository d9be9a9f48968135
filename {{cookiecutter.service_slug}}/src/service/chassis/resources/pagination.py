"""Pages of a list by keyset: a signed, opaque cursor says after which row the next page begins."""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any
from urllib.parse import urlencode

import orjson
from flask import current_app, request
from pydantic import Field

from service.chassis.data.settings import DatabaseSettings
from service.chassis.http.validation import Invalid, Model

SIGNATURE_SIZE = 16  # bytes


class PageQuery(Model):
    """The query of a list; a subclass adds filters and the order."""

    limit: int = Field(20, ge=1, le=100, description="Maximum page size")
    cursor: str | None = Field(
        None, max_length=512, description="From the `next` link of the previous page"
    )

    def scope(self) -> bytes:
        """Return what a cursor is bound to: it continues no list with other filters or order."""
        return self.model_dump_json(exclude={"limit", "cursor"}).encode()

    def position(self) -> list[Any] | None:
        """Return the values after which the page begins, None for the first page.

        Raise Invalid for a cursor that was not made for this list.
        """
        if self.cursor is None:
            return None
        try:
            sealed = urlsafe_b64decode(self.cursor.encode("ascii"))
        except ValueError:
            sealed = b""
        signature, payload = sealed[:SIGNATURE_SIZE], sealed[SIGNATURE_SIZE:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            detail = "Not a cursor of this list; start with the first page"
            raise Invalid({"detail": detail, "parameter": "cursor"})
        values: list[Any] = orjson.loads(payload)
        return values

    def next_link(self, *values: Any) -> dict[str, str]:
        """Return the header that leads to the page after the row with these values."""
        payload = orjson.dumps(values)
        cursor = urlsafe_b64encode(self._sign(payload) + payload).decode()
        query = [item for item in request.args.items(multi=True) if item[0] != "cursor"]
        target = f"{request.path}?{urlencode([*query, ('cursor', cursor)])}"
        return {"Link": f'<{target}>; rel="next"'}

    def _sign(self, payload: bytes) -> bytes:
        key = current_app.extensions["cursor_key"]
        return hmac.digest(key, self.scope() + b"\0" + payload, hashlib.sha256)[:SIGNATURE_SIZE]


def make_cursor_key(settings: DatabaseSettings) -> bytes:
    """Return CURSOR_KEY, or one that all replicas of a database derive alike.

    Without either it is random: SQLite serves one process.
    """
    if settings.cursor_key:
        return settings.cursor_key.get_secret_value().encode()
    secret_settings = (settings.database_url, settings.database_password)
    parts = [secret.get_secret_value() for secret in secret_settings if secret]
    return _derive_key(" ".join(parts)) if parts else secrets.token_bytes(32)


@cache
def _derive_key(secret: str) -> bytes:
    """Derive it slowly, so that a cursor does not help to guess the database's password."""
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), b"cursors", 100_000)

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
from flask import Flask, current_app, request
from pydantic import Field

from service.chassis.validation import Invalid, Model
from service.settings import Settings

SIGNATURE = 16  # bytes


class PageQuery(Model):
    """The query of a list; a subclass adds filters and the order."""

    limit: int = Field(20, ge=1, le=100, description="Most items to return")
    cursor: str | None = Field(None, max_length=512, description="From the `next` link of the page before")

    def scope(self) -> bytes:
        """What a cursor is bound to: it continues no list with other filters or another order."""
        return self.model_dump_json(exclude={"limit", "cursor"}).encode()

    def position(self) -> list[Any] | None:
        """The values after which the page begins, None for the first one; raise Invalid for a cursor not ours."""
        if self.cursor is None:
            return None
        try:
            sealed = urlsafe_b64decode(self.cursor.encode("ascii"))
        except ValueError:
            sealed = b""
        signature, payload = sealed[:SIGNATURE], sealed[SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise Invalid({"detail": "Not a cursor of this list: begin with its first page", "parameter": "cursor"})
        values: list[Any] = orjson.loads(payload)
        return values

    def next_link(self, *values: Any) -> dict[str, str]:
        """The header that leads to the page after the row with these values."""
        payload = orjson.dumps(values)
        cursor = urlsafe_b64encode(self._sign(payload) + payload).decode()
        query = urlencode([*((k, v) for k, v in request.args.items(multi=True) if k != "cursor"), ("cursor", cursor)])
        return {"Link": f'<{request.path}?{query}>; rel="next"'}

    def _sign(self, payload: bytes) -> bytes:
        key = current_app.extensions["cursor_key"]
        return hmac.digest(key, self.scope() + b"\0" + payload, hashlib.sha256)[:SIGNATURE]


def cursor_key(settings: Settings) -> bytes:
    """Return CURSOR_KEY, else one that all replicas of a database derive alike; with SQLite, one for this process."""
    if settings.cursor_key:
        return settings.cursor_key.get_secret_value().encode()
    parts = [secret.get_secret_value() for secret in (settings.database_url, settings.database_password) if secret]
    return _derived(" ".join(parts)) if parts else secrets.token_bytes(32)


@cache
def _derived(secret: str) -> bytes:
    """Slowly, so that nobody finds the database's password by trying which one signs a cursor."""
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), b"cursors", 100_000)


def init_app(app: Flask, settings: Settings) -> None:
    app.extensions["cursor_key"] = cursor_key(settings)

"""Idempotency-Key: a repeated request gets the first answer, which its transaction has stored."""

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import orjson
import sqlalchemy as sa
from flask import g, request
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Connection
from werkzeug.exceptions import Conflict, UnprocessableEntity

from service.chassis.http.routes import Created
from service.chassis.http.validation import Model

T = TypeVar("T", bound=BaseModel)

LIFETIME = 24 * 3600  # seconds
MAX_PURGED = 1000  # expired keys that one request of 256 deletes

metadata = sa.MetaData()
KEYS = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),  # as `stored_key` makes it
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False, index=True),
)
TRY_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended(:key, 0))")
SELECT = sa.select(KEYS).where(KEYS.c.key == sa.bindparam("key"))
INSERT = sa.insert(KEYS)
DELETE = sa.delete(KEYS).where(KEYS.c.key == sa.bindparam("old"))
EXPIRED = (
    sa.select(KEYS.c.key)
    .where(KEYS.c.expires < sa.bindparam("now"))
    .limit(MAX_PURGED)
    .with_for_update(skip_locked=True)
)
PURGE = sa.delete(KEYS).where(KEYS.c.key.in_(EXPIRED))


class IdempotencyKey(Model):
    """The header of a request that may be repeated."""

    idempotency_key: str | None = Field(
        None,
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="The same in every repetition of one request",
    )


def caller() -> tuple[str, str]:
    """Return who sends the request: `g.caller`, which authentication may set, or the credentials.

    With renewed credentials a repetition is a new request, which is better than another's answer.
    """
    identity = g.get("caller")
    if identity is None:
        return "credentials", request.headers.get("Authorization", "")
    if not isinstance(identity, str | int | UUID):
        kind = type(identity).__name__
        raise TypeError(f"g.caller is a {kind}: it must be what identifies a caller, as text is")
    return "caller", str(identity)


def stored_key(key: str) -> str:
    """Return what stands for the key of this caller, method and path: a digest of all."""
    parts = orjson.dumps([caller(), request.method, request.path, key])
    return hashlib.sha256(parts).hexdigest()


def _read(model: type[T], text: str) -> T:
    """Return an answer as it was; what an answer leaves out or renames cannot be read back."""
    try:
        return model.model_validate_json(text, extra="ignore")
    except ValidationError:
        return model.model_construct()


def run_once(
    connection: Connection,
    headers: IdempotencyKey,
    body: BaseModel,
    answer: type[T],
    create: Callable[[], Created[T]],
) -> Created[T]:
    """Return what `create` returns, or returned for this key; call it inside a transaction.

    Raise Conflict while the first request runs, UnprocessableEntity where it was another.
    """
    if headers.idempotency_key is None:
        return create()
    key = stored_key(headers.idempotency_key)
    identity = f"{request.query_string!r} {type(body).__qualname__} {body.model_dump_json()}"
    fingerprint = hashlib.sha256(identity.encode()).digest()
    if connection.dialect.name == "postgresql" and not connection.scalar(TRY_LOCK, {"key": key}):
        raise Conflict("The first request with this Idempotency-Key is still running.")
    now = int(time.time())
    stored = connection.execute(SELECT, {"key": key}).one_or_none()
    if stored and stored.expires > now:
        if stored.fingerprint != fingerprint:
            raise UnprocessableEntity("This Idempotency-Key was used for another request.")
        headers_then = orjson.loads(stored.headers)
        return Created(_read(answer, stored.answer), headers_then, stored.answer.encode())
    if stored:
        connection.execute(DELETE, {"old": key})
    created = create()
    encoded = created.body.model_dump_json(by_alias=True, warnings="error")
    row = {
        "key": key,
        "fingerprint": fingerprint,
        "expires": now + LIFETIME,
        "answer": encoded,
        "headers": orjson.dumps(dict(created.headers or {})).decode(),
    }
    connection.execute(INSERT, row)
    if fingerprint[0] == 0:
        connection.execute(PURGE, {"now": now})
    return Created(created.body, created.headers, encoded.encode())

"""Idempotency-Key: a repeated request gets the first one's answer, which is kept in the same transaction."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy import Connection
from werkzeug.exceptions import Conflict, UnprocessableEntity

from service.chassis.contract import Created
from service.chassis.validation import Model

T = TypeVar("T", bound=BaseModel)

LIFETIME = 24 * 3600  # seconds
PURGED = 1000  # expired keys, at most, by one request of 256

metadata = sa.MetaData()
KEYS = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False, index=True),
)
LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended(:key, 0))")
FIND = sa.select(KEYS.c.fingerprint, KEYS.c.location, KEYS.c.answer, KEYS.c.expires).where(
    KEYS.c.key == sa.bindparam("key")
)
FORGET = sa.delete(KEYS).where(KEYS.c.key == sa.bindparam("old"))
KEEP = sa.insert(KEYS)
EXPIRED = (
    sa.select(KEYS.c.key).where(KEYS.c.expires < sa.bindparam("now")).limit(PURGED).with_for_update(skip_locked=True)
)
PURGE = sa.delete(KEYS).where(KEYS.c.key.in_(EXPIRED))


class IdempotencyKey(Model):
    idempotency_key: str | None = Field(
        None, pattern=r"^[\x21-\x7e]{1,255}$", description="The same in every repetition of one request"
    )


def once(
    connection: Connection, headers: IdempotencyKey, body: BaseModel, answer: type[T], make: Callable[[], Created[T]]
) -> Created[T]:
    """Return what `make` returns, or returned for this key; call it inside a transaction.

    Raise Conflict while the first request runs, UnprocessableEntity where the key came with another body.
    """
    key = headers.idempotency_key
    if key is None:
        return make()
    fingerprint = hashlib.sha256(f"{type(body).__qualname__} {body.model_dump_json()}".encode()).digest()
    if connection.dialect.name == "postgresql" and not connection.scalar(LOCK, {"key": key}):
        raise Conflict("The first request with this Idempotency-Key is still running.")
    now = int(time.time())
    found = connection.execute(FIND, {"key": key}).one_or_none()
    if found and found.expires > now:
        if found.fingerprint != fingerprint:
            raise UnprocessableEntity("This Idempotency-Key came with another request.")
        return Created(answer.model_validate_json(found.answer), {"Location": found.location})
    if found:
        connection.execute(FORGET, {"old": key})
    created = make()
    _keep(connection, created, {"key": key, "fingerprint": fingerprint, "expires": now + LIFETIME})
    if fingerprint[0] == 0:
        connection.execute(PURGE, {"now": now})
    return created


def _keep(connection: Connection, created: Created[T], row: dict[str, Any]) -> None:
    location = (created.headers or {}).get("Location", "")
    connection.execute(KEEP, row | {"answer": created.body.model_dump_json(), "location": location})

"""The outbox: events that a transaction publishes, which are stored in it and sent later."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import orjson
import sqlalchemy as sa
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection

from service.chassis.data.types import UtcDateTime
from service.chassis.messaging.events import MAX_SIZE, Attributes, Event
from service.chassis.project import PROJECT

TRACE_CONTEXT = TraceContextTextMapPropagator()

metadata = sa.MetaData()
OUTBOX = sa.Table(
    "outbox",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        sa.Identity(),
        primary_key=True,
    ),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("traceparent", sa.Text),
    sa.Column("created", UtcDateTime, nullable=False),
)
INSERT = sa.insert(OUTBOX)
# A key's rows are one relay's until its transaction ends. Each part is made whole before the next,
# so that only keys of the head are locked; rows that another relay has deleted since are left out.
TAKE = sa.text("""
    WITH head AS MATERIALIZED (
        SELECT id, key FROM outbox WHERE type <> ALL(:held) ORDER BY id LIMIT :limit
    ), keys AS MATERIALIZED (
        SELECT DISTINCT key FROM head
    ), won AS MATERIALIZED (
        SELECT key FROM keys WHERE pg_try_advisory_xact_lock(hashtextextended(key, 7))
    )
    SELECT id, event_id, type, key, body, traceparent FROM outbox
    WHERE id IN (SELECT id FROM head) AND key IN (SELECT key FROM won)
    ORDER BY id FOR UPDATE
""")
REMOVE = sa.text("DELETE FROM outbox WHERE id = ANY(:ids)")
OLDEST = sa.select(OUTBOX.c.created).order_by(OUTBOX.c.id).limit(1)
COUNT = sa.select(sa.func.count()).select_from(OUTBOX)


class Row(NamedTuple):
    """An event that is to be sent."""

    id: int
    event_id: str
    type: str
    key: str
    body: bytes
    traceparent: str | None


class Backlog(NamedTuple):
    """What waits in the outbox."""

    events: int
    age: float  # seconds


def publish(connection: Connection, event: Event, key: str) -> str:
    """Publish an event if the transaction is committed; return its id.

    `key` names what it is about, such as an order's id. Events of one key arrive in order where
    each transaction has locked that first. Raise RuntimeError outside a transaction, ValueError
    for a key or an event that is too long.
    """
    if not _is_in_transaction(connection):
        raise RuntimeError("publish in a transaction: the event and the change are stored together")
    now = datetime.now(UTC)
    context: dict[str, str] = {}
    TRACE_CONTEXT.inject(context)
    attributes = Attributes(
        specversion="1.0",
        id=str(uuid4()),
        source=f"/{PROJECT.name}",
        type=event.TYPE,
        subject=key,
        time=now,
        datacontenttype="application/json",
        **context,
    )
    envelope = attributes.model_dump(mode="json", exclude_none=True)
    body = orjson.dumps(envelope | {"data": event.model_dump(mode="json", by_alias=True)})
    if len(body) > MAX_SIZE:
        raise ValueError(f"an event has at most {MAX_SIZE} bytes: name what is large by its id")
    row = {
        "event_id": attributes.id,
        "type": attributes.type,
        "key": key,
        "body": body,
        "traceparent": attributes.traceparent,
        "created": now,
    }
    connection.execute(INSERT, row)
    return attributes.id


def take(connection: Connection, limit: int, held: Sequence[str] = ()) -> list[Row]:
    """Lock the oldest events until the transaction ends; leave out types that are held."""
    parameters = {"limit": limit, "held": list(held)}
    return [Row(*row) for row in connection.execute(TAKE, parameters)]


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete events that were sent."""
    connection.execute(REMOVE, {"ids": list(ids)})


def backlog(connection: Connection) -> Backlog:
    """Return how many events wait, and for how long the oldest."""
    oldest = connection.scalar(OLDEST)
    if oldest is None:
        return Backlog(0, 0.0)
    age = (datetime.now(UTC) - oldest).total_seconds()
    return Backlog(connection.scalar(COUNT) or 0, max(age, 0.0))


def _is_in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        return bool(driver.info.transaction_status != TransactionStatus.IDLE)
    return bool(driver.in_transaction)

"""The inbox: which events were handled, so that each has its effect once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, exc
from sqlalchemy.dialects import postgresql, sqlite

from service.chassis.data.connections import Database
from service.chassis.data.types import UtcDateTime
from service.chassis.messaging.events import Attributes

MAX_PURGED = 1000  # rows that one statement deletes
# Classes of SQLSTATE: no connection, no resources, the server stops; and a server that was primary.
AWAY = ("08", "53", "57P", "25006")

metadata = sa.MetaData()
# An event is known by its source and its id.
INBOX = sa.Table(
    "inbox",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("handled", UtcDateTime, nullable=False, index=True),
)
# rowcount is -1 for this statement, whether a row was stored or not.
MARKS = {
    "postgresql": postgresql.insert(INBOX).on_conflict_do_nothing().returning(INBOX.c.event_id),
    "sqlite": sqlite.insert(INBOX).on_conflict_do_nothing().returning(INBOX.c.event_id),
}
EXPIRED = (
    sa.select(INBOX.c.source, INBOX.c.event_id)
    .where(INBOX.c.handled < sa.bindparam("before"))
    .limit(MAX_PURGED)
)
PURGE = sa.delete(INBOX).where(sa.tuple_(INBOX.c.source, INBOX.c.event_id).in_(EXPIRED))


def handle_once(
    database: Database, handle: Callable[[Connection, Any], None], event: Attributes
) -> bool:
    """Handle an event unless that was done; the mark and the work are one transaction.

    Return whether it was handled now.
    """
    with database.transaction() as connection:
        if not mark(connection, event):
            return False
        handle(connection, event)
    return True


def mark(connection: Connection, event: Attributes) -> bool:
    """Mark an event as handled; return False where it was."""
    row = {"source": event.source, "event_id": event.id, "handled": datetime.now(UTC)}
    return connection.execute(MARKS[connection.dialect.name], row).first() is not None


def purge(database: Database, retention: timedelta) -> int:
    """Forget what was handled longer ago; return how many events."""
    before = datetime.now(UTC) - retention
    purged = 0
    with database.read() as connection:
        while (count := connection.execute(PURGE, {"before": before}).rowcount) > 0:
            purged += count
    return purged


def is_database_away(error: BaseException) -> bool:
    """Return whether an error is the database's absence, which is no event's fault."""
    if isinstance(error, exc.TimeoutError):  # no connection came free
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    code = getattr(error.orig, "sqlstate", None)
    if code is not None:
        return str(code).startswith(AWAY)
    return isinstance(error, exc.OperationalError | exc.InterfaceError)

"""The inbox: an event has its effect once, and none where its handler fails."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from messages import EFFECTS
from messages import Ping
from messages import record
from sqlalchemy import Connection, exc

from service.chassis.data.connections import Database
from service.chassis.messaging import inbox
from service.chassis.messaging import outbox
from service.chassis.messaging.events import CloudEvent

pytestmark = pytest.mark.usefixtures("connection")


def event(what: str = "", **changes: Any) -> CloudEvent[Ping]:
    attributes = {"specversion": "1.0", "id": "1", "source": "/lab", "type": Ping.TYPE}
    data = Ping(number=7, what=what)
    return CloudEvent[Ping].model_validate({**attributes, **changes, "data": data})


def counted(connection: Connection, table: sa.Table) -> int | None:
    return connection.scalar(sa.select(sa.func.count()).select_from(table))


def test_an_event_that_comes_twice_has_one_effect(store: Database, connection: Connection) -> None:
    assert [inbox.handle_once(store, record, event()) for _ in range(3)] == [True, False, False]
    assert (counted(connection, EFFECTS), counted(connection, outbox.OUTBOX)) == (1, 1)


def test_an_id_is_known_by_its_source(store: Database, connection: Connection) -> None:
    assert inbox.handle_once(store, record, event())
    assert inbox.handle_once(store, record, event(source="/other"))
    assert counted(connection, EFFECTS) == 2


def test_a_handler_that_fails_leaves_neither_effect_nor_mark(
    store: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="poison"):
        inbox.handle_once(store, record, event("poison"))
    tables = (EFFECTS, inbox.INBOX, outbox.OUTBOX)
    assert [counted(connection, table) for table in tables] == [0, 0, 0]
    monkeypatch.setenv("ANTIDOTE", "yes")
    assert inbox.handle_once(store, record, event("poison"))
    assert counted(connection, EFFECTS) == 1


def test_what_was_handled_long_ago_is_forgotten(
    store: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_PURGED", 2)
    old = datetime.now(UTC) - timedelta(days=8)
    rows = [{"source": "/lab", "event_id": str(number), "handled": old} for number in range(2500)]
    connection.execute(sa.insert(inbox.INBOX), rows)
    assert inbox.mark(connection, event(id="new"))
    assert inbox.purge(store, timedelta(days=7)) == 2500
    assert connection.scalars(sa.select(inbox.INBOX.c.event_id)).all() == ["new"]


def failed(origin: Exception, kind: type[exc.DBAPIError] = exc.OperationalError) -> Exception:
    return kind("SELECT 1", {}, origin)


@pytest.mark.parametrize(
    ("error", "is_away"),
    [
        (failed(psycopg.OperationalError("connection refused")), True),
        (failed(psycopg.errors.AdminShutdown()), True),
        (failed(psycopg.errors.CannotConnectNow()), True),
        (failed(psycopg.errors.TooManyConnections()), True),
        (failed(psycopg.errors.ReadOnlySqlTransaction(), exc.InternalError), True),
        (exc.TimeoutError("no connection came free"), True),
        # What the event itself does wrong must not be tried for ever.
        (failed(psycopg.errors.QueryCanceled()), False),
        (failed(psycopg.errors.LockNotAvailable()), False),
        (failed(psycopg.errors.DeadlockDetected()), False),
        (failed(psycopg.errors.UniqueViolation(), exc.IntegrityError), False),
        (failed(psycopg.DataError("a NUL"), exc.DataError), False),
        (ValueError("poison"), False),
        (OSError("another server"), False),
    ],
)
def test_the_databases_absence_is_told_from_an_events_fault(
    error: Exception, is_away: bool
) -> None:
    assert inbox.is_database_away(error) is is_away

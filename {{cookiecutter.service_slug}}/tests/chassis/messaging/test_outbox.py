"""The outbox: an event is stored with the change that it tells of, or not at all."""

from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
import sqlalchemy as sa
from messages import Ping
from messages import Pong
from sqlalchemy import Connection
from support import SAMPLED
from support import TRACE
from support import wait_until

from database import only_postgres
from service.chassis.data.connections import Database
from service.chassis.http.application import Application
from service.chassis.messaging import outbox
from service.chassis.messaging.events import MAX_SIZE
from service.chassis.project import PROJECT

pytestmark = pytest.mark.usefixtures("connection")


def stored(connection: Connection) -> list[outbox.Row]:
    columns = [outbox.OUTBOX.c[name] for name in outbox.Row._fields]
    select = sa.select(*columns).order_by(outbox.OUTBOX.c.id)
    return [outbox.Row(*row) for row in connection.execute(select)]


def test_an_event_is_stored_in_the_envelope_of_cloudevents(store: Database) -> None:
    with store.transaction() as connection:
        event_id = outbox.publish(connection, Ping(number=7), key="a")
        (row,) = stored(connection)
    assert (row.event_id, row.type, row.key) == (event_id, "lab.ping", "a")
    written = orjson.loads(row.body)
    when = datetime.fromisoformat(written.pop("time"))
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert UUID(event_id).version == 4
    assert written == {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/{PROJECT.name}",
        "type": "lab.ping",
        "subject": "a",
        "datacontenttype": "application/json",
        "data": {"number": 7, "what": ""},
    }


def test_an_event_of_a_transaction_that_fails_is_none(
    store: Database, connection: Connection
) -> None:
    def fail() -> None:
        with store.transaction() as own:
            outbox.publish(own, Ping(number=7), key="a")
            assert len(stored(own)) == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stored(connection) == []


def test_outside_a_transaction_nothing_is_published(connection: Connection) -> None:
    with pytest.raises(RuntimeError, match="publish in a transaction"):
        outbox.publish(connection, Ping(number=7), key="a")
    assert stored(connection) == []


@pytest.mark.parametrize(("what", "key"), [("x" * MAX_SIZE, "a"), ("", ""), ("", "x" * 256)])
def test_what_no_receiver_would_take_is_not_published(store: Database, what: str, key: str) -> None:
    with store.transaction() as connection, pytest.raises(ValueError, match=r"at most|validat"):
        outbox.publish(connection, Ping(number=7, what=what), key)


def test_an_event_continues_the_trace_of_its_request(app: Application) -> None:
    @app.post("/ping")
    def ping() -> str:
        with app.extensions["database"].transaction() as connection:
            return outbox.publish(connection, Ping(number=7), key="a")

    event_id = app.test_client().post("/ping", headers=SAMPLED).text
    with app.extensions["database"].read() as connection:
        (row,) = stored(connection)
    version, trace_id, _, flags = str(row.traceparent).split("-")
    assert (row.event_id, version, trace_id, flags) == (event_id, "00", TRACE, "01")
    assert orjson.loads(row.body)["traceparent"] == row.traceparent


@pytest.mark.parametrize(("size", "kept"), [(200, True), (256, False)])
def test_a_callers_tracestate_is_told_where_every_receiver_takes_it(
    app: Application, size: int, kept: bool
) -> None:
    @app.post("/ping")
    def ping() -> str:
        with app.extensions["database"].transaction() as connection:
            return outbox.publish(connection, Ping(number=7), key="a")

    state = f"a={'x' * size},b={'y' * size}"
    answer = app.test_client().post("/ping", headers={**SAMPLED, "tracestate": state})
    assert answer.status_code == 200
    with app.extensions["database"].read() as connection:
        (row,) = stored(connection)
    assert orjson.loads(row.body).get("tracestate") == (state if kept else None)


def test_the_backlog_counts_and_dates_what_waits(store: Database) -> None:
    with store.transaction() as connection:
        assert outbox.backlog(connection) == (0, 0.0)
        for number in range(3):
            outbox.publish(connection, Ping(number=number), key="a")
    with store.read() as connection:
        wait_until(lambda: outbox.backlog(connection).age > 0.1)
        assert outbox.backlog(connection).events == 3


def publish(store: Database, *keys: str) -> None:
    with store.transaction() as connection:
        for number, key in enumerate(keys):
            outbox.publish(connection, Ping(number=number), key)


@only_postgres
def test_a_key_is_one_relays_until_its_transaction_ends(store: Database) -> None:
    publish(store, "a", "b", "a")
    with store.transaction() as first, store.transaction() as second:
        assert [row.key for row in outbox.take(first, 1)] == ["a"]
        # Its second event must not overtake the first, though nobody has taken it.
        assert [row.key for row in outbox.take(second, 10)] == ["b"]
    with store.transaction() as third:
        assert [row.key for row in outbox.take(third, 10)] == ["a", "b", "a"]


@only_postgres
def test_what_another_relay_has_sent_is_not_taken_again(store: Database) -> None:
    publish(store, "a", "a")
    with store.transaction() as first:
        rows = outbox.take(first, 10)
        outbox.remove(first, [row.id for row in rows])
    with store.transaction() as second:
        assert outbox.take(second, 10) == []


@only_postgres
def test_a_type_that_is_held_does_not_hold_up_others(store: Database) -> None:
    publish(store, "a")
    with store.transaction() as connection:
        outbox.publish(connection, Pong(number=1), "a")
        taken = outbox.take(connection, 1, held=[Ping.TYPE])
    assert [row.type for row in taken] == [Pong.TYPE]

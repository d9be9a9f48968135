"""The lab's events, their effects in a table, and workers that send and handle them.

Tests of the workers need RabbitMQ and PostgreSQL: `make test-messaging` runs them.
"""

import asyncio
import concurrent.futures
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
import sqlalchemy as sa
from aio_pika.abc import AbstractChannel
from opentelemetry import trace
from sqlalchemy import Connection

from service import workers
from service.chassis.data.connections import Database
from service.chassis.messaging import outbox
from service.chassis.messaging import topology
from service.chassis.messaging.events import CloudEvent, Event, RefusedError
from service.chassis.messaging.registry import Registry
from service.chassis.messaging.settings import MessagingSettings
from service.chassis.telemetry.spans import ids_of
from service.settings import Settings

T = TypeVar("T")

BROKER = os.environ.get("TEST_BROKER_URL", "")
only_broker = pytest.mark.skipif(not BROKER, reason="needs RabbitMQ; make test-messaging runs it")

# Values of BROKER_URL that are refused at the start.
WRONG_BROKER_URLS = [
    "http://u:hunter2@h",
    "amqp://",
    "amqp:///vhost",
    "hunter2",
    "amqp://u:hunter2@h@h",
    "amqp://u:hun/ter2@h",
    "amqp://u:hunter2@h:0",
    "amqp://u:hunter2@h:99999",
    "amqp://u:hunter2@h:port",
    "amqp://u:hunter2@a,b",
    "amqp://u:hunter2@h/a/b",
    "amqp://u:hunter2@h/#x",
    "amqp://u:hunter2@h?heartbeat=1",
    "amqp://u:hunter2@h?cafile=/dev/null",
    "amqps://u:hunter2@h?cafile=/none/there",
    "amqps://u:hunter2@h?no_verify_ssl=1",
]

metadata = sa.MetaData()
EFFECTS = sa.Table(
    "lab_effects",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("trace_id", sa.Text),
)


class UnspeakableError(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


RAISED: dict[str, BaseException] = {
    "hopeless": RefusedError("nobody can"),
    "surrogate": RefusedError("bad \ud800"),
    "cancelled": concurrent.futures.CancelledError(),
    "cancelled task": asyncio.CancelledError(),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator": GeneratorExit(),
    "iterator": StopIteration(),
    "unspeakable": UnspeakableError(),
}


class Ping(Event):
    """Somebody has pinged."""

    TYPE = "lab.ping"

    number: int
    what: str = ""  # poison, slow, or one of RAISED


class Pong(Event):
    """A ping was answered."""

    TYPE = "lab.pong"

    number: int


class Unwanted(Event):
    """No queue is bound to it."""

    TYPE = "lab.unwanted"


def record(connection: Connection, event: CloudEvent[Ping]) -> None:
    """Store an effect, and answer."""
    effect = {"event_id": event.id, "key": event.key, "number": event.data.number}
    ids = ids_of(trace.get_current_span())
    connection.execute(sa.insert(EFFECTS), effect | {"trace_id": ids.get("trace_id")})
    if event.data.what == "poison" and "ANTIDOTE" not in os.environ:
        raise ValueError("poison")
    if event.data.what in RAISED:
        raise RAISED[event.data.what]
    if event.data.what == "slow":
        time.sleep(1)
    outbox.publish(connection, Pong(number=event.data.number), event.key)


def hear(connection: Connection, event: CloudEvent[Pong]) -> None:
    """Do nothing."""


def make_registry() -> Registry:
    """Return the lab's events."""
    registry = Registry()
    for event in (Ping, Pong, Unwanted):
        registry.publish(event)
    registry.handle(record)
    registry.handle(hear)
    return registry


@pytest.fixture
def store() -> Iterator[Database]:
    """The database of the tests, for several transactions at once, with the table of effects."""
    database = Database(Settings.load())
    metadata.drop_all(database.engine)
    metadata.create_all(database.engine)
    yield database
    metadata.drop_all(database.engine)
    database.engine.dispose()


def on_channel(act: Callable[[AbstractChannel], Awaitable[T]]) -> T:
    """Return what `act` returns for a channel to the broker."""

    async def connected() -> T:
        settings = MessagingSettings.model_validate({"broker_url": BROKER})
        async with await topology.connect(settings, "tests") as connection:
            return await act(await topology.open_channel(connection))

    return asyncio.run(connected())


def count(queue: str) -> int:
    """Return how many messages wait in a queue."""
    return on_channel(lambda channel: topology.count_messages(channel, queue))


def main(command: str) -> int:
    """Run a worker with the lab's events."""
    workers.make_registry = make_registry
    return workers.COMMANDS[command](Settings.load())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Events that keep a ledger, on a baked service's chassis: commands write, relay and consume.

The service's interpreter runs it. `write` commits COUNT entries; PAUSE is the longest time, in
seconds, for which a window is held open; BYPASS names the part that is left out; RELEASE says
which schema the event has, and SENDER whose event it is.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aio_pika
import sqlalchemy as sa

from service import workers
from service.chassis.data.connections import Database
from service.chassis.messaging import consumer
from service.chassis.messaging import inbox
from service.chassis.messaging import outbox
from service.chassis.messaging import relay
from service.chassis.messaging import topology
from service.chassis.messaging.events import CONTENT_TYPE
from service.chassis.messaging.events import Attributes
from service.chassis.messaging.events import CloudEvent
from service.chassis.messaging.events import Event
from service.chassis.messaging.registry import Registry
from service.chassis.project import PROJECT
from service.settings import Settings

BYPASS = os.environ.get("BYPASS", "")  # outbox-before, outbox-after, inbox or lanes
COUNT = int(os.environ.get("COUNT", "0"))
KEYS = int(os.environ.get("KEYS", "50"))
KEPT = 0.8  # of the transactions; the others are rolled back
PAUSE = float(os.environ.get("PAUSE", "0"))
RELEASE = os.environ.get("RELEASE", "expanded")
SENDER = os.environ.get("SENDER", PROJECT.name)
WRITERS = 4

# Who counts up holds the key until its transaction ends.
COUNT_UP = sa.text(
    "INSERT INTO accounts VALUES (:key, 1)"
    " ON CONFLICT (key) DO UPDATE SET entries = accounts.entries + 1 RETURNING entries"
)
ENTER = sa.text("INSERT INTO entries VALUES (:event_id, :key, :number, :release)")
COMMITTED = sa.text("SELECT count(*) FROM entries WHERE release = :release")
# Nothing but the inbox keeps it from happening twice.
EFFECT = sa.text(
    "INSERT INTO effects (event_id, key, number, said) VALUES (:event_id, :key, :number, :said)"
)
TAKE_OUT = sa.text("DELETE FROM outbox WHERE event_id = :event_id RETURNING body")


class Old(Event):
    """An entry was made, as the first release says it."""

    TYPE = f"{SENDER}.entry.made"

    number: int
    note: str


class Expanded(Event):
    """The same, between the releases: it has both fields and needs neither."""

    TYPE = f"{SENDER}.entry.made"

    number: int
    note: str | None = None
    colour: str | None = None


class Contracted(Event):
    """The same, when nobody reads the old field any more."""

    TYPE = f"{SENDER}.entry.made"

    number: int
    colour: str | None = None


RELEASES: dict[str, type[Any]] = {"old": Old, "expanded": Expanded, "contracted": Contracted}
Entered: Any = RELEASES[RELEASE]


class RolledBackError(Exception):
    """A transaction that is not to be committed."""


def pause() -> float:
    """Return for how long a window is held open this time."""
    return random.uniform(PAUSE / 2, PAUSE)


def keep(connection: sa.Connection, event: CloudEvent[Entered]) -> None:
    """Handle an entry: append it, and what it says, to the effects."""
    if BYPASS == "lanes":
        time.sleep(pause())
    data = event.data
    effect = {"event_id": event.id, "key": event.subject, "number": data.number}
    connection.execute(EFFECT, effect | {"said": data.model_dump_json(exclude={"number"})})


def init_registry() -> Registry:
    """Return the ledger's events alone."""
    registry = Registry()
    registry.publish(Entered)
    registry.handle(keep)
    return registry


def write(settings: Settings) -> int:
    """Commit entries until there are COUNT of them, whatever happens to the database."""
    database = Database(settings, WRITERS)

    def run(_: int) -> None:
        while (key := f"k{random.randrange(KEYS)}") and not is_full(database):
            try:
                write_one(database, key, random.random() < KEPT)
            except RolledBackError:
                pass
            except sa.exc.DBAPIError:
                time.sleep(0.1)
            time.sleep(pause())

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(run, range(WRITERS)))
    return 0


def is_full(database: Database) -> bool:
    """Return whether all entries are committed, or nobody can tell."""
    try:
        with database.read() as connection:
            return int(connection.scalar(COMMITTED, {"release": RELEASE}) or 0) >= COUNT
    except sa.exc.DBAPIError:
        time.sleep(0.1)
        return False


def write_one(database: Database, key: str, is_kept: bool) -> None:
    """Make an entry and publish its event, in one transaction, unless BYPASS says otherwise."""
    with database.transaction() as connection:
        number = connection.scalar(COUNT_UP, {"key": key})
        said = {"note": "of old", "colour": "red"}
        event_id = outbox.publish(connection, Entered(number=number, **said), key)
        entry = {"event_id": event_id, "key": key, "number": number, "release": RELEASE}
        connection.execute(ENTER, entry)
        if BYPASS.startswith("outbox"):
            body = connection.scalar(TAKE_OUT, {"event_id": event_id})
        if BYPASS == "outbox-before":
            asyncio.run(send(body, event_id))
        if not is_kept:
            raise RolledBackError
    if BYPASS == "outbox-after":
        time.sleep(3 * pause())
        asyncio.run(send(body, event_id))


async def send(body: bytes, event_id: str) -> None:
    """Send an event to the broker at once; raise where it has not confirmed it."""
    async with await topology.connect(Settings.load(), "ledger") as connection:
        channel = await topology.open_channel(connection)
        exchange = await topology.declare_exchange(channel)
        message = aio_pika.Message(body, message_id=event_id, content_type=CONTENT_TYPE)
        await exchange.publish(message, Entered.TYPE)


def hold_windows_open() -> None:
    """Pause between confirmation and deletion, and between commit and acknowledgement."""
    remove = relay.Relay.remove
    handle_once = consumer.Consumer.handle_once

    def remove_late(self: relay.Relay, *arguments: Any) -> None:
        time.sleep(pause())
        remove(self, *arguments)

    async def handle_long(self: consumer.Consumer, *arguments: Any) -> bool:
        is_new = await handle_once(self, *arguments)
        await asyncio.sleep(pause())
        return is_new

    relay.Relay.remove = remove_late  # type: ignore[method-assign]
    consumer.Consumer.handle_once = handle_long  # type: ignore[method-assign]


def bypass() -> None:
    """Leave a part of the consumer out."""
    if BYPASS == "inbox":
        inbox.mark = lambda *_: True
    if BYPASS == "lanes":
        Attributes.key = property(lambda self: self.id)  # type: ignore[assignment]


COMMANDS: dict[str, Callable[[Settings], int]] = {
    "write": write,
    "relay": workers.relay,
    "consume": workers.consume,
}

if __name__ == "__main__":
    workers.make_registry = init_registry
    hold_windows_open()
    bypass()
    sys.exit(COMMANDS[sys.argv[1]](Settings.load()))

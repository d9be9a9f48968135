"""Dead letters: events that could not be handled, with the reason, until somebody replays them.

`python -m service.chassis.messaging.dead_letters list`, or `replay`, all or those with these ids.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from service.chassis.messaging import topology
from service.chassis.messaging.settings import MessagingSettings
from service.chassis.project import PROJECT

REASON = "x-dead-letter-reason"
TIME = "x-dead-letter-time"
MAX_REASON = 500  # characters
CONTEXT = ("traceparent", "tracestate")  # of a sender's headers; others, as CC, would route a copy
TIMEOUT = 5  # seconds for the broker to confirm

Entry = dict[str, Any]


async def park(channel: AbstractChannel, message: AbstractIncomingMessage, reason: str) -> None:
    """Put a message into the dead-letter queue; raise where the broker has not confirmed it."""
    text = reason[:MAX_REASON].encode(errors="replace").decode()  # of lone surrogates
    added = {REASON: text, TIME: int(time.time())}
    await _publish(channel, message, added, topology.DEAD_QUEUE)


async def _publish(
    channel: AbstractChannel, message: AbstractIncomingMessage, added: Entry, queue: str
) -> None:
    kept = {name: message.headers[name] for name in CONTEXT if name in message.headers}
    copy = aio_pika.Message(
        message.body,
        headers=kept | added,
        content_type=message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        type=message.type,
        app_id=message.app_id,
    )
    await channel.default_exchange.publish(copy, queue, mandatory=True, timeout=TIMEOUT)


def describe(message: AbstractIncomingMessage) -> Entry:
    """Return what is known of a dead letter, without its data."""
    headers = message.headers
    # What the broker itself has put there had too many lives.
    deaths: Any = headers.get("x-death") or [{}]
    reason = headers.get(REASON) or deaths[0].get("reason") or "unknown"
    when = headers.get(TIME)
    return {
        "id": message.message_id,
        "type": message.type,
        "reason": str(reason),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(str(when)))) if when else None,
        "traceparent": str(headers.get("traceparent", "")) or None,
        "bytes": len(message.body),
    }


async def visit(
    channel: AbstractChannel, act: Callable[[AbstractIncomingMessage], Awaitable[bool]]
) -> int:
    """Call `act` with each dead letter there is; remove those for which it returns true.

    Return how many. The others stay as they were.
    """
    await topology.declare_queue(channel, ())
    queue = await channel.get_queue(topology.DEAD_QUEUE)
    count = await topology.count_messages(channel, topology.DEAD_QUEUE)
    kept: list[AbstractIncomingMessage] = []
    removed = 0
    while removed + len(kept) < count:
        message = await queue.get(fail=False)
        if message is None:
            break
        if await act(message):
            await message.ack()
            removed += 1
        else:
            kept.append(message)
    for message in kept:
        await message.nack(requeue=True)
    return removed


async def list_all(channel: AbstractChannel) -> list[Entry]:
    """Return a description of each dead letter."""
    entries: list[Entry] = []

    async def note(message: AbstractIncomingMessage) -> bool:
        entries.append(describe(message))
        return False

    await visit(channel, note)
    return entries


async def replay(channel: AbstractChannel, ids: Collection[str] = ()) -> int:
    """Send dead letters, all or those with these ids, to the service's queue; return how many.

    One that is sent twice, because this process dies between, has its effect once all the same.
    """

    async def send(message: AbstractIncomingMessage) -> bool:
        if ids and message.message_id not in ids:
            return False
        await _publish(channel, message, {}, topology.QUEUE)
        return True

    return await visit(channel, send)


async def run(settings: MessagingSettings, command: str, ids: Collection[str]) -> str:
    """Run a command; return what it prints: a line of JSON for each dead letter, or a count."""
    name = f"{PROJECT.name}-dead-letters"
    async with await topology.connect(settings, name) as connection:
        channel = await topology.open_channel(connection)
        if command == "list":
            entries = await list_all(channel)
            return "".join(f"{orjson.dumps(entry).decode()}\n" for entry in entries)
        return f"{await replay(channel, ids)} replayed\n"


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    command, *ids = arguments or [""]
    if command not in ("list", "replay") or (ids and command == "list"):
        sys.stderr.write("usage: python -m service.chassis.messaging.dead_letters list|replay\n")
        return 2
    settings = MessagingSettings.load()
    if settings.broker_url is None:
        sys.stderr.write(
            "configuration: BROKER_URL: dead letters need a broker: amqp://user@host\n"
        )
        return 2
    try:
        told = asyncio.run(run(settings, command, ids))
    except (OSError, AMQPError) as error:
        sys.stderr.write(f"the broker does not answer: {error}\n")
        return 1
    sys.stdout.write(told)
    if not told:
        sys.stderr.write("no dead letters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

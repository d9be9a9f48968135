"""The broker's exchange and queues, declared from here, and the way to them.

Services that share a broker meet at one exchange; a queue has its service's name.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractQueue
from yarl import URL

from service.chassis.messaging.settings import MessagingSettings
from service.chassis.project import PROJECT

EXCHANGE = "events"  # a topic exchange; the routing key is the event's type
QUEUE = f"{PROJECT.name}.events"
DEAD_QUEUE = f"{QUEUE}.dead"
CONNECT_TIMEOUT = 5  # seconds
HEARTBEAT = 5  # seconds: a broker that hangs is noticed after three of them
DELIVERY_LIMIT = 20  # lost connections and processes that one event survives
# Replicated, so that what a broker has confirmed outlives it. One process is active, because a
# key's events would overtake each other in two.
ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD_QUEUE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
DEAD_ARGUMENTS: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": -1}


async def connect(settings: MessagingSettings, name: str) -> AbstractConnection:
    """Connect to the broker, where the connection is seen by this name."""
    secret = settings.broker_url
    url = URL(secret.get_secret_value() if secret else "")
    if settings.broker_password:
        url = url.with_password(settings.broker_password.get_secret_value())
    url = url.update_query(heartbeat=HEARTBEAT)
    properties: Any = {"connection_name": name}
    return await aio_pika.connect(url, timeout=CONNECT_TIMEOUT, client_properties=properties)


async def open_channel(connection: AbstractConnection) -> AbstractChannel:
    """Open a channel on which a publication returns when the broker has it, or raises."""
    return await connection.channel(publisher_confirms=True, on_return_raises=True)


async def declare_exchange(channel: AbstractChannel) -> AbstractExchange:
    """Declare the exchange of all services."""
    return await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)


async def declare_queue(channel: AbstractChannel, types: Iterable[str]) -> AbstractQueue:
    """Declare the service's queues and bind the one to these types of events.

    Raise where a queue of this name has other arguments.
    """
    exchange = await declare_exchange(channel)
    await channel.declare_queue(DEAD_QUEUE, durable=True, arguments=DEAD_ARGUMENTS)
    queue = await channel.declare_queue(QUEUE, durable=True, arguments=ARGUMENTS)
    for type_ in types:
        await queue.bind(exchange, type_)
    return queue


async def count_messages(channel: AbstractChannel, queue: str) -> int:
    """Return how many messages wait in a queue; raise where there is none."""
    declared = await channel.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count or 0


def watch_loss(*closables: Any) -> asyncio.Event:
    """Return an event that is set when one of these connections and channels is closed."""
    lost = asyncio.Event()
    for closable in closables:
        closable.close_callbacks.add(lambda *_: lost.set())
    return lost

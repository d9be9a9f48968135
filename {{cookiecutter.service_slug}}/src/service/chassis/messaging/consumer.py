"""The consumer: gives each event to its handler, in order per key, each with its effect once.

What cannot be handled becomes a dead letter; the database's absence is waited out.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError
from pydantic import ValidationError

from service.chassis.data.connections import Database
from service.chassis.messaging import dead_letters
from service.chassis.messaging import inbox
from service.chassis.messaging import topology
from service.chassis.messaging.consumption import Consumption
from service.chassis.messaging.consumption import tell
from service.chassis.messaging.events import MAX_SIZE, Attributes, CloudEvent, RefusedError
from service.chassis.messaging.registry import Handler
from service.chassis.messaging.registry import Registry
from service.chassis.messaging.settings import MessagingSettings
from service.chassis.messaging.worker import Worker

log = logging.getLogger("service.messaging")

PREFETCH = 10  # events for each that is handled at once
FIRST_PAUSE = 0.2  # seconds after a failed try; each is twice as long as the one before
MAX_PAUSE = 10.0
OBSERVE_INTERVAL = 5.0  # seconds
PURGE_INTERVAL = 60.0


def read(body: bytes, handlers: dict[str, Handler]) -> tuple[CloudEvent[Any], Handler]:
    """Return the event and its handler; raise RefusedError for what this service cannot handle."""
    if len(body) > MAX_SIZE:
        raise RefusedError(f"oversized: {len(body)} bytes")
    try:
        type_ = Attributes.model_validate_json(body).type
    except ValidationError as error:
        raise RefusedError(f"malformed: {_first_fault(error)}") from None
    if type_ not in handlers:
        raise RefusedError(f"unknown type: {type_}")
    handler = handlers[type_]
    try:
        return handler.model.model_validate_json(body), handler
    except ValidationError as error:
        raise RefusedError(f"wrong schema: {_first_fault(error)}") from None


def _first_fault(invalid: ValidationError) -> str:
    error = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, error["loc"])) or "event"
    return f"{where}: {error['msg']}"


def pause_after(failures: int) -> float:
    """Return how many seconds to wait after the last of so many failures."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 30), MAX_PAUSE)


class Consumer:
    """Handles the events of one service."""

    def __init__(
        self,
        worker: Worker,
        database: Database,
        registry: Registry,
        settings: MessagingSettings,
        grace: float,
    ) -> None:
        self.worker = worker
        self.database = database
        self.handlers = registry.handlers
        self.settings = settings
        self.grace = grace  # seconds for handlers that run when the process is to stop
        self.watch = Consumption(worker.telemetry, self.handlers)
        self._threads = ThreadPoolExecutor(settings.consumer_concurrency, "handler")
        worker.readiness.require("database", database.check)
        worker.repeat(PURGE_INTERVAL, self.purge)

    def purge(self) -> None:
        """Forget events that were handled long ago."""
        inbox.purge(self.database, timedelta(days=self.settings.inbox_retention))

    async def handle_once(self, event: CloudEvent[Any], handler: Handler) -> bool | BaseException:
        """Handle an event in a thread; return whether that was new, or what was raised."""
        work = partial(self._try_once, event, handler)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, work)

    def _try_once(self, event: CloudEvent[Any], handler: Handler) -> bool | BaseException:
        try:
            with self.watch.process(event):
                return inbox.handle_once(self.database, handler.function, event)
        # What ends a thread, a task or an iterator has another meaning outside of the handler.
        except BaseException as error:
            return error

    async def session(self, connection: AbstractConnection) -> None:
        """Handle events until the process is to stop or the connection is lost."""
        channel = await topology.open_channel(connection)
        lost = topology.watch_loss(connection, channel)
        await channel.set_qos(prefetch_count=PREFETCH * self.settings.consumer_concurrency)
        queue = await topology.declare_queue(channel, self.handlers)
        # A queue that is deleted closes nothing.
        inner = await channel.get_underlay_channel()
        inner.on_consumer_cancel_callbacks.add(lambda _frame: lost.set())
        deliveries = Deliveries(self, channel, lost)
        await queue.consume(deliveries.receive)
        self.worker.works()
        observer = asyncio.ensure_future(self._observe(connection, lost))
        ends = [asyncio.ensure_future(one.wait()) for one in (self.worker.stopping, lost)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (*ends, observer):
            task.cancel()
        await deliveries.drain(self.grace)
        # It returns all that has not begun at once and in order, which nacks beside another
        # consumer do not.
        if not channel.is_closed:
            await channel.close()
        if lost.is_set() and not self.worker.stopping.is_set():
            raise ConnectionError("the connection was closed, or the queue deleted")

    async def _observe(self, connection: AbstractConnection, lost: asyncio.Event) -> None:
        """Count what waits in the queues, on a channel of its own."""
        try:
            channel = await connection.channel()
            while True:
                count = topology.count_messages
                self.watch.waiting = await count(channel, topology.QUEUE)
                self.watch.dead = await count(channel, topology.DEAD_QUEUE)
                await asyncio.sleep(OBSERVE_INTERVAL)
        except (OSError, AMQPError, RuntimeError):  # a queue is gone: it has to be declared again
            lost.set()


class Deliveries:
    """The events that one channel has delivered and that are not settled yet."""

    def __init__(self, consumer: Consumer, channel: AbstractChannel, lost: asyncio.Event) -> None:
        self._consumer = consumer
        self._channel = channel
        self._lost = lost
        self._watch = consumer.watch
        self._is_ending = asyncio.Event()
        self._slots = asyncio.Semaphore(consumer.settings.consumer_concurrency)
        self._lanes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    async def receive(self, message: AbstractIncomingMessage) -> None:
        """Begin with a message; tasks get their lane in the order in which they are made."""
        task = asyncio.ensure_future(self._take(message))
        self._tasks.add(task)
        task.add_done_callback(self._end)

    async def drain(self, grace: float) -> None:
        """Let handlers that run end within the grace; begin with nothing else."""
        self._is_ending.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Let the broker deliver a message again that met a fault of ours; none stays unsettled."""
        self._tasks.discard(task)
        fault = asyncio.CancelledError() if task.cancelled() else task.exception()
        if fault:
            log.error("a message could not be settled", exc_info=fault)
            self._lost.set()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._watch.begin(message)
        try:
            event, handler = read(message.body, self._consumer.handlers)
        except RefusedError as error:
            await self._settle(message, "dead_letter", str(error))
            return
        lane = self._lanes.setdefault(event.key, asyncio.Lock())
        with self._watch.pending(event):
            async with lane:
                outcome, reason = await self._handle(event, handler)
                if outcome:
                    await self._settle(message, outcome, reason, event.type)

    async def _handle(self, event: CloudEvent[Any], handler: Handler) -> tuple[str, str]:
        """Try until it is done or the tries are used up; return the outcome and the reason.

        The outcome is empty where the process or the connection ends first.
        """
        tries = 0
        absences = 0
        while True:
            async with self._slots:
                if self._is_ending.is_set():
                    return "", ""
                result = await self._consumer.handle_once(event, handler)
            if isinstance(result, bool):
                return ("done" if result else "duplicate"), ""
            if isinstance(result, RefusedError):
                return "dead_letter", f"refused: {result}"
            if inbox.is_database_away(result):
                absences += 1
                self._watch.retry("database")
            else:
                tries += 1
                absences = 0
                if tries >= self._consumer.settings.consumer_tries:
                    return "dead_letter", f"failed {tries} times: {tell(result)}"
                self._watch.retry("handler")
            await self._wait(pause_after(tries + absences))

    async def _settle(
        self, message: AbstractIncomingMessage, outcome: str, reason: str, type_: str = ""
    ) -> None:
        """Tell the broker that it can forget the message."""
        try:
            if outcome == "dead_letter":
                await dead_letters.park(self._channel, message, reason)
            await message.ack()
        except (OSError, AMQPError, RuntimeError) as error:
            # It comes again, and the inbox knows it.
            log.warning("event %s could not be settled: %r", message.message_id, error)
            self._lost.set()
            return
        self._watch.settle(message, outcome, reason, type_)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._is_ending.wait(), seconds)
        except TimeoutError:
            return

"""The relay: sends what is in the outbox, in order per key, until the broker has confirmed it.

An event is sent again where its confirmation is lost: receivers know it by its id.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange
from aio_pika.exceptions import AMQPError, DeliveryError, PublishError
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from prometheus_client import Counter
from sqlalchemy import Connection

from service.chassis.data.connections import Database
from service.chassis.messaging import outbox
from service.chassis.messaging import topology
from service.chassis.messaging.events import CONTENT_TYPE
from service.chassis.messaging.outbox import TRACE_CONTEXT, Row
from service.chassis.messaging.worker import Worker
from service.chassis.project import PROJECT
from service.chassis.telemetry import metrics

log = logging.getLogger("service.messaging")

BATCH = 200  # events of one transaction
POLL_INTERVAL = 0.1  # seconds; NOTIFY would make all writers wait for each other
MAX_DOUBLINGS = 5  # of that interval, while a full queue takes nothing
PUBLISH_TIMEOUT = 5.0  # seconds for a batch; a broker without memory or disk does not answer
HOLD = 5.0  # seconds until an event that no queue wants is tried again
OBSERVE_INTERVAL = 5.0  # seconds


class Batch:
    """Events of one transaction: which of them the broker has, and what kept it from others."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.sent: list[int] = []
        self.is_refused = False
        self.error: Exception | None = None


class Relay:
    """Sends the events of one database."""

    def __init__(self, worker: Worker, database: Database, types: Iterable[str] = ()) -> None:
        self._worker = worker
        self._database = database
        self._types = frozenset(types)
        self._held: dict[str, float] = {}  # types that no queue wants, and until when
        self._backlog = outbox.Backlog(0, 0.0)
        registry = worker.telemetry.registry
        name = "messaging_client_sent_messages"
        help_text = "Events by what became of them: sent, unroutable, refused."
        self._counter = Counter(name, help_text, ("event_type", "outcome"), registry=registry)
        name = "messaging_outbox_events"
        metrics.show(name, "Events in the outbox.", registry, lambda: self._backlog.events)
        name = "messaging_outbox_age_seconds"
        metrics.show(name, "Age of the oldest of them.", registry, lambda: self._backlog.age)
        worker.readiness.require("database", database.check)
        worker.repeat(OBSERVE_INTERVAL, self.observe)

    def observe(self) -> None:
        """Read the gauges of the outbox."""
        with self._database.read() as connection:
            self._backlog = outbox.backlog(connection)

    async def session(self, connection: AbstractConnection) -> None:
        """Send events until the process is to stop or the connection is lost."""
        worker = self._worker
        channel = await topology.open_channel(connection)
        lost = topology.watch_loss(connection, channel)
        exchange = await topology.declare_exchange(channel)
        loop = asyncio.get_running_loop()
        refusals = 0
        while not worker.stopping.is_set():
            batch = await asyncio.to_thread(self.move_batch, exchange, loop)
            if batch.error:
                raise batch.error
            if lost.is_set():
                raise ConnectionError("the connection was closed")
            worker.works()
            refusals = refusals + 1 if batch.is_refused and not batch.sent else 0
            if batch.is_refused or not batch.sent:
                await worker.wait(POLL_INTERVAL * 2 ** min(refusals, MAX_DOUBLINGS))

    def move_batch(self, exchange: AbstractExchange, loop: asyncio.AbstractEventLoop) -> Batch:
        """Send the oldest events and delete those that the broker has; call it in a thread."""
        now = time.monotonic()
        self._held = {type_: until for type_, until in self._held.items() if until > now}
        with self._database.transaction() as connection:
            batch = Batch(outbox.take(connection, BATCH, list(self._held)))
            if batch.rows:
                asyncio.run_coroutine_threadsafe(self.publish(batch, exchange), loop).result()
                self.remove(connection, batch)
        return batch

    def remove(self, connection: Connection, batch: Batch) -> None:
        """Delete what was sent."""
        outbox.remove(connection, batch.sent)

    async def publish(self, batch: Batch, exchange: AbstractExchange) -> None:
        """Send a batch: each key's events one after the other, the keys beside each other."""
        by_key = attrgetter("key")
        rows = sorted(batch.rows, key=by_key)  # which keeps the order within a key
        chains = [
            asyncio.ensure_future(self._publish_key(batch, exchange, list(group)))
            for _, group in groupby(rows, by_key)
        ]
        _, late = await asyncio.wait(chains, timeout=PUBLISH_TIMEOUT)
        for chain in late:
            chain.cancel()
            batch.error = TimeoutError(f"the broker took nothing for {PUBLISH_TIMEOUT} s")

    async def _publish_key(self, batch: Batch, exchange: AbstractExchange, rows: list[Row]) -> None:
        for row in rows:
            if row.type in self._held:
                continue
            try:
                await self._publish_row(exchange, row)
            except PublishError:
                self._hold(row)
            except DeliveryError:
                self._count(row, "refused")
                batch.is_refused = True
                return
            except (OSError, AMQPError, RuntimeError) as error:
                batch.error = error
                return
            else:
                self._count(row, "sent")
                batch.sent.append(row.id)

    async def _publish_row(self, exchange: AbstractExchange, row: Row) -> None:
        """Send one event, in a span that continues the trace of who published it."""
        carrier = {"traceparent": row.traceparent} if row.traceparent else {}
        attributes = {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
            "messaging.destination.name": exchange.name,
            "messaging.rabbitmq.destination.routing_key": row.type,
            "messaging.message.id": row.event_id,
        }
        context = TRACE_CONTEXT.extract(carrier, Context())
        tracer = self._worker.telemetry.tracer
        span = tracer.start_span(f"publish {exchange.name}", context, SpanKind.PRODUCER, attributes)
        headers: dict[str, str] = {}
        TRACE_CONTEXT.inject(headers, set_span_in_context(span, Context()))
        message = aio_pika.Message(
            row.body,
            headers=dict(headers),
            content_type=CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=row.event_id,
            type=row.type,
            app_id=PROJECT.name,
        )
        try:
            await exchange.publish(message, row.type, mandatory=True)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    def _hold(self, row: Row) -> None:
        """Keep the events of a type that no queue wants, and let others pass."""
        if row.type not in self._held:
            log.warning("no queue wants events of the type %s: they stay in the outbox", row.type)
        self._held[row.type] = time.monotonic() + HOLD
        self._count(row, "unroutable")

    def _count(self, row: Row, outcome: str) -> None:
        known = row.type if row.type in self._types else "_OTHER"
        self._counter.labels(known, outcome).inc()

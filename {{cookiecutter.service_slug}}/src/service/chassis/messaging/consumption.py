"""What is recorded of the events that a consumer handles: metrics, a span for each try, a line."""

import logging
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from aio_pika.abc import AbstractIncomingMessage
from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from service.chassis.messaging import inbox
from service.chassis.messaging import topology
from service.chassis.messaging.events import Attributes, RefusedError
from service.chassis.messaging.outbox import TRACE_CONTEXT
from service.chassis.telemetry import Fields
from service.chassis.telemetry import Telemetry
from service.chassis.telemetry import metrics

log = logging.getLogger("service.messaging")

# Of OpenTelemetry's conventions for the duration of a database's and a server's work, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SYSTEM: Fields = {
    "messaging.system": "rabbitmq",
    "messaging.operation.type": "process",
    "messaging.operation.name": "process",
    "messaging.destination.name": topology.QUEUE,
}


def tell(error: BaseException) -> str:
    """Name an error and its text, also where that cannot be made."""
    return "".join(traceback.format_exception_only(error)).strip()


class Consumption:
    """Records what one consumer does; `types` are those that it knows."""

    def __init__(self, telemetry: Telemetry, types: Iterable[str]) -> None:
        self.waiting = 0  # messages in the queue
        self.dead = 0  # messages in the dead-letter queue
        self._telemetry = telemetry
        self._types = frozenset(types)
        self._pending: dict[object, datetime] = {}
        registry = telemetry.registry
        name = "messaging_client_consumed_messages"
        help_text = "Events by what became of them: done, duplicate, dead_letter."
        self._consumed = Counter(name, help_text, ("event_type", "outcome"), registry=registry)
        name = "messaging_process_duration_seconds"
        help_text = "Time of a try to handle an event."
        labels = ("event_type",)
        self._duration = Histogram(name, help_text, labels, buckets=BUCKETS, registry=registry)
        name = "messaging_redeliveries"
        help_text = "Messages that were delivered before."
        self._redeliveries = Counter(name, help_text, registry=registry)
        name = "messaging_retries"
        help_text = "Tries that failed and were repeated, by cause: handler, database."
        self._retries = Counter(name, help_text, ("cause",), registry=registry)
        name = "messaging_queue_messages"
        metrics.show(name, "Messages in the queue.", registry, lambda: self.waiting)
        name = "messaging_dead_letters"
        metrics.show(name, "Messages in the dead-letter queue.", registry, lambda: self.dead)
        name = "messaging_lag_seconds"
        help_text = "Age of the oldest event that was delivered and is not settled."
        metrics.show(name, help_text, registry, self._lag)

    def begin(self, message: AbstractIncomingMessage) -> None:
        """Count a delivery, and let the task's lines and spans continue the sender's trace."""
        if message.redelivered:
            self._redeliveries.inc()
        carrier = {name: str(value) for name, value in message.headers.items()}
        attach(TRACE_CONTEXT.extract(carrier, Context()))

    @contextmanager
    def pending(self, event: Attributes) -> Iterator[None]:
        """Show an event as delivered and not settled."""
        if not trace.get_current_span().get_span_context().is_valid and event.traceparent:
            attach(TRACE_CONTEXT.extract({"traceparent": event.traceparent}, Context()))
        key = object()
        self._pending[key] = event.time or datetime.now(UTC)
        try:
            yield
        finally:
            del self._pending[key]

    @contextmanager
    def process(self, event: Attributes) -> Iterator[None]:
        """Time a try to handle an event, and make it a span; log its error and raise it."""
        ids = {"messaging.message.id": event.id, "cloudevents.event_type": event.type}
        tracer = self._telemetry.tracer
        span = tracer.start_span(f"process {topology.QUEUE}", None, SpanKind.CONSUMER, SYSTEM | ids)
        started = time.perf_counter()
        with trace.use_span(span, end_on_exit=True):
            try:
                yield
            except RefusedError:  # which is told when it is settled
                raise
            except BaseException as error:
                is_bug = not inbox.is_database_away(error)
                log.warning("event %s was not handled: %s", event.id, tell(error), exc_info=is_bug)
                raise
            finally:
                self._duration.labels(event.type).observe(time.perf_counter() - started)

    def retry(self, cause: str) -> None:
        """Count a try that is repeated."""
        self._retries.labels(cause).inc()

    def settle(
        self, message: AbstractIncomingMessage, outcome: str, reason: str, type_: str
    ) -> None:
        """Count and log what became of a message."""
        known = type_ if type_ in self._types else "_OTHER"
        self._consumed.labels(known, outcome).inc()
        level = logging.WARNING if reason else logging.INFO
        fields = {"messaging.message.id": message.message_id, "cloudevents.event_type": known}
        log.log(level, "event %s: %s", outcome, f"{known} {reason}".rstrip(), extra=fields)

    def _lag(self) -> float:
        times = list(self._pending.values())
        return max(0.0, (datetime.now(UTC) - min(times)).total_seconds()) if times else 0.0

"""Sends spans as OTLP/JSON from a thread of its own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.util import Finalize
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, Counter

from service.chassis.telemetry import logs
from service.chassis.telemetry import metrics
from service.chassis.telemetry.context import Fields

log = logging.getLogger("service.tracing")

# https://opentelemetry.io/docs/specs/otlp/
KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
ERROR = {"code": 2}
RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
VALUES: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("boolValue", bool),
    int: ("intValue", str),
    float: ("doubleValue", float),
}
MAX_QUEUE_SIZE = 4096  # spans
MAX_EXPORT_BATCH_SIZE = 512  # spans of one message
SCHEDULE_DELAY = 1.0  # seconds between two exports
SHUTDOWN_TIMEOUT = 2.0  # seconds for the last export


class Exporter:
    """Queues spans and sends them; what a collector does not take is counted, and nobody waits."""

    def __init__(
        self,
        endpoint: str,
        headers: dict[str, str],
        resource: Fields,
        timeout: float,
        registry: CollectorRegistry | None = None,
    ) -> None:
        headers = headers | {"Content-Type": "application/json"}
        self._request = Request(endpoint, headers=headers, method="POST")  # noqa: S310 HTTP by its setting
        self._timeout = timeout
        self._head = (
            b'{"resourceSpans":[{"resource":%b,"scopeSpans":[{"scope":{"name":"service"},"spans":['
            % logs.encode({"attributes": _attributes(resource)})
        )
        # Not objects: many that live on make garbage collection slow.
        self._spans: deque[bytes] = deque()
        name, help_text = "trace_spans_dropped", "Spans that the collector did not take."
        self._dropped = Counter(name, help_text, registry=registry)
        name, help_text = "trace_spans_waiting", "Spans that are to be sent."
        metrics.show(name, help_text, registry, lambda: len(self._spans))
        self._wake = threading.Event()
        self._is_shut_down = False
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()
        # `atexit` does not run in a worker process.
        self.shutdown = Finalize(None, self._shutdown, exitpriority=10)

    def add(
        self,
        ids: Mapping[str, str],
        parent_id: str,
        name: str,
        kind: str,
        seconds: float,
        attributes: Fields,
    ) -> None:
        """Queue a span that lasted `seconds` and ends now; an `error.type` says that it failed.

        `kind` is one of `KINDS`.
        """
        if len(self._spans) >= MAX_QUEUE_SIZE:
            self._dropped.inc()
            return
        end = time.time_ns()
        span: Fields = {
            "traceId": ids["trace_id"],
            "spanId": ids["span_id"],
            "parentSpanId": parent_id,
            "name": name,
            "kind": KINDS[kind],
            "startTimeUnixNano": str(end - int(seconds * 1e9)),
            "endTimeUnixNano": str(end),
            "attributes": _attributes(attributes),
            "status": ERROR if "error.type" in attributes else {},
        }
        self._spans.append(logs.encode(span))
        if len(self._spans) == MAX_EXPORT_BATCH_SIZE:
            self._wake.set()

    def _run(self) -> None:
        while not self._is_shut_down:
            self._wake.wait(SCHEDULE_DELAY)
            self._wake.clear()
            while self._spans and self._export():
                pass

    def _export(self) -> bool:
        """Send one batch; return whether the collector took it. What it may take later stays."""
        batch = [self._spans[i] for i in range(min(len(self._spans), MAX_EXPORT_BATCH_SIZE))]
        body = self._head + b",".join(batch) + b"]}]}]}"
        try:
            with urlopen(self._request, body, self._timeout):  # noqa: S310
                self._report("")
        except Exception as error:  # the thread must outlive whatever a collector does
            self._report(repr(error))
            if isinstance(error, HTTPError) and error.code not in RETRYABLE_STATUSES:
                self._dropped.inc(len(batch))
                self._remove(len(batch))
            return False
        self._remove(len(batch))
        return True

    def _remove(self, count: int) -> None:
        for _ in range(count):
            self._spans.popleft()

    def _report(self, failure: str) -> None:
        """Log once that a failure has begun or ended."""
        if failure != self._failure:
            what = f"no spans: {failure}" if failure else "spans again"
            log.warning("the collector takes %s", what)
        self._failure = failure

    def _shutdown(self) -> None:
        self._is_shut_down = True
        self._wake.set()
        self._thread.join(SHUTDOWN_TIMEOUT)
        if self._spans:
            log.warning("%d spans were not sent before the end", len(self._spans))


def _attributes(fields: Fields) -> list[Fields]:
    return [{"key": name, "value": _value(value)} for name, value in fields.items()]


def _value(value: object) -> Fields:
    kind, encode = VALUES.get(type(value), ("stringValue", str))
    return {kind: encode(value)}

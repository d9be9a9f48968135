"""Sends spans as OTLP/JSON from a thread of its own."""

import logging
import math
import threading
from collections import deque
from collections.abc import Mapping
from itertools import groupby
from multiprocessing.util import Finalize
from operator import itemgetter
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value
from prometheus_client import CollectorRegistry, Counter

from service.chassis.project import PROJECT
from service.chassis.telemetry import Fields
from service.chassis.telemetry import logs
from service.chassis.telemetry import metrics
from service.chassis.telemetry.settings import TelemetrySettings, parse_key_values
from service.chassis.telemetry.spans import Span

log = logging.getLogger("service.tracing")

# https://opentelemetry.io/docs/specs/otlp/
RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})
MAX_QUEUE_SIZE = 4096  # spans
MAX_EXPORT_BATCH_SIZE = 512  # spans of one message
SCHEDULE_DELAY = 1.0  # seconds between two exports
SHUTDOWN_TIMEOUT = 2.0  # seconds for the last export


class Exporter:
    """Queues spans and sends them; what a collector does not take is counted, and nobody waits."""

    def __init__(
        self, endpoint: str, settings: TelemetrySettings, registry: CollectorRegistry | None
    ) -> None:
        secret = settings.otel_exporter_otlp_headers
        headers = parse_key_values(secret.get_secret_value() if secret else "")
        headers["Content-Type"] = "application/json"
        # Its setting is an HTTP address.
        self._request = Request(endpoint, headers=headers, method="POST")  # noqa: S310 only http(s)
        self._timeout = settings.otel_exporter_otlp_timeout / 1000
        self._resource = logs.encode({"attributes": _attributes(_resource(settings))})
        # Scope and span, encoded: many objects that live on make garbage collection slow.
        self._spans: deque[tuple[bytes, bytes]] = deque()
        help_text = "Spans that the collector did not take."
        self._dropped = Counter("trace_spans_dropped", help_text, registry=registry)
        help_text = "Spans that are to be sent."
        metrics.show("trace_spans_waiting", help_text, registry, lambda: len(self._spans))
        self._wake = threading.Event()
        self._is_shut_down = False
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()
        # `atexit` does not run in a worker process.
        self.shutdown = Finalize(None, self._shutdown, exitpriority=10)

    def add(self, span: Span) -> None:
        """Queue a span that has ended."""
        if len(self._spans) >= MAX_QUEUE_SIZE:
            self._dropped.inc()
            return
        try:
            self._spans.append((logs.encode(span.scope), logs.encode(_encode(span))))
        except Exception:  # whatever a view has set must not fail its request
            self._dropped.inc()
            log.exception("the span %r cannot be encoded", span.name)
            return
        if len(self._spans) == MAX_EXPORT_BATCH_SIZE:
            self._wake.set()

    def _run(self) -> None:
        # Sending is no span, whatever library is instrumented.
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        is_last = False
        while not is_last:
            self._wake.wait(SCHEDULE_DELAY)
            self._wake.clear()
            is_last = self._is_shut_down  # read before the spans: all that came before it are sent
            while self._spans and self._export():
                pass

    def _export(self) -> bool:
        """Send one batch; return whether the collector took it. What it may take later stays."""
        batch = [self._spans[i] for i in range(min(len(self._spans), MAX_EXPORT_BATCH_SIZE))]
        scopes = [
            b'{"scope":%b,"spans":[%b]}' % (scope, b",".join(span for _, span in spans))
            for scope, spans in groupby(sorted(batch, key=itemgetter(0)), itemgetter(0))
        ]
        body = b'{"resourceSpans":[{"resource":%b,"scopeSpans":[%b]}]}' % (
            self._resource,
            b",".join(scopes),
        )
        try:
            with urlopen(self._request, body, self._timeout):  # noqa: S310 only http(s)
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


def _resource(settings: TelemetrySettings) -> Fields:
    resource = {
        "service.name": PROJECT.name,
        "service.version": PROJECT.version,
        "service.instance.id": str(uuid4()),
        **parse_key_values(settings.otel_resource_attributes or ""),
    }
    if settings.otel_service_name:
        resource["service.name"] = settings.otel_service_name
    return resource


def _encode(span: Span) -> Fields:
    parent = span.parent
    return {
        "traceId": span.ids["trace_id"],
        "spanId": span.ids["span_id"],
        "parentSpanId": trace.format_span_id(parent.span_id) if parent.is_valid else "",
        "traceState": parent.trace_state.to_header(),
        "name": _text(span.name),
        "kind": span.kind.value + 1,
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes),
        "status": {
            "code": span.status.status_code.value,
            "message": _text(span.status.description or ""),
        },
        "events": [
            {"name": _text(name), "timeUnixNano": str(when), "attributes": _attributes(attributes)}
            for name, when, attributes in span.events
        ],
        "links": [
            {
                "traceId": trace.format_trace_id(link.context.trace_id),
                "spanId": trace.format_span_id(link.context.span_id),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
    }


def _attributes(fields: Mapping[str, Any] | None) -> list[Fields]:
    # A copy: another thread may still set one.
    pairs = list(fields.items()) if fields else ()
    return [{"key": _text(name), "value": _value(value)} for name, value in pairs]


def _value(value: object) -> Fields:
    """Encode a value as the protocol knows it; a collector refuses all spans for a single other."""
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return {"intValue": str(value)}
    if isinstance(value, float) and math.isfinite(value):
        return {"doubleValue": value}
    return {"stringValue": _text(value)}


def _text(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode()

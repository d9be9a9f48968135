"""Spans for OpenTelemetry, sent as OTLP/JSON from a thread of their own; without an endpoint none is made."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.util import Finalize
from random import getrandbits
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request
from urllib.request import urlopen
from uuid import uuid4

from flask import Flask

from service.chassis import logs
from service.chassis import metrics
from service.chassis.configuration import PROJECT, pairs
from service.settings import Settings

log = logging.getLogger("service.tracing")

# https://opentelemetry.io/docs/specs/otlp/: the numbers of kinds and the statuses that are worth another try.
KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
VALUES: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("boolValue", bool),
    int: ("intValue", str),
    float: ("doubleValue", float),
}
AGAIN = frozenset({429, 502, 503, 504})
QUEUE, BATCH = 4096, 512  # spans that wait at most; spans of one message
PAUSE, FLUSH = 1.0, 2.0  # seconds between two sendings, and for the last ones before the end
NOTHING = nullcontext()

Fields = dict[str, Any]
Sampler = Callable[[str, str | None], bool]


def sampler(name: str, ratio: float) -> Sampler:
    """Make what decides, before a span exists, whether a trace is recorded: as its caller did, or a share of all.

    It takes the trace id and the caller's flags, in hexadecimal; None where the trace begins here.
    """
    follows = name.startswith("parentbased_")
    bound = 2**64 * {"always_on": 1, "always_off": 0}.get(name.removeprefix("parentbased_"), ratio)

    def sample(trace_id: str, flags: str | None) -> bool:
        if flags is not None and follows:
            return int(flags, 16) & 1 == 1
        return int(trace_id[16:], 16) < bound

    return sample


class Exporter:
    """Sends spans; what a collector that is down or slow does not take is counted, and nobody waits for it."""

    def __init__(self, endpoint: str, headers: dict[str, str], resource: Fields, timeout: float) -> None:
        headers = headers | {"Content-Type": "application/json"}
        self._request = Request(endpoint, headers=headers, method="POST")  # noqa: S310 the setting is an HTTP address
        self._timeout = timeout
        self._head = (
            b'{"resourceSpans":[{"resource":%b,"scopeSpans":[{"scope":{"name":"service"},"spans":['
            % logs.encode({"attributes": _pairs(resource)})
        )
        self._spans: deque[bytes] = deque()  # not objects: many that live on make garbage collection slow
        self._wake, self._ended, self._trouble = threading.Event(), False, ""
        metrics.show(metrics.SPANS_WAITING, lambda: len(self._spans))
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()
        self.end = Finalize(None, self._end, exitpriority=10)  # `atexit` does not run in a forked worker

    def record(
        self, ids: Mapping[str, str], parent_id: str, name: str, kind: str, seconds: float, attributes: Fields
    ) -> None:
        """Keep a span that took so long and ends now until it is sent; it failed where it has an `error.type`."""
        if len(self._spans) >= QUEUE:
            metrics.SPANS_DROPPED.inc()
            return
        end = time.time_ns()
        span: Fields = {"traceId": ids["trace_id"], "spanId": ids["span_id"], "parentSpanId": parent_id}
        span |= {"name": name, "kind": KINDS[kind], "attributes": _pairs(attributes)}
        span |= {"startTimeUnixNano": str(end - int(seconds * 1e9)), "endTimeUnixNano": str(end)}
        span |= {"status": {"code": 2} if "error.type" in attributes else {}}
        self._spans.append(logs.encode(span))
        if len(self._spans) == BATCH:
            self._wake.set()

    def _run(self) -> None:
        while not self._ended:
            self._wake.wait(PAUSE)
            self._wake.clear()
            while self._spans and self._send([self._spans[i] for i in range(min(len(self._spans), BATCH))]):
                pass

    def _send(self, spans: list[bytes]) -> bool:
        """Whether the collector took the spans; those that it did not refuse either wait for the next time."""
        try:
            with urlopen(self._request, self._head + b",".join(spans) + b"]}]}]}", self._timeout):  # noqa: S310
                self._tell("")
        except Exception as error:  # the thread must outlive whatever a collector does
            self._tell(repr(error))
            if isinstance(error, HTTPError) and error.code not in AGAIN:
                metrics.SPANS_DROPPED.inc(len(spans))
                self._forget(len(spans))
            return False
        self._forget(len(spans))
        return True

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._spans.popleft()

    def _tell(self, trouble: str) -> None:
        """Log once that a trouble has begun or ended."""
        if trouble != self._trouble:
            log.warning("the collector takes %s", f"no spans: {trouble}" if trouble else "spans again")
        self._trouble = trouble

    def _end(self) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join(FLUSH)
        if self._spans:
            log.warning("%d spans were not sent before the end", len(self._spans))


class Span:
    """A step within a request, as a context manager; its `attributes` may be added to until it ends."""

    def __init__(self, exporter: Exporter, parent: Mapping[str, str], name: str, kind: str, attributes: Fields) -> None:
        self._exporter, self._parent_id = exporter, parent["span_id"]
        self._name, self._kind, self.attributes = name, kind, attributes
        self._ids = {**parent, "span_id": new_id()}

    def __enter__(self) -> "Span":
        self._token, self._started = logs.request_ids.set(self._ids), time.perf_counter()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        logs.request_ids.reset(self._token)
        if error:
            self.attributes["error.type"] = error.__qualname__
        seconds = time.perf_counter() - self._started
        self._exporter.record(self._ids, self._parent_id, self._name, self._kind, seconds, self.attributes)


sample = sampler("parentbased_always_off", 0)
exporter: Exporter | None = None


def span(name: str, kind: str = "internal", attributes: Fields | None = None) -> AbstractContextManager[Any]:
    """Make what is done within it a span, a child of the one around it; free where the request is not sampled.

    `kind` is one of `KINDS`; the attributes are named as https://opentelemetry.io/docs/specs/semconv/ says.
    """
    parent = logs.request_ids.get()
    if exporter is None or parent.get("trace_flags") != "01":
        return NOTHING
    return Span(exporter, parent, name, kind, {} if attributes is None else attributes)


def new_id() -> str:
    return f"{getrandbits(64) or 1:016x}"


def _pairs(attributes: Fields) -> list[Fields]:
    return [{"key": name, "value": _value(value)} for name, value in attributes.items()]


def _value(value: object) -> Fields:
    kind, encode = VALUES.get(type(value), ("stringValue", str))
    return {kind: encode(value)}


def init_app(_app: Flask, settings: Settings) -> None:
    global exporter, sample
    base = settings.otel_exporter_otlp_endpoint
    endpoint = settings.otel_exporter_otlp_traces_endpoint or (base and f"{str(base).rstrip('/')}/v1/traces")
    if endpoint is None or settings.otel_sdk_disabled:
        return
    own = {"service.name": PROJECT.name, "service.version": PROJECT.version, "service.instance.id": str(uuid4())}
    resource = own | pairs(settings.otel_resource_attributes or "")
    if settings.otel_service_name:
        resource["service.name"] = settings.otel_service_name
    secret = settings.otel_exporter_otlp_headers
    headers = pairs(secret.get_secret_value() if secret else "")
    sample = sampler(settings.otel_traces_sampler, settings.otel_traces_sampler_arg)
    exporter = Exporter(str(endpoint), headers, resource, settings.otel_exporter_otlp_timeout / 1000)

"""Calls to other services: in time, repeated where that is safe, refused where they are in vain."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack
from urllib.parse import urlencode

from flask import Flask, current_app
from opentelemetry import propagate
from opentelemetry.context import get_value
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from service.chassis.client.failures import BadAnswer, CallFailed
from service.chassis.client.limits import Breaker, Budget
from service.chassis.client.settings import ClientSettings
from service.chassis.deadline import HEADER, time_left, time_limit
from service.chassis.telemetry import tracing
from service.chassis.telemetry.metrics import BUCKETS
from service.chassis.telemetry.spans import REQUEST_ID

if TYPE_CHECKING:
    from service.chassis.client.transport import Reply

log = logging.getLogger("service.client")
T = TypeVar("T")

MAX_RETRIES = 2
BACK_OFF = 0.1  # seconds, at most, before the first retry; twice that before the second
FAIR_TIME = 0.05  # seconds; a failure within less says nothing of the callee
IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
LABELS = ("callee", "http_request_method", "outcome")


class Options(TypedDict, total=False):
    """What else a call may have; `body` is sent as JSON."""

    query: Mapping[str, Any]
    headers: Mapping[str, str]
    body: Any


class Metrics:
    """What Prometheus sees of all calls."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        make = partial(Histogram, labelnames=LABELS, buckets=BUCKETS, registry=registry)
        self.duration = make("http_client_request_duration_seconds", "Time of an attempt.")
        count = partial(Counter, labelnames=LABELS[:1], registry=registry)
        self.retries = count("http_client_retries", "Attempts after a call's first one.")
        show = partial(Gauge, labelnames=LABELS[:1], registry=registry)
        self.active = show("http_client_active_requests", "Attempts under way.")
        self.is_open = show("http_client_breaker_open", "1 while calls are refused.")


# The clients of a process that has no application, and of the threads that inherit its context.
CLIENTS: ContextVar["dict[str, Client]"] = ContextVar("clients")


class Client:
    """Calls one service; all threads of a process share it."""

    def __init__(self, callee: str, settings: ClientSettings, metrics: Metrics) -> None:
        from service.chassis.client.transport import Transport  # urllib3, which only callers need

        option = partial(settings.of, callee)
        self._callee = callee
        self._transport = Transport(callee, option)
        self._timeout: float = option("timeout")
        self._headers = {"Accept": "application/json"}
        if token := option("token"):
            self._headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        self._adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
        self._breaker = Breaker(callee)
        self._budget = Budget()
        self._duration = metrics.duration
        self._active = metrics.active.labels(callee)
        self._retries = metrics.retries.labels(callee)
        metrics.is_open.labels(callee).set_function(lambda: self._breaker.is_open)

    def get(self, path: str, answer: type[T], **options: Unpack[Options]) -> T:
        """Return what is at a path; see `call`."""
        return self.call("GET", path, answer, **options)

    def post(self, path: str, answer: type[T], **options: Unpack[Options]) -> T:
        """Hand something in, more than once only with an Idempotency-Key; see `call`."""
        return self.call("POST", path, answer, **options)

    def call(self, method: str, path: str, answer: type[T], **options: Unpack[Options]) -> T:
        """Return an answer, read strictly but for fields that it has beside the expected; raise."""
        body = self.send(method, path, **options).body
        try:
            read: T = self._adapter(answer).validate_json(body, strict=True, extra="ignore")
        except ValidationError as error:
            reason = f"answered what is no {answer}: {error.error_count()} errors"
            raise BadAnswer(self._callee, reason) from error
        return read

    def send(self, method: str, path: str, **options: Unpack[Options]) -> "Reply":
        """Return the answer, whose status is 2xx, as it came; or raise a CallFailed."""
        headers = self._headers | dict(options.get("headers", {}))
        body = to_json(options["body"]) if "body" in options else None
        if body is not None:
            headers["Content-Type"] = "application/json"
        if "query" in options:
            path += f"?{urlencode(options['query'], doseq=True)}"
        may_repeat = method in IDEMPOTENT or "Idempotency-Key" in map(str.title, headers)
        self._budget.earn()
        retries = 0
        with time_limit(self._timeout):
            while True:
                try:
                    return self._attempt(method, path, headers, body)
                except CallFailed as failure:
                    retries += 1
                    jitter = random.uniform(0, BACK_OFF * retries)  # noqa: S311 no secret
                    pause = max(jitter, failure.pause)
                    may_pass = may_repeat and failure.is_well is False and retries <= MAX_RETRIES
                    if not may_pass or pause >= time_left() or not self._budget.spend():
                        log.warning("%s %s: %s", method, path, failure.description)
                        raise
                self._retries.inc()
                time.sleep(pause)

    def _attempt(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> "Reply":
        """Send a request, if the breaker lets it, as a span; record how it ends."""
        started = time.perf_counter()
        seconds = time_left()
        headers = headers | {HEADER: str(int(seconds * 1000))}
        if request_id := get_value(REQUEST_ID):
            headers["X-Request-ID"] = str(request_id)
        attributes = {"http.request.method": method, "server.address": self._callee}
        turn = -1
        is_well: bool | None = None
        outcome = "error"
        with tracing.span(method, "client", attributes) as span, self._active.track_inprogress():
            try:
                turn = self._breaker.admit(seconds)
                propagate.inject(headers)
                reply = self._transport.exchange(method, path, headers, body)
                is_well = True
                outcome = str(reply.status)
                return reply
            except CallFailed as failure:
                is_well = failure.is_well if seconds >= FAIR_TIME else None
                outcome = failure.outcome
                raise
            finally:
                self._breaker.record(turn, is_well)
                child = self._duration.labels(self._callee, method, outcome)
                child.observe(time.perf_counter() - started)
                if outcome.isdecimal():
                    span.set_attribute("http.response.status_code", int(outcome))


def make_clients(
    settings: ClientSettings, registry: CollectorRegistry | None = None
) -> dict[str, Client]:
    """Return a client for each callee of the settings, to be kept as long as the process."""
    metrics = Metrics(registry)
    return {name: Client(name, settings, metrics) for name in settings.callees()}


def client(callee: str) -> Client:
    """Return the client of a callee: the process's, or else the current application's."""
    own = CLIENTS.get(None)
    clients: dict[str, Client] = current_app.extensions["clients"] if own is None else own
    return clients[callee]


def init_app(app: Flask, settings: ClientSettings, registry: CollectorRegistry | None) -> None:
    """Let the application's views call the services that its settings declare."""
    app.extensions["clients"] = make_clients(settings, registry)


def init_process(settings: ClientSettings, registry: CollectorRegistry | None = None) -> None:
    """Let a process without an application use `client`, such as a consumer or a job."""
    CLIENTS.set(make_clients(settings, registry))

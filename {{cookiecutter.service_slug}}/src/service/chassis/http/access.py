"""The record of each request: its ids, and its log line, metric and span once it is answered."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, set_value
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanKind, StatusCode

from service.chassis.deadline import DEADLINE, HEADER
from service.chassis.lifecycle import Readiness
from service.chassis.telemetry import Fields
from service.chassis.telemetry import Telemetry
from service.chassis.telemetry.spans import REQUEST_ID, ids_of

Headers = list[tuple[str, str]]

log = logging.getLogger("service")

# In the WSGI environment: the template of the matched route, and the body as far as it was read.
ROUTE = "service.route"
BODY = "service.body"
CALLER_WAITS = f"HTTP_{HEADER.upper().replace('-', '_')}"  # milliseconds

WELL_FORMED_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_METHOD = 32  # characters that are recorded
MAX_PATH = 1024


class EnvironGetter(Getter[WSGIEnvironment]):
    """Where OpenTelemetry's propagators find a request's headers."""

    def get(self, carrier: WSGIEnvironment, key: str) -> list[str] | None:
        """Return a header's values."""
        value = carrier.get(f"HTTP_{key.upper().replace('-', '_')}")
        return None if value is None else [value]

    def keys(self, carrier: WSGIEnvironment) -> list[str]:
        """Return all headers' names."""
        names = (name.removeprefix("HTTP_") for name in carrier if name.startswith("HTTP_"))
        return [name.lower().replace("_", "-") for name in names]


GETTER = EnvironGetter()


class Access:
    """Gives every request its ids and records how it was answered."""

    def __init__(self, app: WSGIApplication, readiness: Readiness, telemetry: Telemetry) -> None:
        self._app = app
        self.readiness = readiness
        self.telemetry = telemetry

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        exchange = Exchange(self, environ, start_response)
        try:
            body = self._app(environ, exchange.start_response)
        except BaseException as error:
            exchange.fail(error)
            raise
        if type(body) is list:
            exchange.finish()
            return body
        return Stream(body, exchange.end)


class Stream(ExitStack):
    """A streamed answer; `end` is called as an `__exit__`, once, when it is read or closed."""

    def __init__(self, body: Iterable[bytes], end: Callable[..., None]) -> None:
        super().__init__()
        self._body = body
        self.push(end)
        if hasattr(body, "close"):
            self.callback(body.close)

    def __iter__(self) -> Iterator[bytes]:
        with self:  # a test client does not close it
            yield from self._body


class Exchange:
    """One request and its answer."""

    def __init__(
        self, access: Access, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self._started = time.perf_counter()
        self._access = access
        self._environ = environ
        self._start_response = start_response
        self._status = 0
        self._error = ""
        context = propagate.extract(environ, Context(), GETTER)
        self._span = access.telemetry.tracer.start_span("HTTP", context, SpanKind.SERVER)
        given = environ.get("HTTP_X_REQUEST_ID")
        ids = ids_of(self._span)
        if not given or not WELL_FORMED_ID.fullmatch(given):
            given = ids.get("trace_id") or uuid4().hex
        self._ids = {"request_id": given, **ids}
        context = set_value(REQUEST_ID, given, context)
        if (waits := environ.get(CALLER_WAITS, "")).isdecimal():
            context = set_value(DEADLINE, time.monotonic() + float(waits) / 1000, context)
        self._token = attach(trace.set_span_in_context(self._span, context))

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        """Add the headers that every answer has, and note the status."""
        self._status = int(status[:3])
        headers.append(("X-Request-ID", self._ids["request_id"]))
        headers.append(("X-Content-Type-Options", "nosniff"))
        if self._access.readiness.draining or self._leaves_body():
            headers.append(("Connection", "close"))
        return self._start_response(status, headers)

    def _leaves_body(self) -> bool:
        """Return whether a part of the body was not read, after which the server closes."""
        body = self._environ.get(BODY)
        if body is not None:
            return not body.has_ended
        length = self._environ.get("CONTENT_LENGTH") or "0"
        return length != "0" or "HTTP_TRANSFER_ENCODING" in self._environ

    def fail(self, error: BaseException) -> None:
        """Record a request whose error gets out."""
        self._status = 500
        self._error = type(error).__qualname__
        self.finish()

    def end(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Record a request whose answer was streamed, as far as its error let it."""
        if isinstance(error, Exception):
            self._error = type(error).__qualname__
            log.error("the answer broke off: the client may take it for whole", exc_info=error)
        self.finish()

    def finish(self) -> None:
        """Record the request, which is answered."""
        seconds = time.perf_counter() - self._started
        fields = self._fields()
        if self._span.is_recording():
            self._describe_span(fields)
        for record in self._access.telemetry.recorders:
            try:
                record(self._span, self._ids, fields, seconds)
            except Exception:  # the answer is made
                log.exception("the request could not be recorded by %r", record)
        self._span.end()
        detach(self._token)

    def _fields(self) -> Fields:
        """Return what is recorded, in bounded length and with a bounded number of methods."""
        method = self._environ["REQUEST_METHOD"]
        path = self._environ["PATH_INFO"][:MAX_PATH]
        if not path.isascii():
            path = path.encode("latin-1", "replace").decode("utf-8", "replace")
        fields: Fields = {
            "http.request.method": method if method in METHODS else "_OTHER",
            "url.path": path,
            "http.route": self._environ.get(ROUTE, "none"),
            "http.response.status_code": self._status,
        }
        if method not in METHODS:
            fields["http.request.method_original"] = method[:MAX_METHOD]
        if self._error or self._status >= 500:
            fields["error.type"] = self._error or str(self._status)
        return fields

    def _describe_span(self, fields: Fields) -> None:
        attributes = fields | {
            "url.scheme": self._environ["wsgi.url_scheme"],
            "client.address": self._environ.get("REMOTE_ADDR", ""),
            "user_agent.original": self._environ.get("HTTP_USER_AGENT", "")[:MAX_PATH],
        }
        name = fields["http.request.method"].replace("_OTHER", "HTTP")
        if fields["http.route"] == "none":
            del attributes["http.route"]
        else:
            name += f" {fields['http.route']}"
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if "error.type" in fields:
            self._span.set_status(StatusCode.ERROR)

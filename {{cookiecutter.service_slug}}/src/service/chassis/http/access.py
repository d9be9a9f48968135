"""The record of each request: its ids, and its log line, metric and span once it is answered."""

import logging
import re
import time
from collections.abc import Iterable, Iterator
from random import getrandbits
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from service.chassis.http.application import RULE
from service.chassis.lifecycle import Readiness
from service.chassis.telemetry import context
from service.chassis.telemetry.context import Fields, RequestContext, Telemetry

if TYPE_CHECKING:
    from service.chassis.telemetry.otlp import Exporter

log = logging.getLogger("service")

# https://www.w3.org/TR/trace-context/: a later version may add fields behind the fourth.
TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_METHOD = 32  # characters that are recorded
MAX_PATH = 1024


def parse_traceparent(header: str | None) -> tuple[str, str, str | None]:
    """Return the ids of the trace and of the caller's span, and the caller's flags.

    Without a well-formed header they are a new id, an empty one and None.
    """
    match = TRACEPARENT.fullmatch(header) if header else None
    if match is None or (match[1] == "00" and match[5]):
        return f"{getrandbits(128) or 1:032x}", "", None
    return match[2], match[3], match[4]


class Access:
    """Gives every request its ids and records how it was answered."""

    def __init__(self, app: WSGIApplication, readiness: Readiness, telemetry: Telemetry) -> None:
        self._app = app
        self.readiness = readiness
        self.telemetry = telemetry

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        exchange = Exchange(self, environ, start_response)
        body = self._app(environ, exchange.start_response)
        if type(body) is list:
            exchange.finish()
            return body
        exchange.body = body
        return exchange


class Exchange:
    """One request and its answer; the WSGI iterable of an answer that is streamed."""

    def __init__(
        self, access: Access, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self._started = time.perf_counter()
        self._access = access
        self._environ = environ
        self._start_response = start_response
        self._status = 0
        self._error = ""
        self._is_finished = False
        self.body: Iterable[bytes] = ()
        self._begin()

    def _begin(self) -> None:
        """Take the ids from the request, where they are well formed, or make them."""
        telemetry = self._access.telemetry
        traceparent = self._environ.get("HTTP_TRACEPARENT")
        trace_id, self._parent_id, flags = parse_traceparent(traceparent)
        if telemetry.sample is not None:
            is_sampled = telemetry.sample(trace_id, flags)
        else:
            is_sampled = flags is not None and int(flags, 16) & 1 == 1
        given = self._environ.get("HTTP_X_REQUEST_ID")
        ids = {
            "request_id": given if given and REQUEST_ID.fullmatch(given) else trace_id,
            "trace_id": trace_id,
            "span_id": f"{getrandbits(64) or 1:016x}",
            "trace_flags": "01" if is_sampled else "00",
        }
        self._context = RequestContext(ids, telemetry.exporter if is_sampled else None)
        context.current.set(self._context)

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Any:
        """Add the headers that every answer has, and note the status."""
        self._status = int(status[:3])
        headers.append(("X-Request-ID", self._context.ids["request_id"]))
        headers.append(("X-Content-Type-Options", "nosniff"))
        if self._access.readiness.draining:
            headers.append(("Connection", "close"))
        return self._start_response(status, headers)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.body
        except Exception as error:
            self._error = type(error).__qualname__
            log.exception("the answer broke off: the client may take it for whole")
            raise

    def close(self) -> None:
        """End a streamed answer."""
        if self._is_finished:
            return
        try:
            if hasattr(self.body, "close"):
                self.body.close()
        finally:
            self.finish()

    def finish(self) -> None:
        """Record the request, which is answered."""
        self._is_finished = True
        seconds = time.perf_counter() - self._started
        fields = self._fields()
        if self._context.exporter is not None:
            self._add_span(self._context.exporter, seconds, fields)
        for record in self._access.telemetry.recorders:
            record(self._context, fields, seconds)
        context.current.set(context.NO_REQUEST)

    def _fields(self) -> Fields:
        """Return what is recorded, in bounded length and with a bounded number of methods."""
        method = self._environ["REQUEST_METHOD"]
        path = self._environ["PATH_INFO"][:MAX_PATH]
        if not path.isascii():
            path = path.encode("latin-1", "replace").decode("utf-8", "replace")
        fields: Fields = {
            "http.request.method": method if method in METHODS else "_OTHER",
            "url.path": path,
            "http.route": str(self._environ.get(RULE, "none")),
            "http.response.status_code": self._status,
        }
        if method not in METHODS:
            fields["http.request.method_original"] = method[:MAX_METHOD]
        if self._error or self._status >= 500:
            fields["error.type"] = self._error or str(self._status)
        return fields

    def _add_span(self, exporter: "Exporter", seconds: float, fields: Fields) -> None:
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
        exporter.add(self._context.ids, self._parent_id, name, "server", seconds, attributes)

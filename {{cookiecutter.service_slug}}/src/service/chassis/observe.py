"""One request and its answer as seen from outside: ids, log line, metric and span."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from random import getrandbits
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from service.chassis import logs
from service.chassis import metrics
from service.chassis import tracing

log = logging.getLogger("service")

# https://www.w3.org/TR/trace-context/#traceparent-header: a later version may add fields behind the fourth.
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
LONGEST_PATH = 1024  # characters of a path that a log line holds
COLLECTED = 1_048_576  # bytes: a longer answer is streamed, so that slow readers do not hold it in memory


class Exchange:
    """A request, its ids and the answer being made; the WSGI iterable of a streamed answer."""

    def __init__(
        self, environ: WSGIEnvironment, start_response: StartResponse, done: Callable[[], None] | None = None
    ) -> None:
        self._started, self.environ = time.perf_counter(), environ
        self._server_start, self._done = start_response, done
        self.status, self.code, self.route, self.error = "", 0, "none", ""
        self.headers: list[tuple[str, str]] = []
        parent = environ.get("HTTP_TRACEPARENT")
        match = TRACEPARENT.fullmatch(parent) if parent else None
        if match is None or (match[1] == "00" and match[5]):
            trace_id, self._parent_id, flags = f"{getrandbits(128) or 1:032x}", "", None
        else:
            trace_id, self._parent_id, flags = match[2], match[3], match[4]
        self._sampled = tracing.sample(trace_id, flags)
        given = environ.get("HTTP_X_REQUEST_ID")
        self._ids = {
            "request_id": given if given and REQUEST_ID.fullmatch(given) else trace_id,
            "trace_id": trace_id,
            "span_id": f"{getrandbits(64) or 1:016x}",
            "trace_flags": "01" if self._sampled else "00",
        }
        logs.request_ids.set(self._ids)

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Keep the status and headers until the whole answer is known to be right."""
        self.status, self.code, self.headers = status, int(status[:3]), headers
        # Flask takes its request away when the view's context ends; before, it may be that of a test's client.
        rule = getattr(self.environ.get("werkzeug.request"), "url_rule", None)
        if rule is not None:
            self.route = rule.rule
        return _write

    def send(self, body: Iterable[bytes], last: bool) -> Iterable[bytes]:
        """Give the answer to the server: at once where it is short, else chunk by chunk; `last` on its connection."""
        self.headers += [("X-Request-ID", self._ids["request_id"]), ("X-Content-Type-Options", "nosniff")]
        if last:
            self.headers.append(("Connection", "close"))
        close = getattr(body, "close", None)
        if self._is_short():
            try:
                chunks = list(body)
            finally:
                if close:
                    close()
            self._server_start(self.status, self.headers)
            self._finish()
            return chunks
        self._body, self._close = body, close
        self._server_start(self.status, self.headers)
        return self

    def _is_short(self) -> bool:
        for name, value in self.headers:
            if name.lower() == "content-length":
                return int(value) <= COLLECTED
        return self.environ["REQUEST_METHOD"] == "HEAD" or self.code in (204, 304)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except Exception as error:
            self.error = type(error).__qualname__
            log.exception("the answer broke off: the client may take it for whole")
            raise

    def close(self) -> None:
        try:
            if self._close:
                self._close()
        finally:
            self._finish()

    def _finish(self) -> None:
        if self._done:
            self._done()
            self._done = None  # what a request holds is given back once
        seconds = time.perf_counter() - self._started
        method, status = self.environ["REQUEST_METHOD"][:32], self.code
        path = self.environ["PATH_INFO"][:LONGEST_PATH]
        if not path.isascii():
            path = path.encode("latin-1", "replace").decode("utf-8", "replace")
        fields: dict[str, Any] = {
            "http.request.method": method if method in metrics.METHODS else "_OTHER",
            "url.path": path,
            "http.route": self.route,
            "http.response.status_code": status,
        }
        if method not in metrics.METHODS:
            fields["http.request.method_original"] = method
        if self.error or status >= 500:
            fields["error.type"] = self.error or str(status)
        exemplar = None
        if self._sampled and tracing.exporter:
            self._record(tracing.exporter, seconds, fields)
            exemplar = {"trace_id": self._ids["trace_id"], "span_id": self._ids["span_id"]}
        metrics.observe(fields["http.request.method"], self.route, status, seconds, exemplar)
        fields["http.server.request.duration"] = int(seconds * 1e6) / 1e6
        logs.access(f"{method} {path} {status}", seconds, fields)
        logs.request_ids.set({})

    def _record(self, exporter: tracing.Exporter, seconds: float, fields: dict[str, Any]) -> None:
        attributes = fields | {
            "url.scheme": self.environ["wsgi.url_scheme"],
            "client.address": self.environ.get("REMOTE_ADDR", ""),
            "user_agent.original": self.environ.get("HTTP_USER_AGENT", "")[:LONGEST_PATH],
        }
        name = fields["http.request.method"].replace("_OTHER", "HTTP")
        if self.route == "none":
            del attributes["http.route"]
        else:
            name += f" {self.route}"
        exporter.record(self._ids, self._parent_id, name, "server", seconds, attributes)


def _write(_data: bytes) -> None:
    raise RuntimeError("an application must return its body: write() is not supported")

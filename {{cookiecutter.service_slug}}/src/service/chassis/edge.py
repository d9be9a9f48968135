"""The outermost WSGI layer: probes that always answer, admission, limits of a body, and no error gets past it."""

import io
import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from wsgiref.types import InputStream
from wsgiref.types import StartResponse
from wsgiref.types import WSGIApplication
from wsgiref.types import WSGIEnvironment

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import LengthRequired
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.exceptions import RequestTimeout
from werkzeug.exceptions import ServiceUnavailable

from service.chassis import metrics
from service.chassis import problems
from service.chassis.health import Health
from service.chassis.observe import Exchange
from service.settings import Settings

log = logging.getLogger("service")

PIECE = (
    1024  # bytes: the server's read() returns when it has all it was asked for, so a slow body is read in small pieces
)
RETRY_AFTER = 1  # second


class TimedBody:
    """A request's body that must have arrived by a deadline (seconds of `time.monotonic`)."""

    def __init__(self, body: InputStream, deadline: float) -> None:
        self._body = body
        self._deadline = deadline

    def read(self, size: int = -1) -> bytes:
        """At most one piece, nothing at the end; raise RequestTimeout past the deadline."""
        if time.monotonic() > self._deadline:
            raise RequestTimeout("the request's body took too long")
        return self._body.read(min(size, PIECE) if size >= 0 else PIECE)


class Edge:
    """WSGI application round Flask's; answers with a problem whatever Flask cannot answer."""

    def __init__(self, app: WSGIApplication, settings: Settings) -> None:
        self.health = Health()
        self._app = app
        self._max_body = settings.max_body_size
        self._timeout = settings.request_timeout
        self._slots = deque(range(settings.concurrency))
        self._exempt: dict[str, WSGIApplication] = {
            "/livez": self.health.livez,
            "/readyz": self.health.readyz,
            "/metrics": metrics.scrape,
        }
        # The server puts the process's environment beside the request's headers: HTTP_PROXY would be a header.
        self._foreign = {k: v for k, v in os.environ.items() if k.startswith("HTTP_") or k == "REMOTE_USER"}
        metrics.LIMIT.set(settings.concurrency)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        probe = self._exempt.get(environ["PATH_INFO"])
        if probe is not None:
            return probe(environ, start_response)
        for name, value in self._foreign.items():
            if environ.get(name) == value:
                del environ[name]
        try:
            slot = self._slots.pop()
        except IndexError:
            busy = ServiceUnavailable("too busy: try again", retry_after=RETRY_AFTER)
            return self._refuse(Exchange(environ, _nothing), busy, start_response)
        metrics.ACTIVE.inc()

        def release() -> None:
            self._slots.append(slot)
            metrics.ACTIVE.dec()

        return self._answer(Exchange(environ, release), start_response)

    def _answer(self, exchange: Exchange, start_response: StartResponse) -> Iterable[bytes]:
        try:
            self._limit_body(exchange.environ)
            body = self._app(exchange.environ, exchange.start_response)
            if not 200 <= int(exchange.status[:3]) <= 599:  # the server's process dies of others
                raise ValueError(f"the application answered with status {exchange.status!r}")
            self._add_headers(exchange)
            return exchange.send(body, start_response)
        except HTTPException as refusal:
            return self._refuse(exchange, refusal, start_response)
        except BaseException:  # SystemExit from a view must not end the process
            log.exception("the request failed outside the application")
            return self._refuse(exchange, None, start_response)

    def _refuse(
        self, exchange: Exchange, refusal: HTTPException | None, start_response: StartResponse
    ) -> Iterable[bytes]:
        status, body, headers = problems.outside_flask(refusal, exchange.environ)
        exchange.start_response(status, headers)
        self._add_headers(exchange)
        return exchange.send([body], start_response)

    def _add_headers(self, exchange: Exchange) -> None:
        exchange.headers += [("X-Request-ID", exchange.request_id), ("X-Content-Type-Options", "nosniff")]
        if self.health.draining:
            exchange.headers.append(("Connection", "close"))

    def _limit_body(self, environ: WSGIEnvironment) -> None:
        """Refuse a body that is too large before any work; make the length of a chunked one known."""
        # Says that the server ends a body itself; without it Werkzeug notices one that is cut short.
        environ.pop("wsgi.input_terminated", None)
        if "HTTP_TRANSFER_ENCODING" in environ:
            if not _ends_itself(environ.get("CONTENT_TYPE", "")):
                raise LengthRequired("a chunked body must be JSON or multipart: send Content-Length")
            body = self._read(self._timed(environ))
            environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
            del environ["HTTP_TRANSFER_ENCODING"]
        elif length := environ.get("CONTENT_LENGTH"):
            if int(length) > self._max_body:
                raise RequestEntityTooLarge(f"a body may have {self._max_body} bytes")
            environ["wsgi.input"] = self._timed(environ)

    def _read(self, body: TimedBody) -> bytes:
        read = bytearray()
        while piece := body.read():
            read += piece
            if len(read) > self._max_body:
                raise RequestEntityTooLarge(f"a body may have {self._max_body} bytes")
        return bytes(read)

    def _timed(self, environ: WSGIEnvironment) -> TimedBody:
        return TimedBody(environ["wsgi.input"], time.monotonic() + self._timeout)


def _ends_itself(content_type: str) -> bool:
    """Whether a chunked body that is cut short cannot pass for a whole one: the server does not tell."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("application/json", "multipart/form-data") or media_type.endswith("+json")


def _nothing() -> None:
    return None


def init_app(app: Flask, settings: Settings) -> None:
    edge = Edge(app.wsgi_app, settings)
    app.wsgi_app = edge  # type: ignore[method-assign]
    app.extensions["health"] = edge.health

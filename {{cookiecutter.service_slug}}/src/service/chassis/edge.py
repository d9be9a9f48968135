"""The outermost WSGI layer: probes that always answer, admission, limits of a body, and no error gets past it."""

import io
import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask
from werkzeug import exceptions

from service.chassis import metrics
from service.chassis import problems
from service.chassis.health import Health
from service.chassis.observe import Exchange
from service.settings import Settings

log = logging.getLogger("service")

PIECE = 1024  # bytes: the server's read() waits for all it is asked for, so a slow body is read in small pieces


class Body:
    """A request's body that may have so many bytes and must have arrived by a deadline of `time.monotonic`."""

    def __init__(self, stream: InputStream, limit: int, deadline: float) -> None:
        self._stream = stream
        self._left = limit
        self._deadline = deadline

    def read(self, size: int = -1) -> bytes:
        """At most one piece, nothing at the end; raise RequestEntityTooLarge or RequestTimeout beyond the limits."""
        if time.monotonic() > self._deadline:
            raise exceptions.RequestTimeout("the request's body took too long")
        piece = self._stream.read(min(size, PIECE) if size >= 0 else PIECE)
        self._left -= len(piece)
        if self._left < 0:
            raise exceptions.RequestEntityTooLarge
        return piece


class Edge:
    """WSGI application round Flask's; answers with a problem whatever Flask cannot answer."""

    def __init__(self, app: WSGIApplication, settings: Settings) -> None:
        self.health = Health()
        self._app = app
        self._max_body, self._timeout = settings.max_body_size, settings.request_timeout
        self._slots = deque(range(settings.concurrency))
        self._exempt = {"/livez": self.health.livez, "/readyz": self.health.readyz, "/metrics": metrics.scrape}
        # The server puts the process's environment beside the request's headers: HTTP_PROXY would be a header.
        self._foreign = {k: v for k, v in os.environ.items() if k.startswith("HTTP_") or k == "REMOTE_USER"}
        metrics.LIMIT.set(settings.concurrency)
        metrics.show(metrics.ACTIVE, lambda: settings.concurrency - len(self._slots))
        metrics.show(metrics.SATURATION, lambda: 1 - len(self._slots) / settings.concurrency)

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
            return self._refuse(Exchange(environ, start_response), exceptions.ServiceUnavailable(retry_after=1))
        return self._answer(Exchange(environ, start_response, partial(self._slots.append, slot)))

    def _answer(self, exchange: Exchange) -> Iterable[bytes]:
        try:
            self._limit_body(exchange.environ)
            body = self._app(exchange.environ, exchange.start_response)
            if not 200 <= exchange.code <= 599:  # the server's process dies of others
                raise ValueError(f"the application answered with status {exchange.status!r}")
            return exchange.send(body, self.health.draining)
        except exceptions.HTTPException as refusal:
            return self._refuse(exchange, refusal)
        except BaseException:  # SystemExit from a view must not end the process
            log.exception("the request failed outside the application")
            return self._refuse(exchange, exceptions.InternalServerError())

    def _refuse(self, exchange: Exchange, refusal: exceptions.HTTPException) -> Iterable[bytes]:
        status, body, headers = problems.outside_flask(refusal, exchange.environ)
        exchange.start_response(status, headers)
        return exchange.send([body], self.health.draining)

    def _limit_body(self, environ: WSGIEnvironment) -> None:
        """Refuse a body that is too large before any work; make the length of a chunked one known."""
        # Says that the server ends a body itself; without it Werkzeug notices one that is cut short.
        environ.pop("wsgi.input_terminated", None)
        length, chunked = environ.get("CONTENT_LENGTH"), environ.pop("HTTP_TRANSFER_ENCODING", None)
        if not length and not chunked:
            return
        if length and int(length) > self._max_body:
            raise exceptions.RequestEntityTooLarge
        body = Body(environ["wsgi.input"], self._max_body, time.monotonic() + self._timeout)
        environ["wsgi.input"] = body
        if chunked:
            if not _ends_itself(environ.get("CONTENT_TYPE", "")):
                raise exceptions.LengthRequired("a chunked body must be JSON or multipart: send Content-Length")
            data = b"".join(iter(body.read, b""))
            environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(data), str(len(data))


def _ends_itself(content_type: str) -> bool:
    """Whether a chunked body that is cut short cannot pass for a whole one: the server does not tell."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("application/json", "multipart/form-data") or media_type.endswith("+json")


def init_app(app: Flask, settings: Settings) -> None:
    edge = Edge(app.wsgi_app, settings)
    app.wsgi_app = edge  # type: ignore[method-assign]
    app.extensions["health"] = edge.health

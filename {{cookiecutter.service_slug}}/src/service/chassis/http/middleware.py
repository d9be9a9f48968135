"""What lies around the application: who is admitted, how large a body may be, what gets out."""

import io
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry
from werkzeug import Request
from werkzeug import exceptions

from service.chassis.deadline import time_left
from service.chassis.http import problems
from service.chassis.http.access import BODY, ROUTE, Access, Headers, Stream
from service.chassis.http.application import Application
from service.chassis.http.cors import allow_origins
from service.chassis.http.probes import Probes
from service.chassis.http.uploads import MULTIPART
from service.chassis.http.validation import is_json
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry import metrics

log = logging.getLogger("service")

# Bytes: the server's read() waits for all that it is asked for, and a body may be slow.
CHUNK_SIZE = 1024
MAX_COLLECTED = 1_048_576  # bytes of an answer; a longer one is streamed, for readers that are slow
RETRY_AFTER = 1  # seconds


def hide_process_environment(app: WSGIApplication) -> WSGIApplication:
    """Remove what the server adds from the process's environment: HTTP_PROXY would be a header."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("HTTP_") or name == "REMOTE_USER"
    }

    def hide(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for name, value in variables.items():
            if environ.get(name) == value:
                del environ[name]
        return app(environ, start_response)

    return hide if variables else app


def refuse_leading_slashes(app: WSGIApplication) -> WSGIApplication:
    """Answer `//path` with 404: Werkzeug would take it for `/path`."""

    def refuse(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("//"):
            return problems.respond(exceptions.NotFound(), environ, start_response)
        return app(environ, start_response)

    return refuse


class Admission:
    """Admits a number of requests at once; a number of others waits, and the rest gets 503.

    Nothing of a request is read before it is admitted.
    """

    def __init__(
        self, app: WSGIApplication, settings: ServerSettings, registry: CollectorRegistry | None
    ) -> None:
        self._app = app
        self._settings = settings
        self._slots = deque(range(settings.concurrency))
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()  # of those that wait
        limit = settings.concurrency
        active = "http_server_active_requests"
        waiting = "http_server_waiting_requests"
        ratio = "http_server_saturation_ratio"
        metrics.show(active, "Requests being handled.", registry, lambda: limit - len(self._slots))
        metrics.show(f"{active}_limit", "Requests handled at once.", registry, lambda: limit)
        metrics.show(waiting, "Requests in the queue.", registry, lambda: len(self._waiting))
        metrics.show(ratio, "Active and waiting over the limit.", registry, self._saturation)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._enter():
            refusal = exceptions.ServiceUnavailable(retry_after=RETRY_AFTER)
            return problems.respond(refusal, environ, start_response)
        try:
            if time_left() <= 0:  # nobody would read the answer
                overdue = exceptions.GatewayTimeout()
                body = problems.respond(overdue, environ, start_response)
            else:
                body = self._app(environ, start_response)
        except BaseException:
            self._leave()
            raise
        if type(body) is list:
            self._leave()
            return body
        return Stream(body, self._leave)  # active until it ends

    def _saturation(self) -> float:
        return 1 + (len(self._waiting) - len(self._slots)) / self._settings.concurrency

    def _enter(self) -> bool:
        """Take a slot, by turns; return False where the queue is full or none comes in time."""
        if not self._waiting:  # nobody overtakes
            try:
                self._slots.pop()
                return True
            except IndexError:
                pass
        turn = threading.Event()
        with self._lock:
            if len(self._waiting) >= self._settings.max_queue:
                return False
            self._waiting.append(turn)
        self._call_waiting()  # a slot may have come free since
        if not turn.wait(self._settings.queue_timeout):
            with self._lock:
                if not turn.is_set():
                    self._waiting.remove(turn)
        return turn.is_set()

    def _leave(self, *_error: object) -> None:
        self._slots.append(0)
        if self._waiting:
            self._call_waiting()

    def _call_waiting(self) -> None:
        """Give free slots to those that wait longest."""
        with self._lock:
            while self._waiting:
                try:
                    self._slots.pop()
                except IndexError:
                    return
                self._waiting.popleft().set()


class Containment:
    """Lets no error out, and no answer before it is known to be right.

    In tests and under the debugger errors get out as they do in Flask.
    """

    def __init__(self, app: WSGIApplication, application: Application) -> None:
        self._app = app
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status = ""
        headers: Headers = []

        def keep(given_status: str, given_headers: Headers, exc_info: Any = None) -> Any:
            nonlocal status, headers
            status = given_status
            headers = given_headers
            # Flask has it only until the view's context ends.
            rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
            if rule is not None:
                environ[ROUTE] = rule.rule
            return _refuse_write

        try:
            body = self._app(environ, keep)
            # Read as the server reads it, whose process dies of others.
            if not 200 <= int(status.partition(" ")[0]) <= 599:
                raise ValueError(f"the application answered with status {status!r}")
            if type(body) is not list and _is_short(environ, status, headers):
                body = _collect(body)
            if type(body) is list:
                _check_framing(environ, status, headers, sum(map(len, body)))
            start_response(status, headers)
        except BaseException:  # SystemExit from a view must not end the process
            if self._propagates():
                raise
            log.exception("the request failed outside the application")
            return problems.respond(exceptions.InternalServerError(), environ, start_response)
        return body

    def _propagates(self) -> bool:
        app = self._application
        given = app.config["PROPAGATE_EXCEPTIONS"]
        return app.testing or app.debug if given is None else bool(given)


class BodyTimeout:
    """Gives a request's body a time in which it must arrive, and a chunked one its length."""

    def __init__(self, app: WSGIApplication, timeout: float, max_size: int) -> None:
        self._app = app
        self._timeout = timeout
        self._max_size = max_size

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # It says that the server ends a body; without it Werkzeug notices one that is cut short.
        environ.pop("wsgi.input_terminated", None)
        is_chunked = environ.pop("HTTP_TRANSFER_ENCODING", None) is not None
        length = environ.get("CONTENT_LENGTH")
        if is_chunked or length:
            deadline = time.monotonic() + self._timeout
            body = Body(environ["wsgi.input"], deadline, int(length) if length else None)
            environ[BODY] = body
            environ["wsgi.input"] = io.BufferedReader(body)
        if is_chunked:
            try:
                self._read_chunked(environ)
            except exceptions.HTTPException as refusal:
                return problems.respond(refusal, environ, start_response)
        return self._app(environ, start_response)

    def _read_chunked(self, environ: WSGIEnvironment) -> None:
        media_type = Request(environ, populate_request=False).mimetype
        if media_type == MULTIPART:  # Werkzeug reads a file in pieces, up to its end
            environ["wsgi.input_terminated"] = True
            return
        # The server does not tell where it was cut; then JSON, unless it is a number, is malformed.
        if not is_json(media_type):
            message = "A chunked body must be JSON or multipart; send Content-Length."
            raise exceptions.LengthRequired(message)
        data = environ["wsgi.input"].read(self._max_size + 1)
        if len(data) > self._max_size:
            raise exceptions.RequestEntityTooLarge
        environ["wsgi.input"] = io.BytesIO(data)
        environ["CONTENT_LENGTH"] = str(len(data))


class Body(io.RawIOBase):
    """A body that must arrive before a deadline of `time.monotonic`.

    `left` are the bytes to read, None for a chunked one.
    """

    def __init__(self, stream: InputStream, deadline: float, left: int | None = None) -> None:
        self._stream = stream
        self._deadline = deadline
        self._left = left
        self.has_ended = left == 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read one chunk; raise RequestTimeout where it came after the deadline."""
        chunk = self._stream.read(min(len(buffer), CHUNK_SIZE))
        if time.monotonic() > self._deadline:
            raise exceptions.RequestTimeout("The request's body took too long.")
        buffer[: len(chunk)] = chunk
        if self._left is not None:
            self._left -= len(chunk)
        self.has_ended = not chunk or self._left == 0
        return len(chunk)


def _refuse_write(_data: bytes) -> None:
    raise RuntimeError("an application must return its body: write() is not supported")


def _is_short(environ: WSGIEnvironment, status: str, headers: Headers) -> bool:
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value) <= MAX_COLLECTED
    return environ["REQUEST_METHOD"] == "HEAD" or status[:3] in ("204", "304")


def _check_framing(environ: WSGIEnvironment, status: str, headers: Headers, length: int) -> None:
    """Raise ValueError where clients would take a part of this answer for the next one."""
    if environ["REQUEST_METHOD"] == "HEAD" or status[:3] in ("204", "304"):
        return
    for name, value in headers:
        if name.lower() == "content-length" and value != str(length):
            raise ValueError(f"the application answered {length} bytes with {name}: {value}")


def _collect(body: Iterable[bytes]) -> list[bytes]:
    try:
        return list(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def init_app(app: Application, settings: ServerSettings) -> None:
    """Lay the middleware around the application; a request passes the last line first."""
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_size
    handler: WSGIApplication = app.wsgi_app
    handler = refuse_leading_slashes(handler)
    handler = BodyTimeout(handler, settings.request_timeout, settings.max_body_size)
    handler = Containment(handler, app)
    handler = Admission(handler, settings, app.telemetry.registry)
    handler = allow_origins(handler, settings.cors_allowed_origins or "")
    handler = Access(handler, app.readiness, app.telemetry)
    handler = hide_process_environment(handler)
    handler = Probes(handler, app.readiness, app.telemetry)
    app.wsgi_app = handler  # type: ignore[method-assign]

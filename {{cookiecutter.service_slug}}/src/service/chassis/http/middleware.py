"""What lies around the application: who is admitted, how large a body may be, what gets out."""

import io
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry
from werkzeug import exceptions

from service.chassis.http import problems
from service.chassis.http.access import Access
from service.chassis.http.application import Application
from service.chassis.http.probes import Probes
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry import metrics

log = logging.getLogger("service")

CHUNK_SIZE = (
    1024  # bytes: the server's read() waits for all it is asked for, and a body may be slow
)
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


class Admission:
    """Admits a number of requests at once and refuses further ones with 503, before any work."""

    def __init__(
        self, app: WSGIApplication, limit: int, registry: CollectorRegistry | None
    ) -> None:
        self._app = app
        self._slots = deque(range(limit))
        parts = {
            "http_server_active_requests": (
                "Requests being handled.",
                lambda: limit - len(self._slots),
            ),
            "http_server_active_requests_limit": ("Requests allowed at once.", lambda: limit),
            "http_server_saturation_ratio": (
                "Active requests over allowed.",
                lambda: 1 - len(self._slots) / limit,
            ),
        }
        for name, (help_text, value) in parts.items():
            metrics.show(name, help_text, registry, value)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            slot = self._slots.pop()
        except IndexError:
            refusal = exceptions.ServiceUnavailable(retry_after=RETRY_AFTER)
            return problems.respond(refusal, environ, start_response)
        try:
            body = self._app(environ, start_response)
        except BaseException:
            self._slots.append(slot)
            raise
        if type(body) is list:
            self._slots.append(slot)
            return body
        return AdmittedStream(body, partial(self._slots.append, slot))


class AdmittedStream:
    """A streamed answer, whose request counts as active until it is closed."""

    def __init__(self, body: Iterable[bytes], release: Callable[[], None]) -> None:
        self._body = body
        self._release = release
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """End the answer and let the next request in, once."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._release()


class Containment:
    """Lets no error out, and no answer before it is known to be right."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status = ""
        headers: list[tuple[str, str]] = []

        def keep(
            given_status: str, given_headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            nonlocal status, headers
            status = given_status
            headers = given_headers
            return _refuse_write

        try:
            body = self._app(environ, keep)
            # Read as the server reads it, whose process dies of others.
            if not 200 <= int(status.partition(" ")[0]) <= 599:
                raise ValueError(f"the application answered with status {status!r}")
            if type(body) is not list and _is_short(environ, status, headers):
                body = _collect(body)
            start_response(status, headers)
        except BaseException:  # SystemExit from a view must not end the process
            log.exception("the request failed outside the application")
            return problems.respond(exceptions.InternalServerError(), environ, start_response)
        return body


class BodyLimit:
    """Refuses a body that is too large before any work, and gives a chunked one its length."""

    def __init__(self, app: WSGIApplication, max_size: int, timeout: float) -> None:
        self._app = app
        self._max_size = max_size
        self._timeout = timeout

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # It says that the server ends a body; without it Werkzeug notices one that is cut short.
        environ.pop("wsgi.input_terminated", None)
        length = environ.get("CONTENT_LENGTH")
        is_chunked = environ.pop("HTTP_TRANSFER_ENCODING", None)
        if length or is_chunked:
            try:
                self._limit(environ, int(length or 0), is_chunked)
            except exceptions.HTTPException as refusal:
                return problems.respond(refusal, environ, start_response)
        return self._app(environ, start_response)

    def _limit(self, environ: WSGIEnvironment, length: int, is_chunked: str | None) -> None:
        if length > self._max_size:
            raise exceptions.RequestEntityTooLarge
        deadline = time.monotonic() + self._timeout
        body = environ["wsgi.input"] = Body(environ["wsgi.input"], self._max_size, deadline)
        if is_chunked:
            if not _shows_its_end(environ.get("CONTENT_TYPE", "")):
                message = "A chunked body must be JSON or multipart; send Content-Length."
                raise exceptions.LengthRequired(message)
            data = b"".join(iter(body.read, b""))
            environ["wsgi.input"] = io.BytesIO(data)
            environ["CONTENT_LENGTH"] = str(len(data))


class Body:
    """A body of at most `limit` bytes that arrives before a deadline of `time.monotonic`."""

    def __init__(self, stream: InputStream, limit: int, deadline: float) -> None:
        self._stream = stream
        self._left = limit
        self._deadline = deadline

    def read(self, size: int = -1) -> bytes:
        """Return at most one chunk, nothing at the end.

        Raise RequestEntityTooLarge or RequestTimeout beyond the limits.
        """
        if time.monotonic() > self._deadline:
            raise exceptions.RequestTimeout("The request's body took too long.")
        chunk = self._stream.read(min(size, CHUNK_SIZE) if size >= 0 else CHUNK_SIZE)
        self._left -= len(chunk)
        if self._left < 0:
            raise exceptions.RequestEntityTooLarge
        return chunk


def _refuse_write(_data: bytes) -> None:
    raise RuntimeError("an application must return its body: write() is not supported")


def _is_short(environ: WSGIEnvironment, status: str, headers: list[tuple[str, str]]) -> bool:
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value) <= MAX_COLLECTED
    return environ["REQUEST_METHOD"] == "HEAD" or status[:3] in ("204", "304")


def _collect(body: Iterable[bytes]) -> list[bytes]:
    try:
        return list(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def _shows_its_end(content_type: str) -> bool:
    """Return whether a body of this type that is cut short cannot pass for a whole one.

    The server does not tell where a chunked one was cut.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("application/json", "multipart/form-data") or media_type.endswith("+json")


def init_app(app: Application, settings: ServerSettings) -> None:
    """Lay the middleware around the application; a request passes the last line first."""
    handler: WSGIApplication = app.wsgi_app
    handler = BodyLimit(handler, settings.max_body_size, settings.request_timeout)
    handler = Containment(handler)
    handler = Admission(handler, settings.concurrency, app.telemetry.registry)
    handler = Access(handler, app.readiness, app.telemetry)
    handler = hide_process_environment(handler)
    handler = Probes(handler, app.readiness, app.telemetry)
    app.wsgi_app = handler  # type: ignore[method-assign]

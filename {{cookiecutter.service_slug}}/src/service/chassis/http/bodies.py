"""The bodies of requests: how long they may take to arrive, and how long a chunked one is."""

import io
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug import Request
from werkzeug import exceptions

from service.chassis.http import problems
from service.chassis.http.access import BODY
from service.chassis.http.uploads import MULTIPART
from service.chassis.http.validation import is_json

# Bytes: the server's read() waits for all that it is asked for, and a body may be slow.
CHUNK_SIZE = 1024


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

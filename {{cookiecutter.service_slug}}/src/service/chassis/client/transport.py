"""urllib3 with sockets that know the deadline, so that nobody gets more time byte by byte."""

import io
import random
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPResponse
from typing import Any, NamedTuple

from urllib3 import HTTPHeaderDict, Retry, Timeout, connection_from_url, exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from service.chassis.client.failures import BadAnswer, BadStatus, Saturated, TimedOut, Unreachable
from service.chassis.deadline import time_left

MAX_AGE = 60  # seconds of a connection, so that new replicas get their share
OPTIONS: dict[str, Any] = {
    "retries": False,
    "redirect": False,
    "preload_content": False,
    "decode_content": False,
    "pool_timeout": 0.05,  # seconds that a call waits for another to end
}


class Reply(NamedTuple):
    """An answer as it came; its headers are found by names in any case."""

    status: int
    headers: HTTPHeaderDict
    body: bytes


class Stream(io.BufferedReader):
    """What a callee sends; a chunk of negative size would be all of it."""

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes."""
        if size is None or size < 0:
            raise exceptions.ProtocolError("a part of the answer has no size")
        return super().read(size)


class Timed(socket.socket):
    """A socket that waits for its timeout, but not beyond the deadline of the current work.

    A whole request is sent within one timeout; only answers are received in parts.
    """

    def settimeout(self, seconds: float | None) -> None:
        self._seconds = seconds or 0
        left = time_left()
        if left <= 0:
            raise TimeoutError("the deadline is over")
        super().settimeout(min(self._seconds, left))

    def recv_into(self, *args: Any) -> int:
        self.settimeout(self._seconds)
        return super().recv_into(*args)

    def makefile(self, *_args: Any, **_options: Any) -> Any:
        """Return what an answer is read from."""
        return Stream(super().makefile("rb", buffering=0))


class TimedTls(Timed, ssl.SSLSocket):
    """The same under TLS."""


class Answer(HTTPResponse):
    """An answer, after which no byte of it is left for the next one."""

    def begin(self) -> None:
        """Read the head of the final answer; close behind one that announces more than it has."""
        super().begin()
        while 101 < self.status < 200:
            self.headers = None  # type: ignore[assignment]  # as before the first head
            super().begin()
        announced = self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0")
        if self.status == 101 or (self.length is not None and str(self.length) != announced):
            self.chunked = False
            self.will_close = True


class Connection(HTTPConnection):
    """A connection over a timed socket, which is used again until it is too old."""

    response_class = Answer

    @property
    def is_connected(self) -> bool:
        """Return whether it can be used again."""
        return super().is_connected and time.monotonic() < self._end

    def _new_conn(self) -> socket.socket:
        """Connect to one of the host's addresses, in random order: its replicas share the load."""
        self._end = time.monotonic() + MAX_AGE
        found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in random.sample(found, len(found)):
            sock = Timed(family, kind, protocol)
            try:
                sock.settimeout(self.timeout)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure


class TlsConnection(Connection, HTTPSConnection):
    """The same under TLS."""


class Transport:
    """Exchanges requests and answers with one callee; its pool of connections caps the calls."""

    def __init__(self, callee: str, option: Callable[[str], Any]) -> None:
        self._callee = callee
        self._path = option("url").path.rstrip("/")
        self._max_size = option("max_size")
        timeout = Timeout(connect=option("connect_timeout"), read=option("read_timeout"))
        limits = {"timeout": timeout, "maxsize": option("concurrency"), "block": True}
        self._pool = connection_from_url(str(option("url")), **limits)
        self._pool.ConnectionCls = Connection
        if self._pool.scheme == "https":
            self._pool.ConnectionCls = TlsConnection
            tls = self._pool.conn_kw["ssl_context"] = ssl.create_default_context()
            tls.sslsocket_class = TimedTls

    def exchange(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> Reply:
        """Send a request and read its answer whole; raise a CallFailed."""
        try:
            answer = self._pool.urlopen(method, self._path + path, body, headers, **OPTIONS)
            content = answer.read(self._max_size + 1)
            # The second one sees that a body was cut short.
            if len(content) > self._max_size or answer.read(1):
                answer.close()
                answer.release_conn()
                raise BadAnswer(self._callee, f"answered more than {self._max_size} bytes")
        except exceptions.EmptyPoolError as error:
            raise Saturated(self._callee, "has too many calls in flight", 1) from error
        except exceptions.HTTPError as error:
            if isinstance(error, exceptions.TimeoutError) or time_left() <= 0:
                raise TimedOut(self._callee, "did not answer in time") from error
            raise Unreachable(self._callee, f"cannot be reached: {error}") from error
        if not 200 <= answer.status < 300:
            retry_after = None
            with suppress(exceptions.InvalidHeader, ValueError, OverflowError):
                retry_after = Retry().get_retry_after(answer)
            raise BadStatus(self._callee, answer.status, content, retry_after)
        return Reply(answer.status, answer.headers, content)

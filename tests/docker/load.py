"""Clients for a bounded time: some keep connections and follow readiness, some send slowly."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from tests.docker.containers import status

SLOW_REQUEST = (
    b"POST /v1/quotes HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
)


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float
    path: str

    @property
    def location(self) -> str:
        """The path that its Location leads to."""
        return urljoin(self.path, str(self.headers["Location"]))

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)

    def is_problem(self) -> bool:
        """Whether it is a problem that says its own status."""
        is_typed = self.headers["Content-Type"] == "application/problem+json"
        return is_typed and self.json()["status"] == self.status


class Client:
    """One caller, who keeps a connection as long as it lasts."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """Connect at the first request."""
        self._connection = http.client.HTTPConnection(host, port, timeout=30)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask once; `body` is bytes or what JSON knows, `If_Match="*"` a header.

        Raise OSError or HTTPException.
        """
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if data else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        started = time.monotonic()
        try:
            self._connection.request(method, path, data, given)
            reply = self._connection.getresponse()
            content = reply.read()
            return Answer(reply.status, reply.headers, content, time.monotonic() - started, path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back; the next request opens one."""
        self._connection.close()


def at_once(port: int, ask: Callable[[Client, int], Answer], count: int) -> list[Answer]:
    """Let `count` clients, each with a connection of its own, ask once at the same instant."""
    start = threading.Barrier(count, timeout=60)

    def take_part(number: int) -> Answer:
        with contextlib.closing(Client(port)) as client:
            client("GET", "/livez")  # it is connected
            start.wait()
            return ask(client, number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(take_part, range(count)))


class Load:
    """Clients that ask one request after the other, between entering and leaving."""

    def __init__(
        self,
        port: int,
        *asks: Callable[[Client], Answer],
        pause: float = 0.01,
        host: str = "127.0.0.1",
    ) -> None:
        """One client for each of `asks`."""
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self._leave = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(Client(port, host), ask, pause))
            for ask in asks
        ]

    def _ask(self, client: Client, ask: Callable[[Client], Answer], pause: float) -> None:
        while not self._leave.wait(pause):
            try:
                self.answers.append(ask(client))
            except Exception as error:
                self.failures.append(repr(error))
        client.close()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        for thread in self._threads:
            thread.join()


class KeepAliveLoad:
    """Threads that ask one path until readiness says otherwise, as behind a load balancer."""

    def __init__(
        self, port: int, path: str, clients: int, headers: Mapping[str, str] | None = None
    ) -> None:
        """Start the clients."""
        self.answered = 0
        self.slowest = 0.0  # seconds
        self.failures: list[str] = []
        self._port = port
        self._path = path
        self._headers = headers or {}
        self._leave = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]
        self._threads.append(threading.Thread(target=self._follow_readiness, daemon=True))
        for thread in self._threads:
            thread.start()

    def _follow_readiness(self) -> None:
        while status(self._port, "/readyz") == 200 and not self._leave.wait(0.1):
            pass
        self._leave.set()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=40)
        while not self._leave.is_set():
            started = time.monotonic()
            try:
                connection.request("GET", self._path, headers=self._headers)
                reply = connection.getresponse()
                reply.read()
                if reply.status != 200:
                    self.failures.append(str(reply.status))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.answered += 1
            time.sleep(0.005)
        connection.close()

    def join(self, seconds: float) -> None:
        """Wait until all clients have left."""
        for thread in self._threads:
            thread.join(seconds)
            assert not thread.is_alive()

    def stop(self) -> None:
        """Let the clients leave after their present request."""
        self._leave.set()
        self.join(seconds=30)


class SlowSenders:
    """Connections that each send a byte of a body now and then, and open again when refused."""

    def __init__(self, port: int, count: int) -> None:
        """Open all of them; the work is done between entering and leaving."""
        self._port = port
        self._sockets = [self._open() for _ in range(count)]
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _open(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        connection.sendall(SLOW_REQUEST)
        return connection

    def _send(self) -> None:
        while not self._leave.wait(0.25):
            for index, connection in enumerate(self._sockets):
                try:
                    connection.sendall(b" ")
                except OSError:
                    connection.close()
                    self._sockets[index] = self._open()

    def __enter__(self) -> "SlowSenders":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.close()

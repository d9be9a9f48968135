"""A service that tests call, on 127.0.0.1: it behaves as it is told, well or badly."""

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import Message
from email.parser import BytesParser
from typing import Any, NamedTuple

import pytest

ANSWER = b'{"name": "a", "more": 1}'


class Received(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: Message
    body: bytes


class Connection(socketserver.StreamRequestHandler):
    """One connection of a client."""

    server: "Callee"
    received: Received

    def handle(self) -> None:
        """Answer requests until the behaviour, or the client, has enough."""
        self.server.connections.append(self.connection)
        with suppress(OSError):
            while line := self.rfile.readline():
                method, path, _ = line.decode().split(" ", 2)
                head = b"".join(iter(self.rfile.readline, b"\r\n"))
                headers = BytesParser().parsebytes(head)
                body = self.rfile.read(int(headers.get("Content-Length", 0)))
                self.received = Received(method, path, headers, body)
                self.server.requests.append(self.received)
                if self.server.behave(self) is False:
                    return

    def finish(self) -> None:
        """Close, whatever became of the connection."""
        with suppress(OSError):
            super().finish()

    def send(self, status: int = 200, body: bytes = ANSWER, **headers: str) -> None:
        """Answer as services do; `Retry_After="1"` is a header."""
        lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)

    def dribble(self, data: bytes, pause: float) -> None:
        """Send one byte at a time until the server stops."""
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.server.stopped.wait(pause)

    def hang(self) -> None:
        """Say nothing until the server stops."""
        self.server.stopped.wait()

    def reset(self) -> bool:
        """Close so that the client's system reports a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()
        return False


Behaviour = Callable[[Connection], Any]  # False closes the connection


class Callee(socketserver.ThreadingTCPServer):
    """It answers each request as `behave` does, which may be replaced at any time."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        behave: Behaviour = Connection.send,
        port: int = 0,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__((address, port), Connection)
        self.behave = behave
        self.tls = tls
        self.requests: list[Received] = []
        self.connections: list[socket.socket] = []
        self.stopped = threading.Event()
        self.port: int = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection."""
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients break off on purpose."""

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Let go of the port and of all connections."""
        self.stopped.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@pytest.fixture
def callee() -> Iterator[Callee]:
    """A service that answers."""
    with Callee() as server:
        yield server

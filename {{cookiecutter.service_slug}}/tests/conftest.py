"""What the tests share: the application, its client, and the service as a process of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.chassis.framework import Service
from service.settings import Settings

pytest_plugins = ["database_fixtures"]  # only-if: database == "postgresql"
ROOT = Path(__file__).parents[1]
SERVE = """
import sys
from service.chassis.server import serve
from service.settings import Settings
if __name__ == "__main__":
    sys.exit(serve(Settings.load(), {target!r}))
"""


@pytest.fixture
def settings() -> Settings:
    return Settings(concurrency=4, max_body_size=4096, log_format="json")


@pytest.fixture
def app(settings: Settings) -> Service:
    return create_app(settings)


@pytest.fixture
def client(app: Service) -> FlaskClient:
    return app.test_client()


class Process:
    """The service as a process on a free port of this machine; `target` makes its application."""

    def __init__(self, log: Path, target: str, environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        own = {"BIND_ADDRESS": "127.0.0.1", "PORT": str(self.port), "DRAIN_DELAY": "0.3", "LOG_FORMAT": "json"}
        paths = os.pathsep.join(str(ROOT / folder) for folder in ("src", "tests"))
        self._log = log
        with log.open("wb") as output:
            self.popen = subprocess.Popen(  # noqa: S603 the command is this file's own
                [sys.executable, "-c", SERVE.format(target=target)],
                env={**os.environ, "PYTHONPATH": paths, **own, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines()]

    def connect(self, timeout: float = 10) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(
        self, path: str, headers: Mapping[str, str] = MappingProxyType({}), timeout: float = 10
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of one request on a connection of its own."""
        connection = self.connect(timeout)
        try:
            connection.request("GET", path, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def wait_ready(self) -> None:
        def ready() -> bool:
            try:
                return self.get("/readyz")[0] == 200
            except OSError:
                if self.popen.poll() is not None:
                    pytest.fail(f"the service ended with {self.popen.returncode}:\n{self.output}")
                return False

        wait_until(ready)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15) -> int:
        """Send a signal to the process, wait for its end and return its exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(timeout)


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            pytest.fail("waited in vain")
        time.sleep(0.02)


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the service: `start("module:factory", ready=False, NAME="value")`; what is left at the end, it kills."""
    started: list[Process] = []

    def start(target: str = "service.app:create_app", ready: bool = True, **environment: str) -> Process:
        process = Process(tmp_path / f"{len(started)}.log", target, environment)
        started.append(process)
        if ready:
            process.wait_ready()
        return process

    yield start
    for process in started:
        if process.popen.poll() is None:
            os.killpg(process.popen.pid, signal.SIGKILL)
            process.popen.wait()

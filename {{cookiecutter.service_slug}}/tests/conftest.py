"""The fixtures of all tests: the application, its client and its lines, processes, a collector."""

import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.util._once import Once
from support import Collector
from support import Lines
from support import Process
from support import Start

from service.chassis.http.application import Application
from service.chassis.telemetry import stdout
from service.chassis.telemetry.logs import LineHandler
from service.settings import Settings

pytest_plugins = [
    "callee",
    "database",  # only-if: database == "postgresql"
    "lab",
    "messages",  # only-if: messaging == "rabbitmq"
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse two tests of one id: xdist would run one of them."""
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"several tests share an id: {', '.join(twice)}")


@pytest.fixture(autouse=True)
def _process_state_ends_with_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the next test's first application set up logging, and forget this test's secrets."""
    monkeypatch.setattr(stdout.stdout, "_secrets", [])
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    attach(Context())
    for name in Settings.callees():  # no test calls a real one
        monkeypatch.setenv(f"{name.upper()}_URL", "http://127.0.0.1:9")
    before = threading.enumerate()
    yield
    for thread in threading.enumerate():
        if thread.name == "tracing" and thread not in before:
            thread.join(15)
            assert not thread.is_alive(), "an exporter outlives the test that has made it"
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, LineHandler)]


@pytest.fixture
def settings() -> Settings:
    """Limits that a test can reach, none of them by waiting, and lines of JSON."""
    return Settings(concurrency=4, max_queue=0, max_body_size=4096, log_format="json")


@pytest.fixture
def client(app: Application) -> FlaskClient:
    """A client of the application."""
    return app.test_client()


@pytest.fixture
def lines(app: Application, capfd: pytest.CaptureFixture[str]) -> Lines:
    """The lines on standard output since the last call."""
    return lambda: [json.loads(line) for line in capfd.readouterr().out.splitlines()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the service: `start("module:factory", ready=False, NAME="value")`.

    What is left at the end is killed.
    """
    started: list[Process] = []

    def start(
        target: str = "lab:create_app", *command: str, ready: bool = True, **environment: str
    ) -> Process:
        process = Process(tmp_path / f"{len(started)}.log", target, environment, *command)
        started.append(process)
        if ready:
            process.wait_ready()
        return process

    yield start
    for process in started:
        if process.popen.poll() is None:
            os.killpg(process.popen.pid, signal.SIGKILL)
            process.popen.wait()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """An OTLP receiver."""
    with Collector() as server:
        yield server
        server.ended.set()
        server.shutdown()

"""What the tests share beside fixtures: files, the service as a process, an OTLP receiver."""

import fnmatch
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[1]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SERVE = """
import sys
from service.chassis.server.granian import serve
from service.chassis.telemetry.logs import config
from service.settings import Settings
if __name__ == "__main__":
    settings = Settings.load()
    sys.exit(serve(settings, {target!r}, config(settings)))
"""

PATIENCE = 60.0  # seconds that a busy machine may take for anything

Start = Callable[..., "Process"]
Lines = Callable[[], list[dict[str, Any]]]


def text(name: str) -> str:
    """Return a file of the project."""
    return (ROOT / name).read_text("utf-8")


def mentioned(pattern: str, name: str) -> set[str]:
    """Return all that `pattern` finds in a file."""
    return set(re.findall(pattern, text(name), re.MULTILINE))


def found(pattern: str, name: str) -> str:
    """Return the one thing that `pattern` finds in a file."""
    matches = mentioned(pattern, name)
    assert len(matches) == 1, f"{name}: {pattern} finds {matches or 'nothing'}"
    return matches.pop()


def missing_files(name: str) -> set[str]:
    """Return the files and folders that a file names and the project has not."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    paths = [path for folder in (*folders, ROOT / ".github") for path in folder.rglob("*")]
    there = [f"/{path.relative_to(ROOT).as_posix()}" for path in (*ROOT.iterdir(), *paths)]
    kinds = "json|md|mk|py|sh|toml|txt|yaml|yml"
    first = "|".join(folder.name for folder in folders)
    path = rf"(?:{first}|chassis)/[\w./*-]*\w|(?:\.?[\w-]+/)*[\w.-]*\w\.(?:{kinds})\b"
    # Without what a regular expression or a mount puts before a name.
    named = re.findall(rf"(?<![\w./@-])({path})", re.sub(r"\\|(?<!\S)\./", "", text(name)))
    missing = {one for one in named if not fnmatch.filter(there, f"*/{one}")}
    # What make makes, and what other answers would have given.
    return {one for one in missing if not one.startswith((".venv/", ".gitlab-ci"))}


def named_numbers(name: str) -> dict[str, float]:
    """Return the numbers that a file gives with the name of what they are: ``5 s (`NAME`)``."""
    pattern = r"(\d+(?:\.\d+)?)(?: [a-z%]+)* \(`(\w+)`\)"
    return {what: float(number) for number, what in re.findall(pattern, text(name))}


class Process:
    """The service as a process on a free port; `target` makes its application.

    `command` is another thing to run, as arguments of Python.
    """

    def __init__(self, log: Path, target: str, environment: dict[str, str], *command: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        own = {
            "BIND_ADDRESS": "127.0.0.1",
            "PORT": str(self.port),
            "DRAIN_DELAY": "0.3",
            "LOG_FORMAT": "json",
            "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("src", "tests")),
        }
        self._log = log
        with log.open("wb") as output:
            self.popen = subprocess.Popen(  # noqa: S603 the command is this file's own
                [sys.executable, *(command or ("-c", SERVE.format(target=target)))],
                env={**os.environ, **own, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """All that it has written."""
        return self._log.read_text("utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines that it has written."""
        whole, _, _ = self.output.rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def connect(self, timeout: float = 10) -> http.client.HTTPConnection:
        """Return a connection, which opens at the first request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(
        self, path: str, headers: Mapping[str, str] = MappingProxyType({}), timeout: float = 10
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return status, headers and body of one request on a connection of its own."""
        connection = self.connect(timeout)
        try:
            connection.request("GET", path, headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def gauge(self, name: str) -> float:
        """Return the value of a metric without labels."""
        (line,) = (
            line
            for line in self.get("/metrics")[2].decode().splitlines()
            if line.startswith(f"{name} ")
        )
        return float(line.split()[1])

    def wait_ready(self, seconds: float = PATIENCE) -> None:
        """Return once it takes requests; fail after `seconds`."""

        def is_ready() -> bool:
            try:
                return self.get("/readyz")[0] == 200
            except OSError:
                if self.popen.poll() is not None:
                    pytest.fail(f"the service ended with {self.popen.returncode}:\n{self.output}")
                return False

        wait_until(is_ready, seconds)

    def wait_active(self, count: int) -> None:
        """Return once it is handling so many requests."""
        wait_until(lambda: self.gauge("http_server_active_requests") == count)

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """Send a signal to the process, wait for its end and return its exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(timeout)

    def kill(self) -> None:
        """End it and its worker, if they are still there."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()


class Collector(ThreadingHTTPServer):
    """An OTLP receiver on a free port; `status` is its answer, None keeps the sender waiting."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.status: int | None = 200
        self.asked = 0
        self.documents: list[dict[str, Any]] = []
        self.headers = Message()
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        # It looks so often, in seconds, whether it is shut down.
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        """Let go of those that wait, and of the port."""
        self.ended.set()
        self.shutdown()
        self.server_close()

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All spans that came, in their order."""
        resources = [one for document in self.documents for one in document["resourceSpans"]]
        scopes = [scope for resource in resources for scope in resource["scopeSpans"]]
        return [span for scope in scopes for span in scope["spans"]]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Return the spans once there are so many."""
        wait_until(lambda: len(self.spans) >= count)
        return self.spans


class Receiver(BaseHTTPRequestHandler):
    """One connection of a sender."""

    server: Collector

    def do_POST(self) -> None:
        """Take the spans, or fail as the collector says."""
        self.server.asked += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.status  # which a test may change meanwhile
        if status is None:
            self.server.ended.wait()
            return
        if status == 200 and self.path == "/v1/traces":
            self.server.headers = self.headers
            self.server.documents.append(json.loads(body))
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    """Return a span's attributes by their names."""
    return {pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]}


def samples(client: FlaskClient, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a metric by the values of their labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in found}


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Do the same in so many threads at once; return when all have ended."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return once the condition holds; fail after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"condition not met within {seconds} s")
        time.sleep(0.02)

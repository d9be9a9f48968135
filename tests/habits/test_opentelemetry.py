"""Libraries that are instrumented for OpenTelemetry, and its SDK, in the service."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.context import attach
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.util._once import Once

from service.app import create_app
from service.chassis.http.application import Application
from service.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SDK = {
    "BIND_ADDRESS": "127.0.0.1",
    "DRAIN_DELAY": "0",
    "LOG_FORMAT": "json",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "flask,wsgi,sqlalchemy",
}
SECONDS = 60  # at most, until something happens
Span = dict[str, Any]


class Peer(ThreadingHTTPServer):
    """A callee that remembers its requests' headers, and a collector that keeps spans."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.called: list[dict[str, str]] = []
        self.spans: list[Span] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait_for(self, count: int) -> dict[str, Span]:
        """Return the spans by their names, once there are so many."""
        wait_until(lambda: len(self.spans) >= count)
        return {span["name"]: span for span in self.spans}


class Receiver(BaseHTTPRequestHandler):
    """One connection."""

    server: Peer

    def do_GET(self) -> None:
        """Be called."""
        self.server.called.append({name.lower(): value for name, value in self.headers.items()})
        self.answer()

    def do_POST(self) -> None:
        """Take spans."""
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in document["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                self.server.spans += scope["spans"]
        self.answer()

    def answer(self) -> None:
        """Answer with an empty object."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def wait_until(condition: Any) -> None:
    """Return once the condition holds."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A callee and collector."""
    with Peer() as server:
        yield server
        server.shutdown()


@pytest.fixture
def app(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """The service with that collector, and a view that calls that callee."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr("service.chassis.telemetry.otlp.SCHEDULE_DELAY", 0.02)
    attach(Context())  # a request that another test has not read to its end is over
    app = create_app(Settings.model_validate({"otel_exporter_otlp_endpoint": peer.url}))
    URLLib3Instrumentor().instrument()
    pool = urllib3.PoolManager()

    @app.get("/call")
    def call() -> str:
        with trace.get_tracer("shop").start_as_current_span("price"):
            return pool.request("GET", peer.url).data.decode()

    yield app
    URLLib3Instrumentor().uninstrument()
    pool.clear()
    assert app.telemetry.exporter
    app.telemetry.exporter.shutdown()


def test_an_instrumented_library_joins_the_request_and_tells_its_callee(
    app: Application, peer: Peer
) -> None:
    headers = {
        "traceparent": f"00-{TRACE}-{PARENT}-01",
        "tracestate": "a=1",
        "baggage": "customer=c1",
    }
    app.test_client().get("/call", headers=headers)
    spans = peer.wait_for(3)
    assert [spans[name]["traceId"] for name in ("GET /call", "price", "GET")] == [TRACE] * 3
    assert spans["GET /call"]["parentSpanId"] == PARENT
    assert spans["price"]["parentSpanId"] == spans["GET /call"]["spanId"]
    assert spans["GET"]["parentSpanId"] == spans["price"]["spanId"]
    (called,) = peer.called
    assert called["traceparent"] == f"00-{TRACE}-{spans['GET']['spanId']}-01"
    assert (called["tracestate"], called["baggage"]) == ("a=1", "customer=c1")


def test_what_is_not_sampled_makes_no_span_and_tells_the_callee_so(
    app: Application, peer: Peer
) -> None:
    app.test_client().get("/call", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    (called,) = peer.called
    assert called["traceparent"].startswith(f"00-{TRACE}-")
    assert called["traceparent"].endswith("-00")
    assert app.telemetry.exporter
    assert len(app.telemetry.exporter._spans) == len(peer.spans) == 0


@pytest.mark.usefixtures("app")
def test_a_call_outside_requests_is_a_trace_of_its_own(peer: Peer) -> None:
    with trace.get_tracer("shop").start_as_current_span("job"):
        urllib3.PoolManager().request("GET", peer.url)
    spans = peer.wait_for(2)
    assert spans["GET"]["parentSpanId"] == spans["job"]["spanId"]
    assert spans["job"]["parentSpanId"] == ""
    assert spans["job"]["traceId"] in peer.called[0]["traceparent"]


def printed_spans(output: str) -> list[dict[str, Any]]:
    """Return what the SDK's console exporter has printed among the service's lines."""
    spans = []
    decoder = json.JSONDecoder()
    position = output.find("{\n")
    while position >= 0:
        span, end = decoder.raw_decode(output, position)
        spans.append(span)
        position = output.find("{\n", end)
    return spans


def instrumented(folder: Path) -> str:
    """Return what the service writes under the SDK's command, with one request in its life."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        **SDK,
        "PORT": str(port),
        "DATABASE_URL": f"sqlite:///{folder}/none.db",
    }
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    command = (instrument, sys.executable, "-m", "service")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    pool = urllib3.PoolManager(retries=False)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}

    def ask() -> bool:
        try:
            # Its table is missing: a statement fails, once.
            answer = pool.request("GET", f"http://127.0.0.1:{port}/v1/orders", headers=headers)
        except urllib3.exceptions.HTTPError:
            assert process.poll() is None, log.read_text("utf-8")
            return False
        return answer.headers["X-Request-ID"] == TRACE

    try:
        wait_until(ask)
    finally:
        pool.clear()
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    return log.read_text("utf-8")


def test_under_opentelemetry_instrument_the_sdk_makes_one_span_of_each_request(
    tmp_path: Path,
) -> None:
    text = instrumented(tmp_path)
    spans = printed_spans(text)
    servers = [span for span in spans if span["kind"] == "SpanKind.SERVER"]
    assert [span["name"] for span in servers] == ["GET /v1/orders"]
    assert servers[0]["context"]["trace_id"] == f"0x{TRACE}"
    assert servers[0]["parent_id"] == f"0x{PARENT}"
    parent = servers[0]["context"]["span_id"]
    names = [span["name"] for span in spans if span["parent_id"] == parent]
    assert names.count("SELECT") == 1
    assert text.count("spans are made by opentelemetry.sdk.trace") == 1
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"')]
    (access,) = [line for line in lines if line["logger"] == "service.access"]
    assert access["trace_id"] == TRACE
    assert f"0x{access['span_id']}" == parent

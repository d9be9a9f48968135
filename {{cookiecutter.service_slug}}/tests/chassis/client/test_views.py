"""Views that call other services: what their clients are told, how long it may take, the trace."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from callee import Callee
from callee import Connection
from flask import Blueprint
from flask.testing import FlaskClient
from lab import create_app
from lab import problem
from pydantic import HttpUrl
from support import ROOT
from support import SAMPLED
from support import TRACE
from support import Collector
from support import Lines
from support import attributes
from support import samples
from support import wait_until

from service.chassis.client import limits
from service.chassis.client.calls import client as call
from service.chassis.client.failures import BadStatus
from service.chassis.client.settings import CalleeUrl
from service.chassis.deadline import time_left
from service.chassis.http.application import Application
from service.chassis.http.routes import Routes
from service.chassis.http.validation import Model
from service.settings import Settings

WAITS = "X-Envoy-Expected-Rq-Timeout-Ms"
AWAY = "http://127.0.0.1:9"
blueprint = Blueprint("calling", __name__, url_prefix="/calling")
routes = Routes(blueprint)
started = threading.Event()
may_end = threading.Event()


class Calling(Settings):
    """The settings of a service that calls one."""

    stock_url: CalleeUrl = HttpUrl(AWAY)


class Thing(Model):
    name: str


class Left(Model):
    seconds: float


@routes.get("/things")
def show_thing() -> Thing:
    """Ask the other service."""
    return call("stock").get("/things", Thing)


@routes.get("/left")
def show_left() -> Left:
    """Say how long this may take."""
    return Left(seconds=min(time_left(), 999))


@routes.get("/kept")
def show_kept() -> Thing:
    """Do without the other service's answer."""
    try:
        return call("stock").get("/things", Thing)
    except BadStatus as failure:
        return Thing(name=str(failure.status))


@routes.get("/busy")
def keep_busy() -> None:
    """Take as long as the test likes."""
    started.set()
    may_end.wait(30)


PATIENT = {"call_timeout": 60, "call_read_timeout": 60}


def make(callee: Callee | str, **settings: object) -> Application:
    """Make the application with these views, and the address of what they call."""
    url = callee if isinstance(callee, str) else callee.url
    app = create_app(Calling.model_validate({"stock_url": url, "log_format": "json", **settings}))
    app.register_blueprint(blueprint)
    return app


@pytest.fixture
def app(callee: Callee) -> Application:
    """The application of these tests."""
    return make(callee, **PATIENT)


def test_a_view_returns_what_another_service_answers(client: FlaskClient) -> None:
    assert client.get("/calling/things").get_json() == {"name": "a"}


FAILURES: dict[str, tuple[Callable[[Connection], object], int]] = {
    "a problem of its own": (lambda one: one.send(500, b'{"detail": "secret"}'), 503),
    "not found": (lambda one: one.send(404, b"secret"), 503),
    "late itself": (lambda one: one.send(504, b"secret"), 504),
    "unavailable": (lambda one: one.send(503, b"secret"), 503),
    "of another form": (lambda one: one.send(200, b'{"secret": 1}'), 503),
    "none": (Connection.reset, 503),
    "late": (Connection.hang, 504),
}


@pytest.mark.parametrize(("behave", "status"), FAILURES.values(), ids=FAILURES)
def test_a_failure_that_a_view_does_not_handle_is_a_problem_that_names_the_service(
    callee: Callee, behave: Callable[[Connection], object], status: int
) -> None:
    callee.behave = behave
    timeout = 0.5 if behave is Connection.hang else 60
    client = make(callee, **PATIENT | {"call_timeout": timeout}).test_client()
    answer = client.get("/calling/things")
    assert problem(answer, status).dependency == "stock"
    assert "Retry-After" not in answer.headers
    members = {"type", "title", "status", "instance", "request_id", "trace_id", "dependency"}
    assert answer.get_json().keys() <= members
    assert "secret" not in answer.text


def test_a_service_that_says_when_to_come_again_is_quoted(
    client: FlaskClient, callee: Callee
) -> None:
    callee.behave = lambda one: one.send(429, b"", Retry_After="7")
    assert client.get("/calling/things").headers["Retry-After"] == "7"


def test_while_the_breaker_is_open_clients_are_told_when_to_come_again() -> None:
    client = make(AWAY).test_client()
    for _ in range(limits.MIN_RESULTS):
        problem(client.get("/calling/things"), 503)
    answer = client.get("/calling/things")
    assert problem(answer, 503).dependency == "stock"
    assert 1 <= int(answer.headers["Retry-After"]) <= 1.2 * limits.PAUSE + 1
    assert samples(client, "http_client_breaker_open")[("stock",)] == 1


def test_a_failure_is_a_line_of_the_log(client: FlaskClient, callee: Callee, lines: Lines) -> None:
    callee.behave = lambda one: one.send(500, b"")
    lines()
    answer = client.get("/calling/things")
    (line,) = [line for line in lines() if line["logger"] == "service.client"]
    assert line["message"] == "GET /things: stock answered 500"
    assert line["request_id"] == answer.headers["X-Request-ID"]


def test_a_view_may_handle_a_failure(client: FlaskClient, callee: Callee) -> None:
    callee.behave = lambda one: one.send(404, b"")
    assert client.get("/calling/kept").get_json() == {"name": "404"}


def test_a_service_that_is_not_declared_is_an_error(app: Application) -> None:
    with app.app_context(), pytest.raises(KeyError, match="bank"):
        call("bank")


# The time of the caller


def test_the_time_of_the_caller_is_that_of_the_work_and_of_its_calls(
    client: FlaskClient, callee: Callee
) -> None:
    left = client.get("/calling/left", headers={WAITS: "30000"}).get_json()["seconds"]
    assert 0 < left <= 30
    client.get("/calling/things", headers={WAITS: "30000"})
    assert 0 < int(callee.requests[0].headers[WAITS]) <= 30_000
    client.get("/calling/things", headers={WAITS: "600000"})
    assert 30_000 < int(callee.requests[1].headers[WAITS]) <= 60_000


@pytest.mark.parametrize("text", ["", "-1", "1.5", "soon", "1e3", "\xb2", "\xd9\xa3", "0x10", " "])
def test_a_time_that_is_none_is_no_limit(client: FlaskClient, text: str) -> None:
    environ = {"HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS": text}
    answer = client.get("/calling/left", environ_overrides=environ)
    assert answer.get_json() == {"seconds": 999}


def test_an_endless_time_is_no_limit(client: FlaskClient) -> None:
    answer = client.get("/calling/left", headers={WAITS: "9" * 5000})
    assert answer.get_json() == {"seconds": 999}


def test_the_time_of_one_request_is_not_that_of_the_next(client: FlaskClient) -> None:
    client.get("/calling/left", headers={WAITS: "10"})
    assert client.get("/calling/left").get_json() == {"seconds": 999}


def test_a_request_whose_time_is_over_is_refused_before_the_view(client: FlaskClient) -> None:
    problem(client.get("/calling/left", headers={WAITS: "0"}), 504)


def test_a_request_whose_time_passes_in_the_queue_is_refused() -> None:
    app = make(AWAY, concurrency=1, max_queue=1, queue_timeout=30)
    started.clear()
    may_end.clear()
    answers = []

    def ask(path: str, **headers: str) -> threading.Thread:
        def run() -> None:
            answers.append(app.test_client().get(path, headers=headers))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    busy = ask("/calling/busy")
    started.wait(30)
    waiting = ask("/calling/left", **{WAITS: "50"})
    queued = "http_server_waiting_requests"
    wait_until(lambda: samples(app.test_client(), queued) == {(): 1})
    then = time.monotonic() + 0.1
    wait_until(lambda: time.monotonic() > then)
    may_end.set()
    for thread in (busy, waiting):
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [204, 504]
    assert app.test_client().get("/calling/left").status_code == 200  # the slot is free


def test_probes_have_no_deadline(client: FlaskClient) -> None:
    assert client.get("/livez", headers={WAITS: "0"}).status_code == 200


# The trace


def test_a_call_carries_the_ids_of_the_request(client: FlaskClient, callee: Callee) -> None:
    client.get("/calling/things", headers={**SAMPLED, "X-Request-ID": "mine", "baggage": "a=b"})
    headers = callee.requests[0].headers
    assert headers["X-Request-ID"] == "mine"
    assert headers["traceparent"].split("-")[1] == TRACE
    assert headers["baggage"] == "a=b"


def test_a_call_is_a_span_of_the_requests_trace(
    callee: Callee, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.chassis.telemetry.otlp.SCHEDULE_DELAY", 0.02)
    app = make(callee, otel_exporter_otlp_endpoint=collector.url)
    answers = [lambda one: one.send(503, b""), lambda one: one.send()]
    callee.behave = lambda one: answers.pop(0)(one)
    app.test_client().get("/calling/things", headers=SAMPLED)
    spans = collector.wait_for(3)
    assert app.telemetry.exporter
    app.telemetry.exporter.shutdown()
    first, second, request = sorted(spans, key=lambda span: span["kind"] == 2)
    assert {span["parentSpanId"] for span in (first, second)} == {request["spanId"]}
    assert {span["traceId"] for span in spans} == {TRACE}
    assert [span["kind"] for span in (first, second)] == [3, 3]
    sent = [one.headers["traceparent"].split("-")[2] for one in callee.requests]
    assert sent == [first["spanId"], second["spanId"]]
    wanted = {"http.request.method": "GET", "server.address": "stock"}
    assert attributes(second) == wanted | {"http.response.status_code": "200"}
    number = {"key": "http.response.status_code", "value": {"intValue": "200"}}
    assert number in second["attributes"]
    assert attributes(first)["error.type"] == "BadStatus"
    assert attributes(first)["http.response.status_code"] == "503"


def test_the_span_of_a_call_without_an_answer_has_no_status(
    callee: Callee, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.chassis.telemetry.otlp.SCHEDULE_DELAY", 0.02)
    callee.behave = Connection.reset
    app = make(callee, otel_exporter_otlp_endpoint=collector.url)
    app.test_client().get("/calling/things", headers=SAMPLED)
    wanted = {"http.request.method", "server.address", "error.type"}
    calls = [span for span in collector.wait_for(3) if span["kind"] == 3]
    assert app.telemetry.exporter
    app.telemetry.exporter.shutdown()
    assert [attributes(span).keys() for span in calls] == [wanted, wanted]


# Without callees


def test_a_service_that_calls_nobody_does_not_load_what_calls() -> None:
    code = "import sys; from service.app import create_app; create_app(); print(*sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    done = subprocess.run(  # noqa: S603 the command is this file's own
        (sys.executable, "-c", code), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "service.chassis.client.calls" in loaded
    assert ("urllib3" in loaded) == bool(Settings.callees())

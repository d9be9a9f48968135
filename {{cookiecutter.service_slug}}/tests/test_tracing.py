"""Traces as a collector receives them, and what a collector that fails does to requests: nothing."""

import json
import re
import threading
import time
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from conftest import Start
from conftest import wait_until
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.app import create_app
from service.chassis import logs
from service.chassis import metrics
from service.chassis import tracing
from service.chassis.configuration import PROJECT
from service.chassis.framework import Service
from service.chassis.tracing import Fields
from service.chassis.tracing import sampler
from service.settings import Settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Collector(ThreadingHTTPServer):
    """An OTLP receiver on a free port; `status` is its answer, None hangs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.status: int | None = 200
        self.asked = 0
        self.documents: list[dict[str, Any]] = []
        self.headers = Message()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[dict[str, Any]]:
        resources = [resource for document in self.documents for resource in document["resourceSpans"]]
        return [span for resource in resources for scope in resource["scopeSpans"] for span in scope["spans"]]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.spans) >= count)
        return self.spans


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.asked += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status is None:
            time.sleep(30)
            return
        if self.server.status == 200 and self.path == "/v1/traces":
            self.server.headers = self.headers
            self.server.documents.append(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server
        server.shutdown()


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The application with a collector; its spans are sent every 20 ms, and 20 of them may wait."""
    for name, value in {"exporter": None, "sample": tracing.sample, "PAUSE": 0.02, "FLUSH": 0.1, "QUEUE": 20}.items():
        monkeypatch.setattr(tracing, name, value)
    app = create_app(
        Settings.model_validate(
            {
                "log_format": "json",
                "otel_exporter_otlp_endpoint": collector.url,
                "otel_exporter_otlp_headers": "x-key=a%20b, x-other=2",
                "otel_resource_attributes": "deployment.environment.name=test",
            }
        )
    )

    @app.get("/steps")
    def steps() -> str:
        with tracing.span("SELECT", "client", {"db.system.name": "sqlite", "rows": 3, "cached": False, "part": 0.5}):
            logs.access_log.warning("within")
        with tracing.span("broken"):
            raise RuntimeError
        return ""

    yield app
    assert tracing.exporter
    tracing.exporter.end()


@pytest.fixture
def client(traced: Service) -> FlaskClient:
    return traced.test_client()


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in span["attributes"]}


def dropped() -> float:
    return float(metrics.SPANS_DROPPED._value.get())


def waiting() -> float:
    (family,) = metrics.SPANS_WAITING.collect()
    return family.samples[0].value


def test_a_request_is_a_span_of_its_callers_trace(client: FlaskClient, collector: Collector) -> None:
    client.get("/v1/products/tea", headers=SAMPLED | {"User-Agent": "test"})
    (span,) = collector.wait_for(1)
    assert (span["traceId"], span["parentSpanId"], span["kind"]) == (TRACE, PARENT, 2)
    assert span["name"] == "GET /v1/products/<sku>"
    assert attributes(span) == {
        "http.request.method": "GET",
        "url.path": "/v1/products/tea",
        "url.scheme": "http",
        "http.route": "/v1/products/<sku>",
        "http.response.status_code": "200",
        "client.address": "127.0.0.1",
        "user_agent.original": "test",
    }
    assert 0 <= time.time_ns() - int(span["endTimeUnixNano"]) < 60e9
    assert 0 < int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"]) < 60e9


def test_the_service_and_what_the_settings_add_describe_the_spans(client: FlaskClient, collector: Collector) -> None:
    client.get("/v1/products/tea")
    collector.wait_for(1)
    resource = attributes(collector.documents[0]["resourceSpans"][0]["resource"])
    assert set(resource) == {"service.name", "service.version", "service.instance.id", "deployment.environment.name"}
    assert (collector.headers["x-key"], collector.headers["x-other"]) == ("a b", "2")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"otel_service_name": "shop", "otel_resource_attributes": "service.name=other"}, "shop"),
        ({"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}, PROJECT.name),
    ],
)
def test_the_more_exact_variable_wins(collector: Collector, traced: Service, settings: Fields, name: str) -> None:
    whole = {"otel_exporter_otlp_traces_endpoint": f"{collector.url}/v1/traces"}
    create_app(Settings.model_validate(whole | settings)).test_client().get("/v1/products/tea")
    collector.wait_for(1)
    assert attributes(collector.documents[0]["resourceSpans"][0]["resource"])["service.name"] == name


def test_a_collector_that_takes_too_long_is_given_up(traced: Service, collector: Collector) -> None:
    collector.status = None
    hasty = {"otel_exporter_otlp_endpoint": collector.url, "otel_exporter_otlp_timeout": 50}
    create_app(Settings.model_validate(hasty)).test_client().get("/v1/products/tea")
    wait_until(lambda: collector.asked > 1)


@pytest.mark.parametrize("value", ["abc", "=ab"])
@pytest.mark.parametrize("name", ["otel_exporter_otlp_headers", "otel_resource_attributes"])
def test_what_is_no_list_of_pairs_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match="must be `name=value"):
        Settings.model_validate({name: value})


@pytest.mark.parametrize("value", ["key=a%0Ab", "key=%E2%82%ACa", "a key=ab"])
def test_headers_that_cannot_be_sent_are_refused_and_not_told(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", value)
    with pytest.raises(SystemExit):
        Settings.load()
    told = capsys.readouterr().err
    assert "OTEL_EXPORTER_OTLP_HEADERS: Value error, must be `name=value,...` of printable ASCII" in told
    assert value not in told


def test_one_identity_is_in_the_span_the_line_and_the_problem(
    client: FlaskClient, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = client.get("/none")
    (span,) = collector.wait_for(1)
    line = json.loads(capfd.readouterr().out)
    assert span["traceId"] == line["trace_id"] == answer.json["trace_id"] == answer.headers["X-Request-ID"]  # type: ignore[index]
    assert span["spanId"] == line["span_id"]


def test_steps_of_a_request_are_its_children_and_their_lines_bear_their_ids(
    client: FlaskClient, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    client.get("/steps", headers=SAMPLED)
    select, broken, request = collector.wait_for(3)
    line = json.loads(capfd.readouterr().out.splitlines()[0])
    assert (select["name"], select["kind"], broken["kind"]) == ("SELECT", 3, 1)
    assert select["parentSpanId"] == broken["parentSpanId"] == request["spanId"]
    assert select["traceId"] == broken["traceId"] == TRACE
    assert (line["message"], line["span_id"], line["trace_id"]) == ("within", select["spanId"], TRACE)


def test_what_a_step_tells_keeps_its_type(client: FlaskClient, collector: Collector) -> None:
    client.get("/steps", headers=SAMPLED)
    values = {pair["key"]: pair["value"] for pair in collector.wait_for(3)[0]["attributes"]}
    assert values == {
        "db.system.name": {"stringValue": "sqlite"},
        "rows": {"intValue": "3"},
        "cached": {"boolValue": False},
        "part": {"doubleValue": 0.5},
    }


def test_what_failed_says_so(client: FlaskClient, collector: Collector) -> None:
    client.get("/steps", headers=SAMPLED)
    select, broken, request = collector.wait_for(3)
    assert [span["status"] for span in (select, broken, request)] == [{}, {"code": 2}, {"code": 2}]
    assert (attributes(broken)["error.type"], attributes(request)["error.type"]) == ("RuntimeError", "500")


def test_a_refusal_is_no_failure_of_the_service(client: FlaskClient, collector: Collector) -> None:
    client.open("/none", method="PROPFIND")
    (span,) = collector.wait_for(1)
    assert (span["name"], span["status"]) == ("HTTP", {})
    assert (attributes(span)["http.request.method"], attributes(span)["http.request.method_original"]) == (
        "_OTHER",
        "PROPFIND",
    )
    assert "http.route" not in attributes(span)


def test_probes_and_what_the_caller_does_not_sample_make_no_span(client: FlaskClient, collector: Collector) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path, headers=SAMPLED)
    client.get("/steps", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    client.get("/v1/products/tea")
    assert [span["name"] for span in collector.wait_for(1)] == ["GET /v1/products/<sku>"]


@pytest.mark.parametrize(
    ("name", "ratio", "parents_no", "parents_yes", "root"),
    [
        ("always_on", 0, True, True, True),
        ("always_off", 1, False, False, False),
        ("traceidratio", 0, False, False, False),
        ("traceidratio", 1, True, True, True),
        ("parentbased_always_on", 0, False, True, True),
        ("parentbased_always_off", 1, False, True, False),
        ("parentbased_traceidratio", 0, False, True, False),
        ("parentbased_traceidratio", 1, False, True, True),
    ],
)
def test_a_sampler_decides_as_its_name_says(
    name: str, ratio: float, parents_no: bool, parents_yes: bool, root: bool
) -> None:
    sample = sampler(name, ratio)
    assert (sample(TRACE, "00"), sample(TRACE, "03"), sample(TRACE, None)) == (parents_no, parents_yes, root)


@given(st.integers(1, 2**128 - 1))
def test_a_share_of_traces_is_the_same_share_for_every_service(number: int) -> None:
    assert sampler("traceidratio", 0.25)(f"{number:032x}", None) == (number % 2**64 < 2**62)


def test_without_an_endpoint_no_thread_runs_and_steps_are_free(app: Service) -> None:
    kept: list[object] = []
    app.add_url_rule("/step", view_func=lambda: kept.append(tracing.span("step")) or "")  # type: ignore[func-returns-value]
    app.test_client().get("/step", headers=SAMPLED)
    assert kept == [tracing.NOTHING]


@pytest.mark.parametrize(
    ("settings", "running"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_only_with_an_endpoint_the_process_has_a_thread_for_traces(
    start: Start, settings: dict[str, str], running: bool
) -> None:
    process = start("test_tracing:create_app_that_tells_its_threads", **settings)
    assert ("tracing" in json.loads(process.get("/threads")[2])) is running


def create_app_that_tells_its_threads() -> Service:
    app = create_app()
    app.add_url_rule("/threads", view_func=lambda: [thread.name for thread in threading.enumerate()])
    return app


@pytest.mark.parametrize("status", [503, None])
def test_what_does_not_fit_while_the_collector_is_away_is_counted_and_delays_nobody(
    client: FlaskClient, collector: Collector, status: int | None
) -> None:
    collector.status = status
    before, started = dropped(), time.monotonic()
    for _ in range(50):
        assert client.get("/v1/products/tea").status_code == 200
    assert time.monotonic() - started < 5
    assert dropped() - before == 30


def test_spans_wait_for_a_collector_that_comes_back(
    client: FlaskClient, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    collector.status = 503
    before = dropped()
    for _ in range(10):
        client.get("/v1/products/tea")
    wait_until(lambda: collector.asked > 2)
    assert waiting() == 10
    collector.status = 200
    assert len(collector.wait_for(10)) == 10
    assert dropped() == before
    wait_until(lambda: waiting() == 0)
    told = re.findall("the collector takes ([a-z ]+)", capfd.readouterr().out)
    assert told == ["no spans", "spans again"]


def test_spans_that_the_collector_refuses_are_counted_and_not_sent_again(
    client: FlaskClient, collector: Collector
) -> None:
    collector.status = 400
    before = dropped()
    client.get("/v1/products/tea")
    wait_until(lambda: dropped() == before + 1)
    collector.status = 200
    client.get("/v1/products/none")
    assert [attributes(span)["url.path"] for span in collector.wait_for(1)] == ["/v1/products/none"]


def test_many_spans_are_sent_in_messages_of_bounded_size(
    client: FlaskClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "BATCH", 4)
    for _ in range(10):
        client.get("/v1/products/tea")
    collector.wait_for(10)
    assert max(len(document["resourceSpans"][0]["scopeSpans"][0]["spans"]) for document in collector.documents) <= 4


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_last_spans_are_sent_before_the_process_ends(start: Start, collector: Collector, workers: str) -> None:
    process = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, WORKERS=workers)
    for _ in range(20):
        process.get("/v1/products/tea")
    assert process.stop() == 0
    assert len(collector.spans) == 20


def test_a_collector_that_hangs_does_not_hold_up_the_stop(start: Start, collector: Collector) -> None:
    collector.status = None
    process = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    process.get("/v1/products/tea")
    started = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - started < 5
    assert "1 spans were not sent before the end" in process.output


def test_the_histogram_names_a_trace_as_its_example(client: FlaskClient) -> None:
    client.get("/v1/products/tea", headers=SAMPLED)
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert re.search(rf'# {{span_id="[0-9a-f]{{16}}",trace_id="{TRACE}"}}', openmetrics.text)
    assert TRACE not in client.get("/metrics").text

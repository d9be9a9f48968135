"""Traces as a collector receives them, and what a failing collector does to requests: nothing."""

import asyncio
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from lab import create_app
from opentelemetry import baggage, propagate, trace
from opentelemetry.trace import SpanKind
from pydantic import ValidationError
from support import PARENT
from support import SAMPLED
from support import TRACE
from support import Collector
from support import Lines
from support import Start
from support import attributes
from support import samples
from support import wait_until

from service.chassis.http.application import Application
from service.chassis.project import PROJECT
from service.chassis.telemetry import Fields
from service.chassis.telemetry import logs
from service.chassis.telemetry import otlp
from service.chassis.telemetry import tracing
from service.settings import Settings

Make = Callable[..., Application]
THING = "/lab/things/tea"


@pytest.fixture
def app(traced: Application) -> Application:
    """The application with a collector, and a route whose request has two steps."""

    @traced.get("/steps")
    def steps() -> str:
        select = {"db.system.name": "sqlite", "rows": 3, "cached": False, "part": 0.5}
        with tracing.span("SELECT", "client", select):
            logs.access_log.warning("within")
        with tracing.span("broken"):
            raise RuntimeError
        return ""

    return traced


@pytest.fixture
def make(traced: Application) -> Iterator[Make]:
    """Makes further applications, by the names of settings: `make(otel_service_name="shop")`."""
    apps: list[Application] = []

    def make(**settings: object) -> Application:
        app = create_app(Settings.model_validate({"log_format": "json", **settings}))
        apps.append(app)
        return app

    yield make
    for app in apps:
        if app.telemetry.exporter:
            app.telemetry.exporter.shutdown()


def dropped(client: FlaskClient) -> float:
    """Return how many spans of the application were dropped."""
    return samples(client, "trace_spans_dropped_total")[()]


def waiting(client: FlaskClient) -> float:
    """Return how many spans of the application are to be sent."""
    return samples(client, "trace_spans_waiting")[()]


def resource_of(collector: Collector) -> Fields:
    """Return what describes the sender of the first document."""
    return attributes(collector.documents[0]["resourceSpans"][0]["resource"])


def paths(spans: list[Fields]) -> list[str]:
    """Return which requests the spans are of."""
    return [attributes(span)["url.path"] for span in spans]


def test_a_request_is_a_span_of_its_callers_trace(
    client: FlaskClient, collector: Collector
) -> None:
    before = time.time_ns()
    client.get(THING, headers=SAMPLED | {"User-Agent": "test"})
    after = time.time_ns()
    (span,) = collector.wait_for(1)
    assert (span["traceId"], span["parentSpanId"], span["kind"]) == (TRACE, PARENT, 2)
    assert span["name"] == "GET /lab/things/<name>"
    assert attributes(span) == {
        "http.request.method": "GET",
        "url.path": THING,
        "url.scheme": "http",
        "http.route": "/lab/things/<name>",
        "http.response.status_code": "200",
        "client.address": "127.0.0.1",
        "user_agent.original": "test",
    }
    start = int(span["startTimeUnixNano"])
    end = int(span["endTimeUnixNano"])
    assert start < end
    assert before <= end <= after


def test_the_service_and_what_the_settings_add_describe_the_spans(
    client: FlaskClient, collector: Collector
) -> None:
    client.get(THING)
    collector.wait_for(1)
    assert set(resource_of(collector)) == {
        "service.name",
        "service.version",
        "service.instance.id",
        "deployment.environment.name",
    }
    assert (collector.headers["x-key"], collector.headers["x-other"]) == ("a b", "2")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"otel_service_name": "shop", "otel_resource_attributes": "service.name=other"}, "shop"),
        ({"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}, PROJECT.name),
    ],
)
def test_the_more_exact_variable_wins(
    collector: Collector, make: Make, settings: Fields, name: str
) -> None:
    app = make(otel_exporter_otlp_traces_endpoint=f"{collector.url}/v1/traces", **settings)
    app.test_client().get(THING)
    collector.wait_for(1)
    assert resource_of(collector)["service.name"] == name


def test_a_collector_that_takes_too_long_is_given_up(collector: Collector, make: Make) -> None:
    collector.status = None
    app = make(otel_exporter_otlp_endpoint=collector.url, otel_exporter_otlp_timeout=50)
    app.test_client().get(THING)
    wait_until(lambda: collector.asked > 1)


@pytest.mark.parametrize("name", ["", "TRACES_"])
@pytest.mark.parametrize("credentials", ["user:topsecret", "topsecret", ":topsecret"])
def test_credentials_in_a_collectors_address_are_refused_and_not_shown(
    name: str,
    credentials: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT", f"http://{credentials}@collector:4318")
    with pytest.raises(SystemExit, match="2"):
        Settings.load()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"configuration: OTEL_EXPORTER_OTLP_{name}ENDPOINT: ")
    assert ("topsecret" in line, "OTEL_EXPORTER_OTLP_HEADERS" in line) == (False, True)


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
    what = "must be `name=value,...` of printable ASCII characters"
    assert told == f"configuration: OTEL_EXPORTER_OTLP_HEADERS: {what}\n"


def test_one_identity_is_in_the_span_the_line_and_the_problem(
    client: FlaskClient, collector: Collector, lines: Lines
) -> None:
    answer = client.get("/none")
    (span,) = collector.wait_for(1)
    (line,) = lines()
    assert answer.json
    assert span["traceId"] == line["trace_id"] == answer.json["trace_id"]
    assert span["traceId"] == answer.headers["X-Request-ID"]
    assert span["spanId"] == line["span_id"]


def test_steps_of_a_request_are_its_children_and_their_lines_bear_their_ids(
    client: FlaskClient, collector: Collector, lines: Lines
) -> None:
    client.get("/steps", headers=SAMPLED)
    select, broken, request = collector.wait_for(3)
    assert (select["name"], select["kind"], broken["kind"]) == ("SELECT", 3, 1)
    assert select["parentSpanId"] == broken["parentSpanId"] == request["spanId"]
    assert select["traceId"] == broken["traceId"] == TRACE
    within, *others = lines()
    assert (within["message"], within["span_id"]) == ("within", select["spanId"])
    assert {line["span_id"] for line in others} == {request["spanId"]}
    assert {line["trace_id"] for line in (within, *others)} == {TRACE}


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
    statuses = [span["status"]["code"] for span in (select, broken, request)]
    assert statuses == [0, 2, 2]
    assert attributes(broken)["error.type"] == "RuntimeError"
    assert attributes(request)["error.type"] == "500"


def test_a_refusal_is_no_failure_of_the_service(client: FlaskClient, collector: Collector) -> None:
    client.open("/none", method="PROPFIND")
    (span,) = collector.wait_for(1)
    told = attributes(span)
    assert (span["name"], span["status"]["code"]) == ("HTTP", 0)
    assert told["http.request.method"] == "_OTHER"
    assert told["http.request.method_original"] == "PROPFIND"
    assert "http.route" not in told


def test_probes_and_what_the_caller_does_not_sample_make_no_span(
    client: FlaskClient, collector: Collector
) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path, headers=SAMPLED)
    client.get("/steps", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    client.get(THING)
    assert [span["name"] for span in collector.wait_for(1)] == ["GET /lab/things/<name>"]


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
    sample = tracing.make_sampler(name, ratio)
    decisions = [sample(int(TRACE, 16), flags) for flags in (0, 3, None)]
    assert decisions == [parents_no, parents_yes, root]


@given(st.integers(1, 2**128 - 1))
def test_a_share_of_traces_is_the_same_share_for_every_service(number: int) -> None:
    sample = tracing.make_sampler("traceidratio", 0.25)
    assert sample(number, None) == (number % 2**64 < 2**62)


def flush(apps: list[Application]) -> None:
    """Return once the applications have sent all their spans, which ends their tracing."""
    for app in apps:
        if app.telemetry.exporter:
            app.telemetry.exporter.shutdown()
            app.telemetry.exporter._thread.join(15)


@pytest.mark.parametrize("is_first", [True, False], ids=["first on", "second on"])
def test_each_application_has_its_own_sampler(
    collector: Collector, make: Make, lines: Lines, is_first: bool
) -> None:
    samplers = ["always_on", "always_off"] if is_first else ["always_off", "always_on"]
    endpoint = {"otel_exporter_otlp_endpoint": collector.url}
    apps = [make(otel_traces_sampler=name, **endpoint) for name in samplers]
    for number, app in enumerate(apps):
        app.test_client().get(f"/{number}")
    flush(apps)
    assert paths(collector.spans) == ["/0" if is_first else "/1"]
    flags = [line["trace_flags"] for line in lines() if "trace_flags" in line]
    assert flags == (["01", "00"] if is_first else ["00", "01"])


def test_each_application_has_its_own_exporter(collector: Collector, make: Make) -> None:
    def step(name: str) -> str:
        with tracing.span(name):
            return ""

    with Collector() as other:
        apps = [
            make(otel_exporter_otlp_endpoint=url, otel_exporter_otlp_headers=f"x-key={key}")
            for url, key in ((collector.url, "a"), (other.url, "b"))
        ]
        apps.append(make())
        for number, app in enumerate(apps):
            app.add_url_rule("/<name>", view_func=step)
            app.test_client().get(f"/{number}", headers=SAMPLED)
        flush(apps)
        assert [span["name"] for span in collector.spans] == ["0", "GET /<name>"]
        assert [span["name"] for span in other.spans] == ["1", "GET /<name>"]
        assert (collector.headers["x-key"], other.headers["x-key"]) == ("a", "b")


def test_each_application_counts_its_own_spans(collector: Collector, make: Make) -> None:
    with Collector() as other:
        collector.status = 400
        other.status = 503
        refused = make(otel_exporter_otlp_endpoint=collector.url).test_client()
        kept = make(otel_exporter_otlp_endpoint=other.url).test_client()
        refused.get(THING)
        kept.get(THING)
        wait_until(lambda: dropped(refused) == 1 and other.asked > 1)
        assert (dropped(refused), waiting(refused)) == (1, 0)
        assert (dropped(kept), waiting(kept)) == (0, 1)
        other.status = 200
        wait_until(lambda: waiting(kept) == 0)


def test_what_is_not_sampled_makes_no_span_and_passes_its_ids_on(
    client: FlaskClient, app: Application, collector: Collector
) -> None:
    kept: list[object] = []
    carrier: dict[str, str] = {}

    @app.get("/step")
    def step() -> str:
        request = trace.get_current_span()
        library = trace.get_tracer("library")
        with tracing.span("step") as inner, library.start_as_current_span("library") as deeper:
            propagate.inject(carrier)
        kept.extend([inner is request, deeper is request, library.start_span("x") is request])
        return ""

    client.get("/step", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert kept == [True, True, True]
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-00", carrier["traceparent"])
    assert PARENT not in carrier["traceparent"]
    assert app.telemetry.exporter
    assert len(app.telemetry.exporter._spans) == 0


def test_without_an_endpoint_the_caller_s_decision_is_passed_on(make: Make) -> None:
    carrier: dict[str, str] = {}
    app = make()

    @app.get("/step")
    def step() -> str:
        with tracing.span("step"):
            propagate.inject(carrier)
        return ""

    assert app.test_client().get("/step", headers=SAMPLED).status_code == 200
    assert carrier["traceparent"].startswith(f"00-{TRACE}-")
    assert carrier["traceparent"].endswith("-01")
    assert app.telemetry.exporter is None


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
    target = "chassis.telemetry.test_tracing:create_app_that_tells_its_threads"
    process = start(target, **settings)
    assert ("tracing" in json.loads(process.get("/threads")[2])) is running


def create_app_that_tells_its_threads() -> Application:
    """Make the service's application with one more route."""
    app = create_app()
    app.add_url_rule(
        "/threads", view_func=lambda: [thread.name for thread in threading.enumerate()]
    )
    return app


@pytest.mark.parametrize("status", [503, None])
def test_what_does_not_fit_while_the_collector_is_away_is_counted_and_delays_nobody(
    client: FlaskClient, collector: Collector, status: int | None
) -> None:
    collector.status = status
    assert client.get(THING).status_code == 200
    wait_until(lambda: collector.asked > 0)
    for _ in range(49):
        assert client.get(THING).status_code == 200
        # It still keeps the first sender waiting, and no request waits for that.
        assert status == 503 or collector.asked == 1
    assert (dropped(client), waiting(client)) == (30, 20)


def test_spans_wait_for_a_collector_that_comes_back(
    client: FlaskClient, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    collector.status = 503
    for _ in range(10):
        client.get(THING)
    wait_until(lambda: collector.asked > 2)
    assert waiting(client) == 10
    collector.status = 200
    assert len(collector.wait_for(10)) == 10
    wait_until(lambda: waiting(client) == 0)
    assert dropped(client) == 0
    told = re.findall("the collector takes ([a-z ]+)", capfd.readouterr().out)
    assert told == ["no spans", "spans again"]


def test_spans_that_the_collector_refuses_are_counted_and_not_sent_again(
    client: FlaskClient, collector: Collector
) -> None:
    collector.status = 400
    client.get(THING)
    wait_until(lambda: dropped(client) == 1)
    collector.status = 200
    client.get("/lab/things/none")
    assert paths(collector.wait_for(1)) == ["/lab/things/none"]


def test_many_spans_are_sent_in_messages_of_bounded_size(
    client: FlaskClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.status = 503
    monkeypatch.setattr(otlp, "MAX_EXPORT_BATCH_SIZE", 4)
    for _ in range(10):
        client.get(THING)
    collector.status = 200
    collector.wait_for(10)
    resources = [document["resourceSpans"][0] for document in collector.documents]
    assert max(len(resource["scopeSpans"][0]["spans"]) for resource in resources) == 4


def test_a_full_message_is_sent_before_its_time(
    collector: Collector, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "SCHEDULE_DELAY", 3600)
    monkeypatch.setattr(otlp, "MAX_EXPORT_BATCH_SIZE", 4)
    client = make(otel_exporter_otlp_endpoint=collector.url).test_client()
    for _ in range(4):
        client.get(THING)
    assert len(collector.wait_for(4)) == 4


def test_the_last_spans_are_sent_before_the_process_ends(
    start: Start, collector: Collector
) -> None:
    process = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    for _ in range(20):
        process.get(THING)
    assert process.stop() == 0
    assert len(collector.spans) == 20


def test_a_collector_that_hangs_does_not_hold_up_the_stop(
    start: Start, collector: Collector
) -> None:
    collector.status = None
    patience = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600000", "SHUTDOWN_GRACE": "3600"}
    process = start(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **patience)
    process.get(THING)
    assert process.stop() == 0
    assert "1 spans were not sent before the end" in process.output


def by_name(spans: list[Fields]) -> dict[str, Fields]:
    """Return spans by their names."""
    return {span["name"]: span for span in spans}


def test_spans_of_any_tracer_of_the_api_join_the_request(
    client: FlaskClient, app: Application, collector: Collector, lines: Lines
) -> None:
    tracer = trace.get_tracer("shop", "1.0")
    carrier: dict[str, str] = {}

    @app.get("/price")
    def price() -> str:
        with tracer.start_as_current_span("price", attributes={"sizes": [1, 2]}) as span:
            logging.getLogger("shop").warning("within")
            span.add_event("priced", {"cents": 3})
            span.add_link(trace.SpanContext(1, 2, is_remote=False))
            span.update_name("priced")
            propagate.inject(carrier)
        trace.get_current_span().set_attribute("shop.customer", "c1")
        return baggage.get_all()["k"]  # type: ignore[return-value]

    headers = {**SAMPLED, "tracestate": "a=1", "baggage": "k=v"}
    assert client.get("/price", headers=headers).text == "v"
    spans = by_name(collector.wait_for(2))
    request = spans["GET /price"]
    priced = spans["priced"]
    assert (priced["traceId"], priced["parentSpanId"]) == (TRACE, request["spanId"])
    assert priced["attributes"][0]["value"] == {
        "arrayValue": {"values": [{"intValue": "1"}, {"intValue": "2"}]}
    }
    assert [event["name"] for event in priced["events"]] == ["priced"]
    assert priced["links"][0]["traceId"] == f"{1:032x}"
    assert attributes(request)["shop.customer"] == "c1"
    assert request["traceState"] == priced["traceState"] == "a=1"
    within = next(line for line in lines() if line["message"] == "within")
    assert within["span_id"] == priced["spanId"]
    assert carrier["traceparent"] == f"00-{TRACE}-{priced['spanId']}-01"
    assert (carrier["tracestate"], carrier["baggage"]) == ("a=1", "k=v")
    scopes = collector.documents[0]["resourceSpans"][0]["scopeSpans"]
    assert {"name": "shop", "version": "1.0"} in [scope["scope"] for scope in scopes]


def test_an_error_within_a_span_is_an_event_and_its_status(
    client: FlaskClient, app: Application, collector: Collector
) -> None:
    @app.get("/fail")
    def fail() -> str:
        with trace.get_tracer("shop").start_as_current_span("broken"):
            raise ValueError("no")
        return ""

    client.get("/fail")
    broken = by_name(collector.wait_for(2))["broken"]
    assert broken["status"] == {"code": 2, "message": "ValueError: no"}
    assert broken["events"][0]["name"] == "exception"


def test_a_status_of_ok_stays(traced: Application, collector: Collector) -> None:
    with trace.get_tracer("shop").start_as_current_span("work") as span:
        span.set_status(trace.StatusCode.OK)
        span.set_status(trace.StatusCode.ERROR, "late")
    span.end()
    (work,) = collector.wait_for(1)
    assert work["status"]["code"] == 1
    assert not span.is_recording()


def test_a_decorator_makes_a_span_for_each_call(traced: Application, collector: Collector) -> None:
    tracer = trace.get_tracer("shop")

    @tracer.start_as_current_span("work")
    def work() -> bool:
        return trace.get_current_span().is_recording()

    @tracer.start_as_current_span("wait")
    async def wait() -> bool:
        return trace.get_current_span().is_recording()

    assert [work(), work(), asyncio.run(wait())] == [True, True, True]
    names = [span["name"] for span in collector.wait_for(3)]
    assert names == ["work", "work", "wait"]


def test_outside_requests_the_sampler_decides(collector: Collector) -> None:
    given = {"otel_exporter_otlp_endpoint": collector.url, "otel_traces_sampler": "always_off"}
    app = create_app(Settings.model_validate(given))
    with trace.get_tracer("shop").start_as_current_span("job") as span:
        assert not span.is_recording()
        assert span.get_span_context().is_valid
    assert app.telemetry.exporter
    app.telemetry.exporter.shutdown()


class ForeignTracer(trace.NoOpTracer):
    """Another provider's tracer, which remembers what it was asked for."""

    def __init__(self) -> None:
        self.started: list[tuple[str, SpanKind]] = []

    def start_span(self, name: str, *arguments: Any, **options: Any) -> trace.Span:
        kind = options.get("kind") or arguments[1]
        self.started.append((name, kind))
        return trace.NonRecordingSpan(trace.SpanContext(int(TRACE, 16), int(PARENT, 16), False))


class ForeignProvider(trace.TracerProvider):
    """A provider that somebody sets before the application is made."""

    def __init__(self) -> None:
        self.tracer = ForeignTracer()

    def get_tracer(self, *_arguments: Any, **_options: Any) -> ForeignTracer:
        return self.tracer


def test_a_provider_that_was_set_before_makes_all_spans(
    collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    provider = ForeignProvider()
    trace.set_tracer_provider(provider)
    settings = {"log_format": "json", "otel_exporter_otlp_endpoint": collector.url}
    app = create_app(Settings.model_validate(settings))
    answer = app.test_client().get("/none")
    assert provider.tracer.started[0] == ("HTTP", SpanKind.SERVER)
    assert app.telemetry.exporter is None
    told, request = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert told["message"] == f"spans are made by {__name__}"
    assert request["trace_id"] == answer.headers["X-Request-ID"] == TRACE
    assert request["span_id"] == PARENT


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_TRACES_EXPORTER", "console", "must be otlp or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "must be http/json"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "must be always_on or "),
        ("OTEL_PROPAGATORS", "tracecontext,x-own", "no such propagator is installed: x-own"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100", "needs OpenTelemetry's SDK: OTEL_BSP_SCHEDULE_DELAY"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true", "OTEL_EXPORTER_OTLP_INSECURE"),
    ],
)
def test_a_variable_of_the_sdk_that_would_be_ignored_is_refused(
    name: str,
    value: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        Settings.load()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    if name != "OTEL_PROPAGATORS":
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk", ModuleType("opentelemetry.sdk"))
        Settings.load()


def test_no_traces_are_exported_where_the_exporter_is_none(make: Make) -> None:
    app = make(otel_exporter_otlp_endpoint="http://127.0.0.1:9", otel_traces_exporter="none")
    assert app.telemetry.exporter is None


class Unprintable:
    """A value whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("\ud800", {"stringValue": "?"}),
        (2**63, {"stringValue": str(2**63)}),
        (-(2**63), {"intValue": str(-(2**63))}),
        (float("nan"), {"stringValue": "nan"}),
        (float("-inf"), {"stringValue": "-inf"}),
        (None, {"stringValue": "None"}),
        (b"\xff", {"stringValue": "b'\\xff'"}),
        (
            [1, [True]],
            {
                "arrayValue": {
                    "values": [
                        {"intValue": "1"},
                        {"arrayValue": {"values": [{"boolValue": True}]}},
                    ]
                }
            },
        ),
    ],
)
def test_an_odd_value_is_sent_as_the_protocol_knows_it(
    traced: Application, collector: Collector, value: object, encoded: Fields
) -> None:
    with trace.get_tracer("shop").start_as_current_span("\ud800") as span:
        span.set_attributes({"value": value, 5: "odd"})  # type: ignore[dict-item]
    (sent,) = collector.wait_for(1)
    assert sent["name"] == "?"
    assert [pair["key"] for pair in sent["attributes"]] == ["value", "5"]
    assert sent["attributes"][0]["value"] == encoded


def test_a_span_that_cannot_be_encoded_fails_no_request(
    client: FlaskClient, app: Application, collector: Collector
) -> None:
    @app.get("/odd")
    def odd() -> str:
        trace.get_current_span().set_attribute("odd", Unprintable())  # type: ignore[arg-type]
        return ""

    assert client.get("/odd").status_code == 200
    assert dropped(client) == 1
    client.get(THING)
    assert paths(collector.wait_for(1)) == [THING]


def test_arguments_may_be_given_by_position(traced: Application, collector: Collector) -> None:
    tracer = trace.get_tracer("shop")
    kept: list[trace.Span] = []

    def work() -> None:
        kept.append(trace.get_current_span())
        raise ValueError("no")

    attributes = {"a": 1}
    with (
        pytest.raises(ValueError, match="no"),
        tracer.start_as_current_span(
            "work", None, SpanKind.CLIENT, attributes, [], None, False, False, False
        ),
    ):
        work()
    kept[0].end()
    (sent,) = collector.wait_for(1)
    assert (sent["kind"], sent["events"], sent["status"]["code"]) == (3, [], 0)

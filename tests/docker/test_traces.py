"""Traces of a running service as a collector gets them; collectors that fail disturb no request."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from tests.docker.collector import Collector
from tests.docker.collector import traced
from tests.docker.collector import values
from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import ask
from tests.docker.containers import eventually
from tests.docker.containers import replaced
from tests.docker.load import KeepAliveLoad

pytestmark = pytest.mark.docker

QUEUE = 100
# A request that waited for a collector would be far slower than one of a busy machine.
PATIENT = ("--env", "OTEL_EXPORTER_OTLP_TIMEOUT=60000")
# The exporter's queue is short. One route has a step and logs within it, another shows the threads.
ADDED = f"""

from service.chassis.telemetry import otlp

otlp.MAX_QUEUE_SIZE = {QUEUE}


def make_app(settings=None, create_app=create_app):
    import logging
    import threading

    from flask import abort

    app = create_app(settings)

    @app.get("/told")
    def told():
        with tracing.span("look", "client", {{"rows": 2, "cached": False, "part": 0.5}}):
            logging.getLogger("service.told").warning("within")
        abort(404)

    @app.get("/threads")
    def threads():
        return [thread.name for thread in threading.enumerate()]

    return app


create_app = make_app
"""
# Connections that a process has opened itself: not those to its own port, as of a health check.
OUTGOING = """
lines = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
print([line for line in lines if line[3] in ("01", "02") and ":1388" not in line[1] + line[2]])
"""
# What is asked, and the steps that its trace shows within the request.
STEPS = [("/told", ["look"])]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that takes all spans."""
    server = Collector()
    yield server
    server.close()


@pytest.fixture
def added(service: Path, tmp_path: Path) -> tuple[str, str]:
    """The option that gives the service the routes above."""
    return replaced(tmp_path, service, ADDED)


def dropped(port: int) -> float:
    """Spans that the collector did not take, as the service counts them."""
    families = text_string_to_metric_families(ask(port, "/metrics")[2].decode())
    samples = [sample for family in families for sample in family.samples]
    (value,) = (one.value for one in samples if one.name == "trace_spans_dropped_total")
    return value


def call(port: int, path: str) -> tuple[Span, Any, Any]:
    """Call within a span of our own; return it, and the answer's headers and body."""
    caller = Span(trace_id=os.urandom(16), span_id=os.urandom(8))
    caller.name = "call"
    caller.kind = Span.SPAN_KIND_CLIENT
    caller.start_time_unix_nano = time.time_ns()
    parent = f"00-{caller.trace_id.hex()}-{caller.span_id.hex()}-01"
    _, headers, body = ask(port, path, headers={"traceparent": parent})
    caller.end_time_unix_nano = time.time_ns()
    return caller, headers, json.loads(body)


class Trace(NamedTuple):
    """One call within a span of our own, and what is found of it everywhere."""

    caller: Span
    request: Span
    steps: list[Span]
    headers: Any
    problem: dict[str, Any]
    lines: list[dict[str, Any]]
    resource: dict[str, Any]


@pytest.fixture(scope="module", params=STEPS, ids=lambda case: case[0])
def trace(
    request: pytest.FixtureRequest,
    image: str,
    service: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Trace]:
    """What is asked and the names of the steps are the parameter's."""
    path, names = request.param
    collector = Collector()
    added = replaced(tmp_path_factory.mktemp("trace"), service, ADDED)
    options = ("--publish", "127.0.0.1::5000", *collector.options, *added)
    container = Container(image, *options).wait_until_ready()
    caller, headers, problem = call(container.port, path)
    eventually(lambda: len(collector.spans) > len(names), "all spans")
    *steps, served = collector.spans
    resource = values(collector.requests[0].resource_spans[0].resource.attributes)
    assert (collector.faults, [span.name for span in steps]) == ([], names)
    yield Trace(caller, served, steps, headers, problem, container.lines(), resource)
    container.remove()
    collector.close()


def test_request_and_steps_belong_to_the_callers_span(trace: Trace) -> None:
    assert trace.request.parent_span_id == trace.caller.span_id
    assert trace.request.kind == Span.SPAN_KIND_SERVER
    assert {span.parent_span_id for span in trace.steps} == {trace.request.span_id}
    assert {span.trace_id for span in (trace.request, *trace.steps)} == {trace.caller.trace_id}


def test_answer_and_problem_name_the_trace(trace: Trace) -> None:
    ids = (trace.headers["X-Request-ID"], trace.problem["request_id"], trace.problem["trace_id"])
    assert set(ids) == {trace.caller.trace_id.hex()}


def test_lines_name_the_span_that_they_were_written_in(trace: Trace) -> None:
    trace_id = trace.caller.trace_id.hex()
    lines = [line for line in trace.lines if line.get("trace_id") == trace_id]
    named = {(line["logger"], line["span_id"]) for line in lines}
    assert ("service.access", trace.request.span_id.hex()) in named
    assert ("service.told", trace.steps[-1].span_id.hex()) in named


def test_each_span_lies_within_its_parents_time(trace: Trace) -> None:
    nested = (trace.caller, trace.request, trace.steps[0])
    starts = [span.start_time_unix_nano for span in nested]
    ends = [span.end_time_unix_nano for span in reversed(nested)]
    assert starts + ends == sorted(starts + ends)


def test_attributes_have_the_names_and_types_of_the_conventions(trace: Trace) -> None:
    said = values(trace.request.attributes)
    assert (said["http.request.method"], said["http.route"]) == ("GET", "/told")
    assert (said["url.path"], said["url.scheme"]) == ("/told", "http")
    assert said["http.response.status_code"] == 404
    assert values(trace.steps[0].attributes) == {"rows": 2, "cached": False, "part": 0.5}
    assert trace.resource["service.name"] == "flask-microservice"
    assert trace.resource["service.version"] == "0.1.0"


def test_the_span_of_every_request_arrives_once(run: Run, collector: Collector) -> None:
    port = run(*collector.options).wait_until_ready().port
    asked = 100
    for _ in range(asked):
        assert ask(port, "/v1/products/tea")[0] == 200
    eventually(lambda: len(collector.spans) >= asked, "all spans")
    assert collector.faults == []
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == asked


@pytest.mark.parametrize(
    ("status", "listens", "kept"),
    [(None, True, QUEUE), (503, True, QUEUE), (400, True, 0), (200, False, QUEUE)],
    ids=["hangs", "is overloaded", "refuses the spans", "refuses connections"],
)
def test_no_request_fails_or_waits_while_the_collector(
    run: Run, added: tuple[str, str], status: int | None, listens: bool, kept: int
) -> None:
    collector = Collector(status)
    if not listens:
        collector.close()
    port = run(*collector.options, *PATIENT, *added).wait_until_ready().port
    load = KeepAliveLoad(port, "/v1/products/tea", clients=4)
    eventually(lambda: load.answered > 600, "600 requests")
    load.stop()
    assert load.failures == []
    assert load.slowest < 30
    # Requests that end at the same time may find the same place free.
    eventually(
        lambda: kept <= load.answered - dropped(port) < kept + 8, "what was not sent is counted"
    )
    if listens:
        collector.close()


def test_no_request_fails_when_the_collector_dies_and_every_span_is_accounted_for(
    run: Run, collector: Collector, added: tuple[str, str]
) -> None:
    port = run(*collector.options, *PATIENT, *added).wait_until_ready().port
    load = KeepAliveLoad(port, "/v1/products/tea", clients=4)
    eventually(lambda: len(collector.spans) > 100, "spans")
    collector.close()
    answered = load.answered
    eventually(lambda: load.answered > answered + 600, "600 requests more")
    load.stop()
    assert (load.failures, collector.faults) == ([], [])
    assert load.slowest < 30
    received = len({span.span_id for span in collector.spans})
    assert QUEUE <= load.answered - received - dropped(port) < QUEUE + 8


def threads(container: Container) -> list[str]:
    """The names of the worker's threads."""
    names: list[str] = json.loads(ask(container.port, "/threads")[2])
    return names


@pytest.mark.parametrize(
    "off", [(), (*traced(9), "--env", "OTEL_SDK_DISABLED=true")], ids=["unset", "disabled"]
)
def test_without_otel_there_is_neither_a_thread_nor_a_connection(
    run: Run, added: tuple[str, str], off: tuple[str, ...]
) -> None:
    container = run(*off, *added).wait_until_ready()
    assert ask(container.port, "/v1/products/tea")[0] == 200
    assert "tracing" not in threads(container)
    assert container.python(OUTGOING) == "[]"


def test_with_otel_there_are_a_thread_and_a_connection(run: Run, added: tuple[str, str]) -> None:
    collector = Collector(status=None)
    container = run(*collector.options, *added).wait_until_ready()
    assert threads(container).count("tracing") == 1
    eventually(lambda: container.python(OUTGOING) != "[]", "a connection")
    collector.close()

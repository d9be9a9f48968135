"""Traces of a running service as a collector gets them, and collectors that fail: no request notices."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
# The sender's queue is short; one route has a step and tells a line within it, another shows the worker's threads.
ADDED = f"""

tracing.QUEUE = {QUEUE}


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
# Connections that a process has opened itself: not those to its own port.
OUTGOING = """
lines = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
print([line for line in lines if line[3] in ("01", "02") and not line[1].endswith(":1388")])
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
    return sum(one.value for family in families for one in family.samples if one.name == "trace_spans_dropped_total")


def call(port: int, path: str) -> tuple[Span, Any, Any]:
    """Call within a span of our own; return it, and the answer's headers and body."""
    caller = Span(trace_id=os.urandom(16), span_id=os.urandom(8), name="call", kind=Span.SPAN_KIND_CLIENT)
    caller.start_time_unix_nano = time.time_ns()
    parent = f"00-{caller.trace_id.hex()}-{caller.span_id.hex()}-01"
    _, headers, body = ask(port, path, headers={"traceparent": parent})
    caller.end_time_unix_nano = time.time_ns()
    return caller, headers, json.loads(body)


@pytest.mark.parametrize(("path", "steps"), STEPS)
def test_caller_request_and_steps_are_one_trace_that_answer_problem_and_log_name(
    run: Run, collector: Collector, added: tuple[str, str], path: str, steps: list[str]
) -> None:
    container = run(*collector.options, *added).wait_until_ready()
    caller, headers, problem = call(container.port, path)
    eventually(lambda: len(collector.spans) == len(steps) + 1, "all spans")
    assert collector.faults == []
    *within, request = collector.spans
    assert [span.name for span in within] == steps
    assert (request.parent_span_id, request.kind) == (caller.span_id, Span.SPAN_KIND_SERVER)
    assert {span.parent_span_id for span in within} == {request.span_id}
    assert {span.trace_id for span in collector.spans} == {caller.trace_id}
    trace = caller.trace_id.hex()
    assert headers["X-Request-ID"] == problem["request_id"] == problem["trace_id"] == trace
    told = {(line["logger"], line["span_id"]) for line in container.lines() if line.get("trace_id") == trace}
    assert told == {("service.told", within[-1].span_id.hex()), ("service.access", request.span_id.hex())}


def test_each_span_lies_within_its_parents_time(run: Run, collector: Collector, added: tuple[str, str]) -> None:
    caller, _, _ = call(run(*collector.options, *added).wait_until_ready().port, "/told")
    eventually(lambda: len(collector.spans) == 2, "all spans")
    look, request = collector.spans
    starts = [span.start_time_unix_nano for span in (caller, request, look)]
    ends = [span.end_time_unix_nano for span in (look, request, caller)]
    assert starts + ends == sorted(starts + ends)


def test_attributes_have_the_types_of_the_conventions(run: Run, collector: Collector, added: tuple[str, str]) -> None:
    call(run(*collector.options, *added).wait_until_ready().port, "/told")
    eventually(lambda: len(collector.spans) == 2, "all spans")
    look, request = (values(span.attributes) for span in collector.spans)
    assert look == {"rows": 2, "cached": False, "part": 0.5}
    assert (request["http.request.method"], request["http.route"]) == ("GET", "/told")
    assert (request["url.path"], request["url.scheme"]) == ("/told", "http")
    assert request["http.response.status_code"] == 404
    resource = values(collector.requests[0].resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["service.version"]) == ("flask-microservice", "0.1.0")


def test_the_spans_of_all_workers_arrive_once_each(run: Run, collector: Collector) -> None:
    container = run(*collector.options, "--env", "WORKERS=2").wait_until_ready()
    load = KeepAliveLoad(container.port, "/v1/products/tea", clients=4)
    eventually(lambda: load.answered > 300, "300 requests")
    load.stop()
    eventually(lambda: len(collector.spans) >= load.answered, "all spans")
    assert (load.failures, collector.faults) == ([], [])
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == load.answered
    resources = [values(one.resource_spans[0].resource.attributes) for one in collector.requests]
    assert len({resource["service.instance.id"] for resource in resources}) == 2


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
    port = run(*collector.options, *added).wait_until_ready().port
    load = KeepAliveLoad(port, "/v1/products/tea", clients=4)
    eventually(lambda: load.answered > 600, "600 requests")
    load.stop()
    assert load.failures == []
    assert load.slowest < 5  # seconds: a collector that hangs takes 10
    # Requests that end at the same time may find the same place free.
    eventually(lambda: kept <= load.answered - dropped(port) < kept + 8, "what was not sent is counted")
    if listens:
        collector.close()


def test_no_request_fails_when_the_collector_dies_and_every_span_is_accounted_for(
    run: Run, collector: Collector, added: tuple[str, str]
) -> None:
    port = run(*collector.options, *added).wait_until_ready().port
    load = KeepAliveLoad(port, "/v1/products/tea", clients=4)
    eventually(lambda: len(collector.spans) > 100, "spans")
    collector.close()
    answered = load.answered
    eventually(lambda: load.answered > answered + 600, "600 requests more")
    load.stop()
    assert (load.failures, collector.faults) == ([], [])
    assert load.slowest < 5
    received = len({span.span_id for span in collector.spans})
    assert QUEUE <= load.answered - received - dropped(port) < QUEUE + 8


def threads(container: Container) -> list[str]:
    """The names of the worker's threads."""
    names: list[str] = json.loads(ask(container.port, "/threads")[2])
    return names


@pytest.mark.parametrize("off", [(), (*traced(9), "--env", "OTEL_SDK_DISABLED=true")], ids=["unset", "disabled"])
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

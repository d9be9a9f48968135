"""What one can see of a request from outside: ids, log lines, metrics."""

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from service.chassis import logs
from service.chassis import metrics
from service.chassis import output
from service.chassis.framework import Service
from service.settings import Settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(app: Service, capfd: pytest.CaptureFixture[str]) -> Lines:
    """The lines on standard output since the last call."""
    return lambda: [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def samples(client: FlaskClient, name: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {tuple(s.labels.values()): s.value for family in families for s in family.samples if s.name == name}


def test_a_request_leaves_one_line_that_says_who_what_and_how(client: FlaskClient, lines: Lines) -> None:
    client.get("/v1/products/tea?limit=secret")
    (line,) = lines()
    assert line["http.request.method"] == "GET"
    assert line["url.path"] == "/v1/products/tea"
    assert line["http.route"] == "/v1/products/<sku>"
    assert line["http.response.status_code"] == 200
    assert 0 < line["http.server.request.duration"] < 10
    assert {"timestamp", "level", "service.name", "service.version", "request_id", "trace_id", "span_id"} <= set(line)
    assert "secret" not in str(line)


def test_probes_leave_no_line_and_no_sample(client: FlaskClient, lines: Lines) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path)
    assert lines() == []
    assert not any("livez" in str(labels) for labels in samples(client, "http_server_request_duration_seconds_count"))


def test_one_identity_is_in_the_line_the_header_and_the_problem(client: FlaskClient, lines: Lines) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "order-7"}
    answer = client.get("/v1/products/none", headers=headers)
    (line,) = lines()
    assert answer.headers["X-Request-ID"] == line["request_id"] == answer.json["request_id"] == "order-7"  # type: ignore[index]
    assert line["trace_id"] == answer.json["trace_id"] == TRACE  # type: ignore[index]
    assert line["span_id"] not in (PARENT, "")


def test_without_ids_of_the_client_they_are_made(client: FlaskClient, lines: Lines) -> None:
    first, second = client.get("/v1/products/tea"), client.get("/v1/products/tea")
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    assert [re.fullmatch("[0-9a-f]{32}", line["trace_id"]) is not None for line in lines()] == [True, True]


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_a_malformed_traceparent_is_ignored(client: FlaskClient, lines: Lines, traceparent: str) -> None:
    client.get("/v1/products/tea", environ_overrides={"HTTP_TRACEPARENT": traceparent})
    assert lines()[0]["trace_id"] != TRACE


def test_a_traceparent_of_a_later_version_is_taken(client: FlaskClient, lines: Lines) -> None:
    client.get("/v1/products/tea", headers={"traceparent": f"cc-{TRACE}-{PARENT}-01-what-comes"})
    assert lines()[0]["trace_id"] == TRACE


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "a\r\nSet-Cookie: b", "é", "<script>"])
def test_a_hostile_request_id_is_replaced(client: FlaskClient, request_id: str) -> None:
    answer = client.get("/v1/products/tea", environ_overrides={"HTTP_X_REQUEST_ID": request_id})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


@given(path=st.text(max_size=50), header=st.text(st.characters(max_codepoint=255), max_size=50))
def test_whatever_comes_in_a_line_is_one_line_of_json(path: str, header: str) -> None:
    event = {"timestamp": None, "path": path, "header": header, header: path, "number": 2**70}
    line = logs.encode(event)
    assert line.count(b"\n") == 1
    assert json.loads(line)["path"] == path


def test_a_hostile_path_leaves_one_bounded_line(client: FlaskClient, lines: Lines) -> None:
    client.get("/", environ_overrides={"PATH_INFO": "/\n\r\x1b[31m\xff\xc3\xa9" + "x" * 5000})
    (line,) = lines()
    assert line["url.path"].startswith("/\n\r\x1b[31m\ufffdé")
    assert len(line["url.path"]) <= 1024


def test_an_unexpected_error_is_one_line_with_its_traceback(app: Service, lines: Lines) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("two\nlines")

    answer = app.test_client().get("/broken")
    error, access = lines()
    assert (answer.status_code, error["level"], access["http.response.status_code"]) == (500, "ERROR", 500)
    assert "RuntimeError: two\nlines" in error["exception.stacktrace"]
    assert error["request_id"] == access["request_id"] == answer.headers["X-Request-ID"]


def test_fields_given_as_extra_are_in_the_line(app: Service, lines: Lines) -> None:
    logging.getLogger("orders").warning("paid %s", 7, extra={"order": 7, "odd": {1}, "lone": "\ud800"})
    (line,) = lines()
    assert (line["message"], line["order"], line["odd"], line["logger"]) == ("paid 7", 7, "{1}", "orders")
    assert "request_id" not in line


def test_no_secret_of_the_settings_is_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    config = logs.config(Settings(log_format="json"))
    config["handlers"]["stdout"]["secrets"] = ["hunter2", "hunter2-long", 'with "quotes"']
    logging.config.dictConfig(config)
    try:
        raise RuntimeError("hunter2-long")
    except RuntimeError:
        logging.getLogger("orders").exception("password %s", "hunter2", extra={"url": "db://me:hunter2@host"})
    line = json.loads(capfd.readouterr().out)
    assert "hunter2" not in str(line)
    assert (line["message"], line["url"]) == ("password ***", "db://me:***@host")
    assert "RuntimeError: ***" in line["exception.stacktrace"]


def test_no_secret_is_in_the_line_of_a_request_that_has_it(app: Service, lines: Lines) -> None:
    known = 'pass word"é\x01'
    output.stdout.hide([known])
    app.test_client().get(f"/{quote(known)}")
    (line,) = lines()
    assert (line["message"], line["url.path"]) == ("GET /*** 404", "/***")


@pytest.mark.parametrize(("log_format", "extra"), [("text", {}), ("json", {}), ("json", {"beyond orjson": 2**64})])
def test_no_secret_is_in_a_line_however_that_is_written(
    log_format: Literal["text", "json"], extra: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    logging.config.dictConfig(logs.config(Settings(log_format=log_format)))
    output.stdout.hide(['pass "wörd"'])
    logging.getLogger("orders").warning('with pass "wörd"', extra=extra)
    assert "with ***" in capfd.readouterr().out


def test_a_level_above_info_leaves_out_the_request_lines(app: Service, lines: Lines) -> None:
    logging.getLogger().setLevel("WARNING")
    app.test_client().get("/v1/products/tea")
    assert lines() == []


def test_on_a_terminal_lines_are_text(
    app: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    logs.init_app(app, Settings(log_format="auto"))
    app.test_client().get("/v1/products/tea")
    logging.getLogger("orders").warning("paid")
    request, paid = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    service.access: GET /v1/products/tea 200 in [\d.]+ ms", request)
    assert paid.endswith("WARNING orders: paid")


def test_the_duration_is_counted_by_method_route_and_status(client: FlaskClient) -> None:
    name = "http_server_request_duration_seconds_count"
    key = ("GET", "200", "/v1/products/<sku>")
    before = {tuple(sorted(k)): v for k, v in samples(client, name).items()}.get(tuple(sorted(key)), 0)
    client.get("/v1/products/tea")
    client.get("/v1/products/coffee")
    assert {tuple(sorted(k)): v for k, v in samples(client, name).items()}[tuple(sorted(key))] == before + 2


def test_random_urls_and_methods_add_no_series(client: FlaskClient) -> None:
    name = "http_server_request_duration_seconds_count"
    client.get("/v1/random")
    client.open("/v1/random", method="PROPFIND")
    before = len(samples(client, name))
    for number in range(100):
        client.get(f"/v1/random/{number}")
        client.open("/v1/random", method=f"X{number}")
    assert len(samples(client, name)) == before


def test_saturation_is_one_gauge_and_its_two_parts(app: Service, settings: Settings) -> None:
    seen: dict[str, dict[tuple[str, ...], float]] = {}

    @app.get("/look")
    def look() -> str:
        names = ("http_server_active_requests", "http_server_active_requests_limit", "http_server_saturation_ratio")
        seen.update({name: samples(app.test_client(), name) for name in names})
        return ""

    app.test_client().get("/look")
    assert [value for values in seen.values() for value in values.values()] == [1, settings.concurrency, 0.25]
    assert samples(app.test_client(), "http_server_saturation_ratio") == {(): 0}


def test_a_slow_request_is_a_warning_that_says_so_at_a_level_above_info(app: Service, lines: Lines) -> None:
    logs.init_app(app, Settings(log_format="json", log_level="WARNING", slow_request=0.05))

    @app.get("/slow")
    def slow() -> str:
        time.sleep(0.06)
        return ""

    app.test_client().get("/v1/products/tea")
    app.test_client().get("/slow")
    told = [(line["level"], line["url.path"]) for line in lines() if line["logger"] == "service.access"]
    assert told == [("WARNING", "/slow")]


def test_the_service_and_its_release_are_a_metric(client: FlaskClient) -> None:
    assert list(samples(client, "target_info").values()) == [1]


def test_openmetrics_is_given_where_it_is_asked_for(client: FlaskClient) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.mimetype == "application/openmetrics-text"
    assert answer.text.endswith("# EOF\n")


def test_the_file_of_a_worker_that_starts_does_not_spoil_a_scrape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: FlaskClient
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    (tmp_path / "counter_1.db").touch()
    assert client.get("/metrics").status_code == 200


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: FlaskClient
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for pid in (2**22 + 1, 1):  # no process has the first number, one always has the second
        shared = values.MultiProcessValue(lambda pid=pid: pid)
        help_text = "Requests allowed at once."
        shared("gauge", metrics.LIMIT._name, metrics.LIMIT._name, (), (), help_text, multiprocess_mode="livesum").set(4)
        labels = ("GET", "/v1", "200")
        shared("histogram", "http_x", "http_x_sum", metrics.LABELS, labels, "x").inc(3)
    assert samples(client, "http_server_active_requests_limit") == {(): 4}
    assert list(samples(client, "http_x_sum").values()) == [6]
    assert list(samples(client, "target_info").values()) == [1]

"""The lines of the process and of its requests: their fields, format, level and secrets."""

import json
import logging
import logging.config
import re
import sys
from typing import Any, Literal
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from lab import create_app
from opentelemetry import trace
from support import Lines

from service.chassis.http.application import Application
from service.chassis.project import PROJECT
from service.chassis.telemetry import logs
from service.chassis.telemetry.stdout import stdout
from service.settings import Settings

Values = dict[str, Any]  # of settings, by their names
ANSWERED = {
    "http.request.method": "GET",
    "url.path": "/lab/things",
    "http.response.status_code": 200,
}


def ask(app: Application) -> None:
    """Send a request that leaves one line."""
    app.test_client().get("/lab/things/tea")


def test_a_request_leaves_one_line_that_says_who_what_and_how(
    client: FlaskClient, lines: Lines
) -> None:
    client.get("/lab/things/tea?limit=secret")
    (line,) = lines()
    assert line["http.request.method"] == "GET"
    assert line["url.path"] == "/lab/things/tea"
    assert line["http.route"] == "/lab/things/<name>"
    assert line["http.response.status_code"] == 200
    assert line["http.server.request.duration"] > 0
    ids = {"request_id", "trace_id", "span_id"}
    assert {"timestamp", "level", "service.name", "service.version"} | ids <= set(line)
    assert "secret" not in str(line)


@given(path=st.text(max_size=50), header=st.text(st.characters(max_codepoint=255), max_size=50))
def test_whatever_comes_in_a_line_is_one_line_of_json(path: str, header: str) -> None:
    event = {"timestamp": None, "path": path, "header": header, header: path, "number": 2**70}
    line = logs.encode(event)
    assert line.count(b"\n") == 1
    assert json.loads(line)["path"] == path


def test_an_unexpected_error_is_one_line_with_its_traceback(app: Application, lines: Lines) -> None:
    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("two\nlines")

    answer = app.test_client().get("/broken")
    error, access = lines()
    assert (answer.status_code, error["level"]) == (500, "ERROR")
    assert access["http.response.status_code"] == 500
    assert "RuntimeError: two\nlines" in error["exception.stacktrace"]
    assert error["request_id"] == access["request_id"] == answer.headers["X-Request-ID"]


def test_fields_given_as_extra_are_in_the_line(lines: Lines) -> None:
    extra = {"order": 7, "odd": {1}, "lone": "\ud800"}
    logging.getLogger("orders").warning("paid %s", 7, extra=extra)
    (line,) = lines()
    assert (line["message"], line["order"], line["odd"]) == ("paid 7", 7, "{1}")
    assert line["logger"] == "orders"
    assert "request_id" not in line


def test_a_record_that_cannot_be_formatted_fails_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    record = logging.makeLogRecord({"msg": "%d items", "args": ("no number",)})
    logs.LineHandler().handle(record)
    out, err = capfd.readouterr()
    assert out == ""
    assert "'%d items'" in err


def test_a_secret_that_is_a_word_of_every_line_leaves_the_lines_whole(
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = logs.config(Settings(log_format="json"))
    config["handlers"]["stdout"]["secrets"] = ["service", ",", "hunter2"]
    logging.config.dictConfig(config)
    logging.getLogger("orders").warning("hunter2, the service")
    line = json.loads(capfd.readouterr().out)
    assert (line["message"], line["service.name"]) == ("***, the service", PROJECT.name)


def test_no_secret_of_the_settings_is_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    config = logs.config(Settings(log_format="json"))
    config["handlers"]["stdout"]["secrets"] = ["hunter2", "hunter2-long", 'with "quotes"']
    logging.config.dictConfig(config)
    log = logging.getLogger("orders")
    try:
        raise RuntimeError("hunter2-long")
    except RuntimeError:
        log.exception("password %s", "hunter2", extra={"url": "db://me:hunter2@host"})
    line = json.loads(capfd.readouterr().out)
    assert "hunter2" not in str(line)
    assert (line["message"], line["url"]) == ("password ***", "db://me:***@host")
    assert "RuntimeError: ***" in line["exception.stacktrace"]


def test_no_secret_is_in_the_line_of_a_request_that_has_it(app: Application, lines: Lines) -> None:
    known = 'pass word"é\x01'
    stdout.hide([known])
    app.test_client().get(f"/{quote(known)}")
    (line,) = lines()
    assert (line["message"], line["url.path"]) == ("GET /*** 404", "/***")


@pytest.mark.parametrize(
    ("log_format", "extra"), [("text", {}), ("json", {}), ("json", {"beyond orjson": 2**64})]
)
def test_no_secret_is_in_a_line_however_that_is_written(
    log_format: Literal["text", "json"], extra: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    logging.config.dictConfig(logs.config(Settings(log_format=log_format)))
    stdout.hide(['pass "wörd"'])
    logging.getLogger("orders").warning('with pass "wörd"', extra=extra)
    assert "with ***" in capfd.readouterr().out


def test_a_level_above_info_leaves_out_the_request_lines(
    capfd: pytest.CaptureFixture[str],
) -> None:
    ask(create_app(Settings(log_format="json", log_level="WARNING")))
    assert capfd.readouterr().out == ""


def test_the_level_of_their_logger_leaves_out_the_request_lines_too(
    app: Application, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.access_log, "level", logging.ERROR)
    ask(app)
    assert lines() == []


def test_on_a_terminal_lines_are_text(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    ask(create_app(Settings(log_format="auto")))
    logging.getLogger("orders").warning("paid")
    request, paid = capfd.readouterr().out.splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    service\.access: GET /lab/things/tea 200 in [\d.]+ ms", request
    )
    assert paid.endswith("WARNING orders: paid")


@pytest.mark.parametrize(
    ("seconds", "levels"), [(0.049, []), (0.05, ["WARNING"]), (0.051, ["WARNING"])]
)
def test_a_slow_request_is_a_warning_that_says_so_at_a_level_above_info(
    seconds: float, levels: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(log_format="json", log_level="WARNING", slow_request=0.05)
    logs.AccessLog(settings)(trace.INVALID_SPAN, {}, ANSWERED, seconds)
    told = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["level"] for line in told] == levels
    assert [line["http.server.request.duration"] for line in told] == [seconds for _ in levels]


def outputs_of_two(
    first: Values, second: Values, capfd: pytest.CaptureFixture[str]
) -> tuple[list[str], list[str]]:
    """Return the lines of a request to each of two applications, which are both made before."""
    apps = [create_app(Settings.model_validate(values)) for values in (first, second)]
    outputs = []
    for app in apps:
        capfd.readouterr()
        ask(app)
        outputs.append(capfd.readouterr().out.splitlines())
    return outputs[0], outputs[1]


@pytest.mark.parametrize(
    ("first", "second"), [(1e-9, 3600), (3600, 1e-9)], ids=["slow first", "slow second"]
)
def test_each_application_has_its_own_threshold_of_slow_requests(
    first: float, second: float, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = outputs_of_two(
        {"log_format": "json", "slow_request": first},
        {"log_format": "json", "slow_request": second},
        capfd,
    )
    levels = [json.loads(line)["level"] for output in outputs for line in output]
    assert levels == ["WARNING" if threshold < 1 else "INFO" for threshold in (first, second)]


@pytest.mark.parametrize(("first", "second"), [("INFO", "ERROR"), ("ERROR", "INFO")])
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_each_application_has_its_own_level_of_request_lines(
    first: str, second: str, log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = outputs_of_two(
        {"log_format": log_format, "log_level": first},
        {"log_format": log_format, "log_level": second},
        capfd,
    )
    counts = [len(output) for output in outputs]
    assert counts == [1 if level == "INFO" else 0 for level in (first, second)]


@pytest.mark.parametrize(("first", "second"), [("json", "text"), ("text", "json")])
def test_each_application_has_its_own_format_of_request_lines(
    first: str, second: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = outputs_of_two({"log_format": first}, {"log_format": second}, capfd)
    for log_format, (line,) in zip((first, second), outputs, strict=True):
        if log_format == "json":
            assert json.loads(line)["http.route"] == "/lab/things/<name>"
        else:
            assert re.fullmatch(r"[\d:]{8} INFO .* GET /lab/things/tea 200 in [\d.]+ ms", line)


def test_the_secrets_of_one_application_stay_hidden_after_another_is_made(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for secret in ("key=hunter2", "key=hunter3"):
        create_app(
            Settings.model_validate({"log_format": "json", "otel_exporter_otlp_headers": secret})
        )
    logging.getLogger("orders").warning("key=hunter2 and key=hunter3")
    assert json.loads(capfd.readouterr().out)["message"] == "*** and ***"


def test_of_flasks_development_server_all_but_the_lines_of_requests_are_written(
    lines: Lines,
) -> None:
    log = logging.getLogger("werkzeug")
    log.info(" * Debugger PIN: %s", "123")
    log.info('127.0.0.1 - - [now] "%s" %s %s', "GET / HTTP/1.1", "200", "-")
    assert [line["message"] for line in lines()] == [" * Debugger PIN: 123"]

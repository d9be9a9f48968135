"""The application as `create_app` puts it together: a line is a feature, and can be deleted."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import request
from support import Collector
from werkzeug.test import TestResponse

import service.app
from service.chassis.http import middleware
from service.chassis.http.application import Application
from service.settings import Settings

THING = "/thing"
Capture = pytest.CaptureFixture[str]
Feature = Callable[[Application, Capture], bool]


def ask(app: Application, path: str, **options: Any) -> TestResponse:
    """Send a request and read its answer to the end."""
    return app.test_client().open(path, buffered=True, **options)


def logs(app: Application, capture: Capture) -> bool:
    capture.readouterr()
    ask(app, THING)
    return f'"url.path":"{THING}"' in capture.readouterr().out


def metrics(app: Application, _capture: Capture) -> bool:
    ask(app, THING)
    return "http_server_request_duration_seconds_count{" in ask(app, "/metrics").text


def traces(app: Application, _capture: Capture) -> bool:
    if app.telemetry.exporter is None:
        return False
    app.telemetry.exporter._spans.clear()
    ask(app, THING)
    return len(app.telemetry.exporter._spans) == 1


def problems(app: Application, _capture: Capture) -> bool:
    return ask(app, "/none").mimetype == "application/problem+json"


def routes(app: Application, _capture: Capture) -> bool:
    return ask(app, "/route").status_code == 200


def document(app: Application, _capture: Capture) -> bool:
    paths = ("/openapi.json", "/docs/")
    return [ask(app, path).status_code for path in paths] == [200, 200]


def connections(app: Application, _capture: Capture) -> bool:
    return "database" in app.extensions


def probes(app: Application, _capture: Capture) -> bool:
    paths = ("/livez", "/readyz")
    return [ask(app, path).status_code for path in paths] == [200, 200]


def ids(app: Application, _capture: Capture) -> bool:
    return "X-Request-ID" in ask(app, "/none").headers


def calling(app: Application, _capture: Capture) -> bool:
    return "clients" in app.extensions


def deadline(app: Application, _capture: Capture) -> bool:
    late = {"X-Envoy-Expected-Rq-Timeout-Ms": "0"}
    return ask(app, "/none", headers=late).status_code == 504


def cors(app: Application, _capture: Capture) -> bool:
    answer = ask(app, "/none", headers={"Origin": "https://front.example"})
    return "Access-Control-Allow-Origin" in answer.headers


def body_limit(app: Application, _capture: Capture) -> bool:
    return ask(app, "/echo", method="POST", data=b" " * 5000).status_code == 413


def body_timeout(app: Application, _capture: Capture) -> bool:
    return ask(app, "/echo", method="POST", data=b" ").status_code == 408


def one_path(app: Application, _capture: Capture) -> bool:
    return ask(app, "/", environ_overrides={"PATH_INFO": f"/{THING}"}).status_code == 404


def admission(app: Application, _capture: Capture) -> bool:
    return ask(app, "/again").text == "503"


def containment(app: Application, _capture: Capture) -> bool:
    try:
        return ask(app, "/leave").status_code == 500
    except SystemExit:
        return False


def environment(app: Application, _capture: Capture) -> bool:
    user = {"HTTP_X_USER": os.environ["HTTP_X_USER"]}
    return ask(app, "/user", environ_overrides=user).text == "nobody"


FEATURES: dict[str, Feature] = {
    feature.__name__: feature
    for feature in (
        logs,
        metrics,
        traces,
        problems,
        routes,
        document,
        connections,  # only-if: database == "postgresql"
        calling,
        deadline,
        probes,
        ids,
        cors,
        body_limit,
        body_timeout,
        one_path,
        admission,
        containment,
        environment,
    )
}
RECORDS = {"logs", "metrics", "traces"}
CHAIN = {
    "body_limit",
    "body_timeout",
    "one_path",
    "admission",
    "containment",
    "environment",
    "cors",
    "deadline",
    "ids",
    "probes",
}
CHAIN_LINE = r"(?:handler = |app\.config\[\")"
# What is lost with each line: the feature, and what stands on it.
LOST_FROM_APP = {
    "logs": {"logs"},
    "metrics": {"metrics"},
    "tracing": {"traces"},
    "calls": {"calling"},
    "problems": {"problems"},
    "api": {"routes"},
    "openapi": {"document"},
    "database": {"connections"},  # only-if: database == "postgresql"
    "middleware": CHAIN | RECORDS,
}
LOST_FROM_CHAIN = {
    "MAX_CONTENT_LENGTH": {"body_limit"},
    "BodyTimeout": {"body_timeout"},
    "refuse_leading_slashes": {"one_path"},
    "Containment": {"containment"},
    "Admission": {"admission", "deadline"},
    "allow_origins": {"cors"},
    "Access": {"deadline", "ids"} | RECORDS,
    "hide_process_environment": {"environment"},
    "Probes": {"probes", "metrics"},
}


def lost_features(app: Application, capture: Capture) -> set[str]:
    """Add what the features are seen by, and return those that are missing."""

    def again() -> str:
        """Ask for itself until it is refused, or 9 times."""
        depth = int(request.args.get("depth", 0))
        answer = ask(app, "/again", query_string={"depth": depth + 1})
        return answer.text if answer.status_code == 200 and depth < 9 else str(answer.status_code)

    app.add_url_rule(THING, view_func=lambda: "thing")
    app.add_url_rule("/again", view_func=again)
    app.add_url_rule("/echo", "echo", lambda: request.get_data(), methods=["POST"])
    app.add_url_rule("/leave", view_func=sys.exit)
    app.add_url_rule("/user", "user", lambda: request.headers.get("X-User", "nobody"))
    lost = {name for name, works in FEATURES.items() if not works(app, capture)}
    if app.telemetry.exporter is not None:
        app.telemetry.exporter._spans.clear()
        app.telemetry.exporter.shutdown()
    return lost


def without_line(module: ModuleType, pattern: str) -> ModuleType:
    """Load a module as if one line of it had been deleted."""
    path = str(module.__file__)
    source = Path(path).read_text("utf-8")
    # The lines after it keep their numbers, by which coverage knows them.
    shorter, count = re.subn(rf"^    {pattern}\b.*$", "    pass", source, flags=re.MULTILINE)
    assert count == 1
    loaded = ModuleType(module.__name__)
    exec(compile(shorter, path, "exec"), vars(loaded))  # noqa: S102 it is this project's code
    return loaded


def lines_of(module: ModuleType, pattern: str) -> set[str]:
    return set(re.findall(pattern, Path(str(module.__file__)).read_text("utf-8"), re.MULTILINE))


@pytest.fixture
def chosen(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings under which every feature can be seen, and a route of the API."""
    monkeypatch.setattr(
        "service.api.init_app", lambda app: app.add_url_rule("/route", "route", str)
    )
    monkeypatch.setenv("HTTP_X_USER", "the process's own")
    monkeypatch.setattr("service.chassis.telemetry.otlp.SCHEDULE_DELAY", 3600)
    return Settings.model_validate(
        {
            "concurrency": 4,
            "max_queue": 0,
            "max_body_size": 4096,
            "cors_allowed_origins": "https://front.example",
            "request_timeout": 1e-9,
            "otel_exporter_otlp_endpoint": collector.url,
            "log_format": "json",
        }
    )


def missing(lost: dict[str, set[str]], present: set[str]) -> set[str]:
    """Return the features whose lines the service's owner has deleted."""
    absent = [features for line, features in lost.items() if line not in present]
    return set().union(*absent) & FEATURES.keys()


APP = lines_of(service.app, r"^    (\w+)\.init_app\(")
CHAIN_LINES = lines_of(middleware, rf"^    {CHAIN_LINE}(\w+)")
MISSING = missing(LOST_FROM_APP, APP) | missing(LOST_FROM_CHAIN, CHAIN_LINES)


@pytest.mark.parametrize("line", sorted(LOST_FROM_APP.keys() & APP))
def test_a_line_that_is_deleted_from_the_application_takes_its_feature_alone(
    line: str, chosen: Settings, capfd: Capture
) -> None:
    shorter = without_line(service.app, rf"{line}\.init_app")
    app = shorter.create_app(chosen)
    assert lost_features(app, capfd) == MISSING | LOST_FROM_APP[line] & FEATURES.keys()


@pytest.mark.parametrize("line", sorted(LOST_FROM_CHAIN.keys() & CHAIN_LINES))
def test_a_line_that_is_deleted_from_the_middleware_takes_its_feature_alone(
    line: str, chosen: Settings, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = without_line(middleware, f"{CHAIN_LINE}{line}")
    monkeypatch.setattr(middleware, "init_app", shorter.init_app)
    app = service.app.create_app(chosen)
    assert lost_features(app, capfd) == MISSING | LOST_FROM_CHAIN[line]


def test_with_its_lines_every_feature_works(chosen: Settings, capfd: Capture) -> None:
    app = service.app.create_app(chosen)
    assert lost_features(app, capfd) == MISSING

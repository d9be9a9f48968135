"""What Flask's users know from Flask holds in the service, but for the differences kept."""

import logging
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from functools import partial
from pathlib import Path

import pytest
from flask import Flask

import habits
import service
from habits import HABITS
from service.app import create_app
from service.chassis.http import middleware
from service.chassis.http.application import Application

Back = Callable[[pytest.MonkeyPatch], Flask]


def without(line: str) -> Back:
    """Make the application as if `line`.init_app were deleted in app.py."""

    def make(monkeypatch: pytest.MonkeyPatch) -> Flask:
        monkeypatch.setattr(f"service.app.{line}.init_app", lambda *_: None)
        return create_app()

    return make


def without_middleware(name: str) -> Back:
    """Make the application as if the line of this were deleted in the middleware."""

    def make(monkeypatch: pytest.MonkeyPatch) -> Flask:
        monkeypatch.setattr(middleware, name, lambda app, *_: app)
        return create_app()

    return make


def with_environment(**environment: str) -> Back:
    """Make the application with a setting."""

    def make(monkeypatch: pytest.MonkeyPatch) -> Flask:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return create_app()

    return make


def with_config(**config: object) -> Back:
    """Make the application with something of Flask's own configuration."""

    def make(_monkeypatch: pytest.MonkeyPatch) -> Flask:
        app = create_app()
        app.config.update(config)
        return app

    return make


def with_static_folder(monkeypatch: pytest.MonkeyPatch) -> Flask:
    """Make the application as if app.py said `Application(__name__, static_folder="static")`."""
    made = partial(Application, static_folder="static")
    monkeypatch.setattr("service.app.Application", made)
    return create_app()


def with_merged_slashes(monkeypatch: pytest.MonkeyPatch) -> Flask:
    """Make the application with Flask's way of finding routes."""
    app = without_middleware("refuse_leading_slashes")(monkeypatch)
    app.url_map.merge_slashes = True
    return app


def with_absolute_redirects(_monkeypatch: pytest.MonkeyPatch) -> Flask:
    """Make the application as if app.py said `app.redirects_relatively = False`."""
    app = create_app()
    app.redirects_relatively = False
    return app


@dataclass(frozen=True)
class Kept:
    """A difference that is kept: what is seen in Flask and in the service, and the way back."""

    row: str  # the row of the service's README that tells of it and gives the reason
    stock: object
    service: object
    back: Back
    environment: Mapping[str, str] = field(default_factory=dict)


ERRORS = "errors are problem+json"
PROBLEM = "application/problem+json"
STATIC = "no static folder"
LIMITS = "a body has at most 64 KiB and 10 s"
CHUNKS = "a chunked body is read before the view"
KEPT = {
    "a_missing_page": Kept(ERRORS, (404, "text/html"), (404, PROBLEM), without("problems")),
    "an_error_that_a_view_raises": Kept(
        ERRORS, (409, "text/html", True), (409, PROBLEM, True), without("problems")
    ),
    "an_error_that_nobody_expects": Kept(
        ERRORS, (500, "text/html", False), (500, PROBLEM, False), without("problems")
    ),
    "a_field_that_a_form_lacks": Kept(
        ERRORS, (400, "text/html"), (400, PROBLEM), without("problems")
    ),
    "a_doubled_slash": Kept(
        "a doubled slash is 404", [200, 200, 308], [200, 404, 404], with_merged_slashes
    ),
    "a_redirect_to_the_slash": Kept(
        "a redirect to a path's slash is relative",
        (308, "http://localhost/page/?a=1", "text/html; charset=utf-8"),
        (308, "page/?a=1", "text/html; charset=utf-8"),
        with_absolute_redirects,
    ),
    "the_root": Kept("`/` leads to `/docs/`", 404, 302, without("openapi")),
    "the_address_of_a_static_file": Kept(
        STATIC, "/static/a.css", "raised BuildError", with_static_folder
    ),
    "a_static_file": Kept(STATIC, 200, 404, with_static_folder),
    "a_large_body": Kept(LIMITS, 200, 413, with_environment(MAX_BODY_SIZE="3000000")),
    "a_body_that_takes_its_time": Kept(
        LIMITS,
        200,
        408,
        with_environment(REQUEST_TIMEOUT="3600"),
        environment={"REQUEST_TIMEOUT": "0.1"},
    ),
    "a_chunked_body_of_text": Kept(CHUNKS, 200, 411, without_middleware("BodyTimeout")),
    "a_chunked_body_that_is_not_read": Kept(CHUNKS, 200, 411, without_middleware("BodyTimeout")),
    "the_length_of_a_chunked_body": Kept(
        CHUNKS, [None, True], [2, False], without_middleware("BodyTimeout")
    ),
    "a_limit_on_chunked_bodies_of_one_view": Kept(
        CHUNKS, 200, 413, without_middleware("BodyTimeout")
    ),
    "a_view_that_exits": Kept(
        "`SystemExit` is a 500", "raised SystemExit", 500, with_config(PROPAGATE_EXCEPTIONS=True)
    ),
    "the_logger": Kept(
        "logs go to the root logger", (True, ["StreamHandler"]), (True, []), without("logs")
    ),
}


@pytest.fixture(autouse=True)
def _logging_is_new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every application find the process's logging as at its start."""
    monkeypatch.setenv("LOG_FORMAT", "json")

    def reset() -> None:
        for name in (None, "service.app", "stock"):
            logging.getLogger(name).handlers.clear()

    reset()
    yield
    reset()


def make_stock() -> Flask:
    """Make Flask's own application, at the same place."""
    return Flask("stock", root_path=str(Path(habits.__file__).parent))


@pytest.mark.parametrize("name", sorted(HABITS.keys() - KEPT.keys()))
def test_a_habit_is_that_of_flask(name: str) -> None:
    expected = HABITS[name](make_stock())
    assert HABITS[name](create_app()) == expected


@pytest.mark.parametrize("name", KEPT)
def test_a_difference_is_as_said_and_has_a_way_back(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KEPT[name]
    assert HABITS[name](make_stock()) == kept.stock
    logging.getLogger().handlers.clear()
    for variable, value in kept.environment.items():
        monkeypatch.setenv(variable, value)
    assert HABITS[name](create_app()) == kept.service
    logging.getLogger().handlers.clear()
    assert HABITS[name](kept.back(monkeypatch)) == kept.stock


def test_the_readme_of_the_service_has_a_row_for_every_difference() -> None:
    readme = (Path(service.__file__).parents[2] / "README.md").read_text("utf-8")
    table = re.findall(r"## Differences from Flask\n(.*?)\n## ", readme, re.DOTALL)[0]
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    assert set(rows[1:]) == {kept.row for kept in KEPT.values()}

"""CORS: what a page of another origin may send and read, whoever in the service answers."""

import io
from typing import Any

import pytest
from flask import Response, abort, request
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.chassis.http import middleware
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.chassis.http.cors import allow_origins
from service.chassis.server.settings import ServerSettings

FRONT = "https://front.example"
OTHER = "https://other.example"
ALLOWED = "Access-Control-Allow-Origin"
CHUNKED = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}


def make_app(origins: str = f"{OTHER}, {FRONT}") -> Application:
    """Make an application of a few views with all of the middleware, for one request at a time."""
    app = Application(__name__)
    problems.init_app(app)
    app.add_url_rule("/text", "text", lambda: "text")
    app.add_url_rule("/body", "body", lambda: request.get_data(), methods=["POST"])
    app.add_url_rule("/fail", "fail", lambda: str(1 / 0))
    app.add_url_rule("/known", "known", lambda: abort(Response(status=304)))
    app.add_url_rule("/slash/", "slash", lambda: "text")
    app.add_url_rule("/again", "again", lambda: app.test_client().get("/text", headers=origin()))
    app.add_url_rule("/ask", "ask", lambda: preflight(app.test_client()))
    settings = ServerSettings(concurrency=1, max_body_size=1024, cors_allowed_origins=origins)
    middleware.init_app(app, settings)
    return app


def origin(name: str = FRONT) -> dict[str, str]:
    """Return the header by which a browser names the page."""
    return {"Origin": name}


def preflight(client: FlaskClient, name: str = FRONT) -> TestResponse:
    """Ask what a browser asks before a request that a form could not send."""
    asked = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,if-match",
    }
    return client.options("/body", headers=origin(name) | asked)


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/text", {}, 200),
        ("GET", "/known", {}, 304),
        ("GET", "/slash", {}, 308),
        ("GET", "/none", {}, 404),
        ("GET", "//text", {}, 404),
        ("POST", "/text", {}, 405),
        ("POST", "/body", {"input_stream": io.BytesIO(), "environ_overrides": CHUNKED}, 411),
        ("POST", "/body", {"data": b"x" * 2000}, 413),
        ("GET", "/fail", {}, 500),
        ("GET", "/again", {}, 503),
    ],
)
def test_the_page_may_read_every_answer(
    method: str, path: str, options: dict[str, Any], status: int
) -> None:
    client = make_app().test_client()
    overrides = {"PATH_INFO": path} | options.pop("environ_overrides", {})
    answer = client.open(
        path.lstrip("/"), method=method, headers=origin(), environ_overrides=overrides, **options
    )
    assert answer.status_code == status
    assert (answer.headers[ALLOWED], answer.headers["Vary"]) == (FRONT, "Origin")
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"ETag", "Link", "Location", "Retry-After", "X-Request-ID"} <= set(exposed)


def test_what_a_browser_asks_first_is_answered_without_the_view() -> None:
    answer = preflight(make_app().test_client())
    methods = answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert (answer.status_code, answer.data, answer.headers[ALLOWED]) == (204, b"", FRONT)
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,if-match"
    assert {"PATCH", "PUT", "DELETE"} <= set(methods)
    assert answer.headers["X-Request-ID"]


def test_what_a_browser_asks_first_needs_no_slot() -> None:
    assert make_app().test_client().get("/ask").status_code == 204


def test_another_origin_reads_nothing_and_caches_tell_them_apart() -> None:
    client = make_app().test_client()
    others = [client.get("/text"), client.get("/text", headers=origin("https://a.example"))]
    others.append(preflight(client, "null"))
    assert [(ALLOWED in one.headers, one.headers["Vary"]) for one in others] == [
        (False, "Origin")
    ] * 3


def test_every_origin_may_read_where_all_are_allowed() -> None:
    client = make_app("*").test_client()
    answers = [client.get("/text"), client.get("/text", headers=origin()), preflight(client)]
    assert [(one.headers[ALLOWED], "Vary" in one.headers) for one in answers] == [("*", False)] * 3


def test_an_options_request_that_asks_for_nothing_is_the_applications() -> None:
    answer = make_app().test_client().options("/text", headers=origin())
    assert (answer.status_code, answer.headers[ALLOWED]) == (200, FRONT)
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_what_the_application_allows_itself_stays() -> None:
    app = make_app()

    @app.after_request
    def allow(response: Response) -> Response:
        response.headers[ALLOWED] = "https://mine.example"
        return response

    answer = app.test_client().get("/text", headers=origin())
    assert answer.headers.getlist(ALLOWED) == ["https://mine.example"]


def test_probes_are_for_no_page() -> None:
    assert ALLOWED not in make_app("*").test_client().get("/livez", headers=origin()).headers


def test_without_origins_nothing_is_added() -> None:
    app = Application(__name__)
    assert allow_origins(app, " , ") is app


@pytest.mark.parametrize("text", ["", "*", f"{FRONT} ,http://localhost:5173", "http://[::1]:8080,"])
def test_origins_are_a_list(text: str) -> None:
    assert ServerSettings(cors_allowed_origins=text).cors_allowed_origins == text


@pytest.mark.parametrize(
    "text",
    [
        "front.example",
        f"{FRONT}/",
        f"{FRONT}:443",
        "http://front.example:80",
        "https://Front.example",
        "https://*.example",
        "null",
        f"{FRONT};{OTHER}",
        f'"{FRONT}"',
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORS_ALLOWED_ORIGINS", f"{OTHER},{text}")
    with pytest.raises(SystemExit, match="2"):
        ServerSettings.load()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("configuration: CORS_ALLOWED_ORIGINS: ")
    assert repr(text) in line

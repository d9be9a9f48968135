"""Extensions of Flask do in the service what they do in Flask, on plain and on typed views."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
from cachelib import FileSystemCache
from flask import Blueprint
from flask import Flask
from flask import request
from flask import session
from flask_caching import Cache
from flask_compress import Compress
from flask_cors import CORS
from flask_httpauth import HTTPBasicAuth
from flask_httpauth import HTTPTokenAuth
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import LoginManager
from flask_login import UserMixin
from flask_login import current_user
from flask_login import login_required
from flask_login import login_user
from flask_login import logout_user
from flask_session import Session
from flask_sqlalchemy import SQLAlchemy
from flask_talisman import Talisman
from flask_wtf import FlaskForm
from flask_wtf.csrf import CSRFProtect
from flask_wtf.csrf import generate_csrf
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from werkzeug.test import TestResponse
from wtforms import StringField
from wtforms.validators import Length

from service.app import create_app
from service.chassis.http.routes import Reply
from service.chassis.http.routes import Routes
from service.chassis.http.validation import Model

FRONT = {"Origin": "http://front.org"}
Scenario = Callable[[Flask], object]
SCENARIOS: dict[str, tuple[Scenario, object]] = {}


class Out(Model):
    value: str


class Query(Model):
    q: str


def seen(expected: object) -> Callable[[Scenario], Scenario]:
    """Add a scenario, with what is seen in it."""

    def add(scenario: Scenario) -> Scenario:
        SCENARIOS[scenario.__name__] = (scenario, expected)
        return scenario

    return add


def two_views(app: Flask, decorate: Callable[[Any], Any], value: Callable[[], str]) -> None:
    """Add a plain and a typed view that a decorator of an extension wraps."""
    blueprint = Blueprint("views", __name__)

    @decorate
    def plain() -> str:
        return value()

    @decorate
    def typed() -> Out:
        return Out(value=value())

    blueprint.get("/plain")(plain)
    Routes(blueprint).get("/typed")(typed)
    app.register_blueprint(blueprint)


def statuses(app: Flask, *paths: str, **options: Any) -> list[int]:
    """Ask for each path in turn and return how it was answered."""
    client = app.test_client()
    return [client.get(path, **options).status_code for path in paths]


def allowed(answer: TestResponse) -> tuple[int, str | None]:
    """Return the status and what CORS allows."""
    return answer.status_code, answer.headers.get("Access-Control-Allow-Origin")


@seen({200: "http://front.org", 404: "http://front.org", 413: "http://front.org"} | {"other": None})
def cors(app: Flask) -> object:
    app.config["MAX_CONTENT_LENGTH"] = 10
    CORS(app, origins=["http://front.org"])
    app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["POST"])
    client = app.test_client()
    answers = [
        client.post("/", headers=FRONT),
        client.get("/none", headers=FRONT),
        client.post("/", data=b"x" * 11, headers=FRONT),
    ]
    other = client.post("/", headers={"Origin": "http://other.org"})
    return dict(map(allowed, answers)) | {"other": allowed(other)[1]}


@seen((200, "http://front.org", "content-type", ["DELETE", "GET", "POST"]))
def cors_before_the_request(app: Flask) -> object:
    CORS(app, origins=["http://front.org"], methods=["GET", "POST", "DELETE"])
    app.add_url_rule("/", view_func=lambda: "text", methods=["POST"])
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = app.test_client().options("/", headers=FRONT | asked)
    methods = answer.headers["Access-Control-Allow-Methods"].split(", ")
    return *allowed(answer), answer.headers["Access-Control-Allow-Headers"], sorted(methods)


@seen(([200, 200, 429], [200, 200, 429], "2", "0", True))
def limiter(app: Flask) -> object:
    limits = Limiter(get_remote_address, app=app, storage_uri="memory://", headers_enabled=True)
    two_views(app, limits.limit("2/minute"), lambda: "text")
    plain = statuses(app, *["/plain"] * 3)
    typed = statuses(app, *["/typed"] * 3)
    headers = app.test_client().get("/typed").headers
    names = ("X-RateLimit-Limit", "X-RateLimit-Remaining")
    return plain, typed, *map(headers.get, names), int(headers["Retry-After"]) > 0


@seen([200, 200, 429, 200, 200, 429])
def limiter_of_every_view(app: Flask) -> object:
    limits = Limiter(get_remote_address, default_limits=["2/minute"], storage_uri="memory://")
    limits.init_app(app)
    two_views(app, lambda view: view, lambda: "text")
    return statuses(app, *["/plain"] * 3, *["/typed"] * 3)


@seen((["1", "1"], ['{"value":"2"}', '{"value":"2"}'], 2))
def caching(app: Flask) -> object:
    calls: list[int] = []

    def value() -> str:
        calls.append(1)
        return str(len(calls))

    cache = Cache(app, config={"CACHE_TYPE": "SimpleCache"})
    two_views(app, cache.cached(timeout=60), value)
    client = app.test_client()
    texts = [[client.get(path).text for _ in range(2)] for path in ("/plain", "/typed")]
    return *texts, len(calls)


@seen((['{"value":"a 1"}', '{"value":"b 2"}', '{"value":"a 1"}'], "3", ["1", "1"]))
def caching_by_query_and_with_headers(app: Flask) -> object:
    calls: list[int] = []
    cache = Cache(app, config={"CACHE_TYPE": "SimpleCache"})
    blueprint = Blueprint("views", __name__)
    routes = Routes(blueprint)

    @routes.get("/query")
    @cache.cached(timeout=60, query_string=True)
    def by_query(query: Query) -> Out:
        calls.append(1)
        return Out(value=f"{query.q} {len(calls)}")

    @routes.get("/reply")
    @cache.cached(timeout=60)
    def reply() -> Reply[Out]:
        calls.append(1)
        return Reply(Out(value=str(len(calls))), {"X-A": "1"})

    app.register_blueprint(blueprint)
    client = app.test_client()
    by_query_texts = [client.get(f"/query?q={q}").text for q in "aba"]
    replies = [client.get("/reply") for _ in range(2)]
    return by_query_texts, str(len(calls)), [answer.headers["X-A"] for answer in replies]


@seen(([401, 401], [200, 200], 'Basic realm="Authentication Required"', "ann"))
def http_auth(app: Flask) -> object:
    auth = HTTPBasicAuth()
    auth.verify_password(lambda user, password: user if password == "sesame" else None)
    two_views(app, auth.login_required, lambda: str(auth.current_user()))
    paths = ("/plain", "/typed")
    refused = app.test_client().get("/typed")
    admitted = app.test_client().get("/typed", auth=("ann", "sesame"))
    return (
        statuses(app, *paths),
        statuses(app, *paths, auth=("ann", "sesame")),
        refused.headers["WWW-Authenticate"],
        admitted.get_json()["value"],
    )


@seen((401, {"mine": 401}, 200))
def http_auth_by_token_with_a_handler(app: Flask) -> object:
    auth = HTTPTokenAuth(header="X-Api-Key")
    auth.verify_token(lambda token: "office" if token == "sesame" else None)
    auth.error_handler(lambda status: ({"mine": status}, status))
    two_views(app, auth.login_required, lambda: str(auth.current_user()))
    client = app.test_client()
    refused = client.get("/typed")
    admitted = client.get("/typed", headers={"X-Api-Key": "sesame"})
    return refused.status_code, refused.get_json(), admitted.status_code


class User(UserMixin):
    """A user of Flask-Login."""

    id = "ann"


@seen(([401, 401], "True", ["ann", '{"value":"ann"}'], 200, [401, 401], [200, 401]))
def login(app: Flask) -> object:
    app.secret_key = "key"
    manager = LoginManager(app)
    manager.user_loader(lambda _: User())
    manager.request_loader(lambda asked: User() if asked.headers.get("X-Key") == "1" else None)
    app.add_url_rule("/in", "in", lambda: str(login_user(User(), remember=True)))
    app.add_url_rule("/out", "out", lambda: str(logout_user()))
    two_views(app, login_required, lambda: str(current_user.id))
    client = app.test_client()
    paths = ("/plain", "/typed")

    def asked() -> list[int]:
        return [client.get(path).status_code for path in paths]

    return (
        asked(),
        client.get("/in").text,
        [client.get(path).text for path in paths],
        client.get("/out").status_code,
        asked(),
        [client.get("/typed", headers={"X-Key": key}).status_code for key in "12"],
    )


@seen((True, "/in?next=%2Fpage", "Please log in to access this page."))
def login_with_a_page(app: Flask) -> object:
    app.secret_key = "key"
    manager = LoginManager(app)
    manager.user_loader(lambda _: User())
    manager.login_view = "in"
    template = "{{ get_flashed_messages()|join }}"
    app.add_url_rule("/in", "in", lambda: flask.render_template_string(template))
    app.add_url_rule("/page", "page", login_required(lambda: "text"))
    client = app.test_client()
    answer = client.get("/page")
    # Of Flask's versions the later one redirects with 303.
    return answer.status_code in (302, 303), answer.location, client.get("/in").text


@seen((["1", "2", "3"], "1", "saved", True))
def session_in_files(app: Flask) -> object:
    folder = app.config["OWN_FOLDER"]
    store = FileSystemCache(folder)
    app.config.update(SECRET_KEY="key", SESSION_TYPE="cachelib", SESSION_CACHELIB=store)
    Session(app)

    @app.get("/")
    def count() -> str:
        session["visits"] = session.get("visits", 0) + 1
        flask.flash("saved")
        return str(session["visits"])

    app.add_url_rule("/flashed", "flashed", lambda: str(flask.get_flashed_messages()[0]))
    client = app.test_client()
    visits = [client.get("/").text for _ in range(3)]
    other = app.test_client().get("/").text
    return visits, other, client.get("/flashed").text, any(Path(folder).iterdir())


@seen((["1", "2"], ['{"value":"3"}', '{"value":"4"}'], 404, ["ann"] * 4))
def sqlalchemy(app: Flask) -> object:
    class Base(DeclarativeBase):
        pass

    database = SQLAlchemy(model_class=Base)

    class Person(database.Model):  # type: ignore[name-defined]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String)

    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    database.init_app(app)
    with app.app_context():
        database.create_all()

    def add() -> str:
        database.session.add(Person(name="ann"))
        database.session.commit()
        return str(database.session.query(Person).count())

    two_views(app, lambda view: view, add)
    app.add_url_rule("/none", "none", lambda: database.get_or_404(Person, 99).name)
    client = app.test_client()
    texts = [[client.get(path).text for _ in range(2)] for path in ("/plain", "/typed")]
    missing = client.get("/none").status_code
    with app.app_context():
        names = [person.name for person in database.session.query(Person)]
        database.session.remove()
        database.engine.dispose()
    return *texts, missing, names


@seen([("gzip", True, "Accept-Encoding"), ("gzip", True, "Accept-Encoding")])
def compress(app: Flask) -> object:
    Compress(app)
    app.config["COMPRESS_MIMETYPES"] = ["text/html", "application/json"]
    two_views(app, lambda view: view, lambda: "x" * 5000)
    client = app.test_client()
    headers = {"Accept-Encoding": "gzip"}
    answers = [client.get(path, headers=headers) for path in ("/plain", "/typed")]
    return [
        (
            answer.headers["Content-Encoding"],
            len(answer.data) == int(answer.headers["Content-Length"]) < 1000,
            answer.headers["Vary"],
        )
        for answer in answers
    ]


@seen((400, "The CSRF token is missing.", 200, 400))
def csrf_protection(app: Flask) -> object:
    app.secret_key = "key"
    CSRFProtect(app)
    app.add_url_rule("/", "form", generate_csrf)
    app.add_url_rule("/save", "save", lambda: "saved", methods=["POST"])
    client = app.test_client()
    token = client.get("/").text
    refused = client.post("/save")
    told = re.findall(r"The CSRF token is \w+\.", refused.text)[0]
    sent = [client.post("/save", data={"csrf_token": text}) for text in (token, "other")]
    return refused.status_code, told, *(answer.status_code for answer in sent)


@seen(["ann", "Field must be at least 2 characters long."])
def form(app: Flask) -> object:
    class NameForm(FlaskForm):
        name = StringField(validators=[Length(min=2)])

    app.config.update(SECRET_KEY="key", WTF_CSRF_ENABLED=False)

    @app.post("/")
    def view() -> str:
        sent = NameForm()
        valid = sent.validate_on_submit()
        return str(sent.name.data if valid else sent.name.errors[0])

    client = app.test_client()
    return [client.post("/", data={"name": name}).text for name in ("ann", "a")]


@seen((302, "https://localhost/plain", 200, "SAMEORIGIN", "default-src 'self'", True))
def talisman(app: Flask) -> object:
    Talisman(app, content_security_policy={"default-src": "'self'"})
    two_views(app, lambda view: view, lambda: "text")
    client = app.test_client()
    moved = client.get("/plain")
    secure = client.get("/typed", base_url="https://localhost")
    names = ("X-Frame-Options", "Content-Security-Policy")
    return (
        moved.status_code,
        moved.location,
        secure.status_code,
        *map(secure.headers.get, names),
        "Strict-Transport-Security" in secure.headers,
    )


@pytest.mark.parametrize("make", [lambda: Flask("stock"), create_app], ids=["Flask", "service"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_extension_does_what_it_does_in_flask(
    name: str, make: Callable[[], Flask], tmp_path: Path
) -> None:
    scenario, expected = SCENARIOS[name]
    app = make()
    app.config["OWN_FOLDER"] = str(tmp_path)
    assert scenario(app) == expected


def test_flask_cors_works_beside_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ALLOWED_ORIGINS", FRONT["Origin"])
    app = create_app()
    CORS(app, origins=[FRONT["Origin"]])
    answers = [app.test_client().get(path, headers=FRONT) for path in ("/docs/", "/none")]
    found = [answer.headers.getlist("Access-Control-Allow-Origin") for answer in answers]
    assert found == [[FRONT["Origin"]]] * 2

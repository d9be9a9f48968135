"""Habits: how a path finds its view."""

from flask import Blueprint
from flask import Flask
from flask import request
from flask import url_for
from flask.views import MethodView
from werkzeug.routing import BaseConverter

from habits.common import ask_at
from habits.common import habit
from habits.common import outcome


@habit
def a_doubled_slash(app: Flask) -> object:
    app.add_url_rule("/a/b", view_func=lambda: "text")
    answers = [ask_at(app, path) for path in ("/a/b", "//a/b", "/a//b")]
    return [answer.status_code for answer in answers]


@habit
def a_path_that_lacks_its_slash_and_is_followed(app: Flask) -> object:
    app.add_url_rule("/page/", view_func=lambda: request.query_string)
    return app.test_client().get("/page?b=1", follow_redirects=True).text


@habit
def the_root(app: Flask) -> object:
    return app.test_client().get("/").status_code


@habit
def a_view_of_the_root(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: "text")
    return app.test_client().get("/").text


@habit
def a_slash_that_does_not_matter(app: Flask) -> object:
    app.url_map.strict_slashes = False
    app.add_url_rule("/page/", view_func=lambda: "text")
    return app.test_client().get("/page").status_code


@habit
def a_converter_of_ones_own(app: Flask) -> object:
    class Upper(BaseConverter):
        def to_python(self, value: str) -> str:
            return value.upper()

        def to_url(self, value: str) -> str:
            return value.lower()

    app.url_map.converters["upper"] = Upper
    app.add_url_rule("/<upper:name>", "named", lambda name: name + url_for("named", name="ABC"))
    return app.test_client().get("/abc").text


@habit
def a_subdomain(app: Flask) -> object:
    app.config["SERVER_NAME"] = "example.org"
    app.subdomain_matching = True
    app.add_url_rule("/page", view_func=lambda: "text", subdomain="api")
    client = app.test_client()
    hosts = ("http://api.example.org/", "http://example.org/")
    return [client.get("/page", base_url=host).status_code for host in hosts]


@habit
def a_route_of_one_host(app: Flask) -> object:
    app.url_map.host_matching = True
    app.add_url_rule("/page", view_func=lambda: "text", host="a.org")
    client = app.test_client()
    hosts = ("http://a.org/", "http://b.org/")
    return [client.get("/page", base_url=host).status_code for host in hosts]


@habit
def an_address_with_its_host(app: Flask) -> object:
    app.add_url_rule("/page", "page", lambda: url_for("page", _external=True))
    return app.test_client().get("/page", base_url="https://example.org/").text


@habit
def an_address_outside_a_request(app: Flask) -> object:
    app.config.update(SERVER_NAME="example.org", PREFERRED_URL_SCHEME="https")
    app.add_url_rule("/page", "page", lambda: "text")
    with app.app_context():
        return url_for("page")


@habit
def a_path_that_is_not_ascii(app: Flask) -> object:
    app.add_url_rule("/<name>", "named", lambda name: name + url_for("named", name="\u00e9"))
    return app.test_client().get("/%C3%A9%2Fb").status_code, app.test_client().get("/%C3%A9").text


@habit
def a_view_that_is_a_class(app: Flask) -> object:
    class View(MethodView):
        def get(self) -> str:
            return "get"

        def post(self) -> str:
            return "post"

    app.add_url_rule("/", view_func=View.as_view("view"))
    client = app.test_client()
    return client.get("/").text, client.post("/").text, client.put("/").status_code


@habit
def a_blueprint_in_a_blueprint(app: Flask) -> object:
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    inner = Blueprint("inner", __name__, url_prefix="/inner")
    inner.add_url_rule("/page", "page", lambda: f"{url_for('.page')} {request.blueprints}")
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    return app.test_client().get("/outer/inner/page").text


@habit
def a_route_that_comes_too_late(app: Flask) -> object:
    app.test_client().get("/")
    return outcome(lambda: app.add_url_rule("/late", view_func=lambda: "text"))


@habit
def a_view_that_answers_options_itself(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: ("own", 202), methods=["OPTIONS"])
    answer = app.test_client().options("/")
    return answer.status_code, answer.text


@habit
def a_prefix_of_the_gateway(app: Flask) -> object:
    app.add_url_rule("/page", "page", lambda: f"{request.script_root} {url_for('page')}")
    return app.test_client().get("/page", base_url="http://localhost/shop").text

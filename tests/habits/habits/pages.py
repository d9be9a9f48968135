"""Habits: sessions, templates and static files."""

from pathlib import Path
from typing import Any

import flask
from flask import Blueprint
from flask import Flask
from flask import redirect
from flask import render_template_string
from flask import session
from flask import url_for
from flask.sessions import SecureCookieSessionInterface

from habits.common import habit
from habits.common import outcome


def count_visits() -> str:
    """Be a view that counts its visits in the session."""
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


@habit
def a_session(app: Flask) -> object:
    app.secret_key = "key"
    app.add_url_rule("/", view_func=count_visits)
    client = app.test_client()
    return [client.get("/").text for _ in range(3)], app.test_client().get("/").text


@habit
def a_session_without_a_key(app: Flask) -> object:
    app.testing = True
    app.add_url_rule("/", view_func=count_visits)
    return outcome(lambda: app.test_client().get("/"))


@habit
def a_session_that_a_test_changes(app: Flask) -> object:
    app.secret_key = "key"
    app.add_url_rule("/", view_func=count_visits)
    with app.test_client() as client:
        with client.session_transaction() as opened:
            opened["visits"] = 41
        return client.get("/").text


@habit
def a_session_interface_of_ones_own(app: Flask) -> object:
    class Named(SecureCookieSessionInterface):
        def get_cookie_name(self, app: Flask) -> str:
            return f"{app.config['SESSION_COOKIE_NAME']}-own"

    app.secret_key = "key"
    app.session_interface = Named()
    app.after_request(lambda response: response)
    app.add_url_rule("/", view_func=count_visits)
    client = app.test_client()
    visits = [client.get("/").text for _ in range(2)]
    return visits, client.get_cookie("session-own") is not None


@habit
def the_cookie_of_a_permanent_session(app: Flask) -> object:
    app.config.update(SECRET_KEY="key", SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Lax")

    @app.get("/")
    def view() -> str:
        session.permanent = True
        session["a"] = 1
        return "text"

    answer = app.test_client().get("/", base_url="https://localhost")
    (cookie,) = answer.headers.getlist("Set-Cookie")
    flags = [part for part in cookie.split("; ")[1:] if not part.startswith("Expires=")]
    return flags, answer.headers.get("Vary")


@habit
def a_message_that_is_flashed(app: Flask) -> object:
    app.secret_key = "key"

    @app.get("/set")
    def set_message() -> Any:
        flask.flash("saved", "info")
        return redirect(url_for("show"))

    @app.get("/show")
    def show() -> str:
        template = (
            "{% for category, text in get_flashed_messages(true) %}{{ category, text }}{% endfor %}"
        )
        return render_template_string(template)

    client = app.test_client()
    return client.get("/set", follow_redirects=True).text, client.get("/show").text


@habit
def a_template(app: Flask) -> object:
    template = "{{ request.path }} {{ url_for('page') }} {{ {'a': 1}|tojson }} {{ '<' }}"
    app.add_url_rule("/", "page", lambda: render_template_string(template))
    answer = app.test_client().get("/")
    return answer.text, answer.content_type


@habit
def what_is_added_to_templates(app: Flask) -> object:
    app.context_processor(lambda: {"who": "ann"})
    app.add_template_filter(lambda text: text.upper(), "shout")
    app.add_template_global(lambda: "global", "everywhere")
    app.add_url_rule(
        "/", view_func=lambda: render_template_string("{{ who|shout }} {{ everywhere() }}")
    )
    return app.test_client().get("/").text


@habit
def a_template_in_the_folder_of_a_blueprint(app: Flask) -> object:
    blueprint = Blueprint("pages", __name__, template_folder=".")
    blueprint.add_url_rule("/", view_func=lambda: flask.render_template("common.py"))
    app.register_blueprint(blueprint)
    return "HABITS" in app.test_client().get("/").text


@habit
def a_template_that_is_streamed(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: flask.stream_template_string("{{ request.path }}"))
    return app.test_client().get("/").text


@habit
def the_address_of_a_static_file(app: Flask) -> object:
    with app.test_request_context():
        return outcome(lambda: url_for("static", filename="a.css"))


@habit
def a_static_file(app: Flask) -> object:
    app.static_folder = str(Path(__file__).parent)
    return app.test_client().get("/static/common.py", buffered=True).status_code


@habit
def a_static_file_of_a_blueprint(app: Flask) -> object:
    here = Blueprint("pages", __name__, static_folder=".", static_url_path="/files")
    app.register_blueprint(here)
    with app.test_request_context():
        path = url_for("pages.static", filename="common.py")
    return path, app.test_client().get(path, buffered=True).status_code

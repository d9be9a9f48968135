"""Habits: what runs before and after a view."""

from typing import Any

import flask
from flask import Blueprint
from flask import Flask
from flask import Response
from flask import abort
from flask import g
from flask import make_response
from flask import request

from habits.common import fail
from habits.common import habit


@habit
def a_value_that_is_set_before_the_request(app: Flask) -> object:
    @app.before_request
    def remember() -> None:
        g.user = "ann"

    app.add_url_rule("/", view_func=lambda: g.user)
    return app.test_client().get("/").text


@habit
def a_hook_that_answers_before_the_view(app: Flask) -> object:
    @app.before_request
    def refuse() -> Any:
        return ({"no": 1}, 401) if request.path == "/no" else None

    app.add_url_rule("/no", "no", lambda: "view")
    app.add_url_rule("/yes", "yes", lambda: "view")
    client = app.test_client()
    refused = client.get("/no")
    return refused.status_code, refused.get_json(), client.get("/yes").text


@habit
def a_hook_of_one_blueprint(app: Flask) -> object:
    blueprint = Blueprint("guarded", __name__, url_prefix="/guarded")
    blueprint.before_request(lambda: abort(401))
    blueprint.add_url_rule("/view", view_func=lambda: "view")
    app.register_blueprint(blueprint)
    app.add_url_rule("/view", view_func=lambda: "view")
    client = app.test_client()
    return client.get("/guarded/view").status_code, client.get("/view").status_code


@habit
def a_header_that_is_set_after_the_request(app: Flask) -> object:
    @app.after_request
    def mark(response: Response) -> Response:
        response.headers["X-A"] = "1"
        return response

    app.add_url_rule("/", view_func=lambda: "text")
    app.add_url_rule("/fail", view_func=fail)
    client = app.test_client()
    return [client.get(path).headers.get("X-A") for path in ("/", "/none", "/fail")]


@habit
def another_answer_after_the_request(app: Flask) -> object:
    app.after_request(lambda response: make_response(f"<{response.get_data(as_text=True)}>", 202))
    app.add_url_rule("/", view_func=lambda: "text")
    answer = app.test_client().get("/")
    return answer.status_code, answer.text, answer.headers["Content-Length"]


@habit
def a_hook_after_this_request_alone(app: Flask) -> object:
    @app.get("/")
    def view() -> str:
        @flask.after_this_request
        def mark(response: Response) -> Response:
            response.headers["X-A"] = request.args["a"]
            return response

        return "text"

    client = app.test_client()
    return [client.get(f"/?a={number}").headers.getlist("X-A") for number in (1, 2)]


@habit
def teardowns_of_a_request_see_its_error(app: Flask) -> object:
    seen: list[str] = []
    app.teardown_request(lambda error: seen.append(repr(error)))
    app.teardown_appcontext(lambda error: seen.append(repr(error)))
    app.add_url_rule("/", view_func=lambda: "text")
    app.add_url_rule("/fail", view_func=fail)
    client = app.test_client()
    client.get("/")
    client.get("/fail")
    return seen


@habit
def a_preprocessor_of_the_paths_values(app: Flask) -> object:
    @app.url_value_preprocessor
    def take_language(_endpoint: str | None, values: dict[str, Any] | None) -> None:
        g.language = values.pop("language", None) if values else None

    app.add_url_rule("/<language>/page", view_func=lambda: g.language)
    return app.test_client().get("/en/page").text


@habit
def the_body_is_there_after_the_view(app: Flask) -> object:
    seen: list[bytes] = []

    @app.after_request
    def note(response: Response) -> Response:
        seen.append(request.get_data())
        return response

    app.add_url_rule("/", view_func=lambda: request.get_json(), methods=["POST"])
    app.test_client().post("/", json={"a": 1})
    return seen


@habit
def signals(app: Flask) -> object:
    seen: list[str] = []
    receivers = {
        flask.request_started: lambda *_, **__: seen.append("started"),
        flask.request_finished: lambda *_, **__: seen.append("finished"),
        flask.got_request_exception: lambda *_, **__: seen.append("exception"),
        flask.request_tearing_down: lambda *_, **__: seen.append("tearing down"),
        flask.appcontext_pushed: lambda *_, **__: seen.append("pushed"),
        flask.appcontext_popped: lambda *_, **__: seen.append("popped"),
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver, app)
    app.add_url_rule("/", view_func=lambda: "text")
    app.add_url_rule("/fail", view_func=fail)
    client = app.test_client()
    client.get("/")
    client.get("/fail")
    return seen


@habit
def what_hooks_know_of_the_route(app: Flask) -> object:
    seen: list[object] = []

    @app.after_request
    def note(response: Response) -> Response:
        seen.append((request.endpoint, str(request.url_rule), request.view_args))
        seen.append(type(request.routing_exception).__name__)
        return response

    app.add_url_rule("/<int:number>", "numbered", lambda number: str(number))
    client = app.test_client()
    client.get("/7")
    client.get("/none/none")
    return seen

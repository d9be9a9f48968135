"""Habits: how errors are raised, handled and shown."""

from typing import Any

from flask import Blueprint
from flask import Flask
from flask import abort
from flask import make_response
from flask import request
from werkzeug.debug import DebuggedApplication
from werkzeug.exceptions import HTTPException
from werkzeug.test import Client

from habits.common import fail
from habits.common import habit
from habits.common import outcome


@habit
def a_missing_page(app: Flask) -> object:
    answer = app.test_client().get("/none")
    return answer.status_code, answer.mimetype


@habit
def an_error_that_a_view_raises(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: abort(409, "taken"))
    answer = app.test_client().get("/")
    return answer.status_code, answer.mimetype, "taken" in answer.text


@habit
def an_error_that_nobody_expects(app: Flask) -> object:
    app.add_url_rule("/", view_func=fail)
    answer = app.test_client().get("/")
    return answer.status_code, answer.mimetype, "ZeroDivisionError" in answer.text


@habit
def a_field_that_a_form_lacks(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: request.form["a"], methods=["POST"])
    answer = app.test_client().post("/")
    return answer.status_code, answer.mimetype


@habit
def a_handler_of_404(app: Flask) -> object:
    app.register_error_handler(404, lambda error: (f"mine: {error.code}", 404))
    answer = app.test_client().get("/none")
    return answer.status_code, answer.text, answer.mimetype


@habit
def a_handler_of_all_http_errors(app: Flask) -> object:
    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> Any:  # as in Flask's documentation
        response = error.get_response()
        response.data = f'{{"code": {error.code}}}'
        response.content_type = "application/json"
        return response

    app.add_url_rule("/", view_func=lambda: "text", methods=["POST"])
    app.add_url_rule("/fail", view_func=fail)
    client = app.test_client()
    answers = [client.get(path) for path in ("/none", "/", "/fail")]
    return [(answer.status_code, answer.get_json()) for answer in answers]


@habit
def a_handler_of_an_exception_of_ones_own(app: Flask) -> object:
    class RefusedError(Exception):
        pass

    @app.get("/")
    def view() -> str:
        raise RefusedError

    app.register_error_handler(RefusedError, lambda _: ({"mine": 1}, 418))
    answer = app.test_client().get("/")
    return answer.status_code, answer.get_json()


@habit
def a_handler_of_every_exception(app: Flask) -> object:
    app.register_error_handler(Exception, lambda error: (type(error).__name__, 500))
    app.add_url_rule("/", view_func=fail)
    client = app.test_client()
    return client.get("/").text, client.get("/none").text


@habit
def a_handler_of_500(app: Flask) -> object:
    app.register_error_handler(500, lambda error: (repr(error.original_exception), 500))
    app.add_url_rule("/", view_func=fail)
    return app.test_client().get("/").text


@habit
def a_handler_of_one_blueprint(app: Flask) -> object:
    blueprint = Blueprint("own", __name__, url_prefix="/own")
    blueprint.register_error_handler(409, lambda _: ("mine", 409))
    blueprint.add_url_rule("/", view_func=lambda: abort(409))
    app.register_blueprint(blueprint)
    return app.test_client().get("/own/").text


@habit
def a_handler_of_413(app: Flask) -> object:
    app.config["MAX_CONTENT_LENGTH"] = 10
    app.register_error_handler(413, lambda _: ("too large", 413))
    app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["POST"])
    client = app.test_client()
    answers = [client.post("/", data=b"x" * size) for size in (10, 11)]
    return [(answer.status_code, answer.text) for answer in answers]


@habit
def an_error_that_a_handler_raises(app: Flask) -> object:
    app.register_error_handler(404, lambda _: fail())
    app.register_error_handler(500, lambda error: (repr(error.original_exception), 500))
    return app.test_client().get("/none").text


@habit
def an_abort_with_a_response(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: abort(make_response({"mine": 1}, 409)))
    answer = app.test_client().get("/")
    return answer.status_code, answer.get_json()


@habit
def errors_in_tests(app: Flask) -> object:
    app.testing = True
    app.add_url_rule("/", view_func=fail)
    return outcome(lambda: app.test_client().get("/").status_code)


@habit
def errors_where_they_are_to_propagate(app: Flask) -> object:
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.add_url_rule("/", view_func=fail)
    return outcome(lambda: app.test_client().get("/").status_code)


@habit
def errors_of_http_that_are_trapped(app: Flask) -> object:
    app.testing = True
    app.config["TRAP_HTTP_EXCEPTIONS"] = True
    return outcome(lambda: app.test_client().get("/none").status_code)


@habit
def the_debugger(app: Flask) -> object:
    app.debug = True
    app.add_url_rule("/", view_func=fail)
    answer = Client(DebuggedApplication(app, evalex=True)).get("/")
    found = ("ZeroDivisionError" in answer.text, "Werkzeug Debugger" in answer.text)
    return answer.status_code, answer.content_type, found


@habit
def a_view_that_exits(app: Flask) -> object:
    @app.get("/")
    def view() -> str:
        raise SystemExit(3)

    return outcome(lambda: app.test_client().get("/").status_code)

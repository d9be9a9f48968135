"""Habits: contexts, tests, commands and what lies around the application."""

import asyncio
import threading
from typing import Any

import click
import flask
from flask import Flask
from flask import current_app
from flask import g
from flask import request
from flask.cli import routes_command
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from habits.common import fail
from habits.common import habit


@habit
def a_request_that_a_test_makes_up(app: Flask) -> object:
    with app.test_request_context("/page?a=1", method="POST"):
        return request.args["a"], request.method, request.endpoint


@habit
def a_context_that_a_test_keeps(app: Flask) -> object:
    @app.get("/page")
    def view() -> str:
        g.kept = 5
        return "text"

    with app.test_client() as client:
        client.get("/page")
        return g.kept, request.path, request.endpoint


@habit
def the_context_of_a_request_in_a_thread(app: Flask) -> object:
    @app.get("/page")
    def view() -> list[str]:
        seen: list[str] = []

        @flask.copy_current_request_context
        def work() -> None:
            seen.append(request.path)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return seen

    return app.test_client().get("/page").get_json()


@habit
def a_request_within_a_request(app: Flask) -> object:
    app.add_url_rule("/inner", "inner", lambda: request.path)
    app.add_url_rule("/outer", "outer", lambda: app.test_client().get("/inner").text + request.path)
    return app.test_client().get("/outer").text


@habit
def a_view_that_is_async(app: Flask) -> object:
    async def load() -> None:
        await asyncio.sleep(0)
        g.loaded = 1

    async def handle(error: Exception) -> Any:
        return f"{type(error).__name__} {request.path}", 500

    async def view() -> str:
        await asyncio.sleep(0)
        return f"async {g.loaded}"

    async def failing() -> str:
        return fail()

    app.before_request(load)
    app.register_error_handler(ZeroDivisionError, handle)
    app.add_url_rule("/", view_func=view)
    app.add_url_rule("/fail", view_func=failing)
    client = app.test_client()
    return client.get("/").text, client.get("/fail").text


@habit
def a_command(app: Flask) -> object:
    @app.cli.command("hello")
    @click.argument("name")
    def hello(name: str) -> None:
        click.echo(f"hello {name} {current_app.debug}")

    return app.test_cli_runner().invoke(args=["hello", "ann"]).output


@habit
def the_list_of_routes(app: Flask) -> object:
    app.add_url_rule("/own/<name>", "own", lambda name: name)
    output = app.test_cli_runner().invoke(routes_command).output
    return [line.split() for line in output.splitlines() if line.startswith("own ")]


@habit
def the_logger(app: Flask) -> object:
    handlers = [type(handler).__name__ for handler in app.logger.handlers]
    return app.logger.name == app.name, handlers


@habit
def the_configuration(app: Flask) -> object:
    class Own:
        TESTING = True
        OWN = "own"

    app.config.from_object(Own)
    app.config.from_mapping(OTHER=1)
    app.config.from_prefixed_env("NO_SUCH_PREFIX")
    return app.testing, app.config["OWN"], app.config["OTHER"], app.config["SESSION_COOKIE_NAME"]


@habit
def an_extension_that_keeps_its_state(app: Flask) -> object:
    app.extensions["own"] = {"a": 1}
    app.add_url_rule("/", view_func=lambda: current_app.extensions["own"])
    return app.test_client().get("/").get_json()


@habit
def middleware_of_werkzeug(app: Flask) -> object:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)  # type: ignore[method-assign]
    app.add_url_rule("/", view_func=lambda: f"{request.remote_addr} {request.scheme}")
    headers = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https"}
    return app.test_client().get("/", headers=headers).text


@habit
def applications_side_by_side(app: Flask) -> object:
    other = Flask("other")
    other.add_url_rule("/page", view_func=lambda: f"other {request.script_root}")
    app.add_url_rule("/page", view_func=lambda: f"own {request.script_root}")
    mounted = DispatcherMiddleware(app.wsgi_app, {"/other": other.wsgi_app})
    app.wsgi_app = mounted  # type: ignore[method-assign]
    client = app.test_client()
    return client.get("/page").text, client.get("/other/page").text

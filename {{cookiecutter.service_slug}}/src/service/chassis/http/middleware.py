"""What lies around the application, in its order, and what it lets out."""

import logging
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug import exceptions

from service.chassis.http import problems
from service.chassis.http.access import ROUTE, Access, Headers
from service.chassis.http.admission import Admission
from service.chassis.http.application import Application
from service.chassis.http.bodies import BodyTimeout
from service.chassis.http.cors import allow_origins
from service.chassis.http.probes import Probes
from service.chassis.server.settings import ServerSettings

log = logging.getLogger("service")

MAX_COLLECTED = 1_048_576  # bytes of an answer; a longer one is streamed, for readers that are slow


def hide_process_environment(app: WSGIApplication) -> WSGIApplication:
    """Remove what the server adds from the process's environment: HTTP_PROXY would be a header."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("HTTP_") or name == "REMOTE_USER"
    }

    def hide(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for name, value in variables.items():
            if environ.get(name) == value:
                del environ[name]
        return app(environ, start_response)

    return hide if variables else app


def refuse_leading_slashes(app: WSGIApplication) -> WSGIApplication:
    """Answer `//path` with 404: Werkzeug would take it for `/path`."""

    def refuse(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("//"):
            return problems.respond(exceptions.NotFound(), environ, start_response)
        return app(environ, start_response)

    return refuse


class Containment:
    """Lets no error out, and no answer before it is known to be right.

    In tests and under the debugger errors get out as they do in Flask.
    """

    def __init__(self, app: WSGIApplication, application: Application) -> None:
        self._app = app
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status = ""
        headers: Headers = []

        def keep(given_status: str, given_headers: Headers, exc_info: Any = None) -> Any:
            nonlocal status, headers
            status = given_status
            headers = given_headers
            # Flask has it only until the view's context ends.
            rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
            if rule is not None:
                environ[ROUTE] = rule.rule
            return _refuse_write

        try:
            body = self._app(environ, keep)
            # Read as the server reads it, whose process dies of others.
            if not 200 <= int(status.partition(" ")[0]) <= 599:
                raise ValueError(f"the application answered with status {status!r}")
            if type(body) is not list and _is_short(environ, status, headers):
                body = _collect(body)
            if type(body) is list:
                _check_framing(environ, status, headers, sum(map(len, body)))
            start_response(status, headers)
        except BaseException:  # SystemExit from a view must not end the process
            if self._propagates():
                raise
            log.exception("the request failed outside the application")
            return problems.respond(exceptions.InternalServerError(), environ, start_response)
        return body

    def _propagates(self) -> bool:
        app = self._application
        given = app.config["PROPAGATE_EXCEPTIONS"]
        return app.testing or app.debug if given is None else bool(given)


def _refuse_write(_data: bytes) -> None:
    raise RuntimeError("an application must return its body: write() is not supported")


def _is_short(environ: WSGIEnvironment, status: str, headers: Headers) -> bool:
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value) <= MAX_COLLECTED
    return environ["REQUEST_METHOD"] == "HEAD" or status[:3] in ("204", "304")


def _check_framing(environ: WSGIEnvironment, status: str, headers: Headers, length: int) -> None:
    """Raise ValueError where clients would take a part of this answer for the next one."""
    if environ["REQUEST_METHOD"] == "HEAD" or status[:3] in ("204", "304"):
        return
    for name, value in headers:
        if name.lower() == "content-length" and value != str(length):
            raise ValueError(f"the application answered {length} bytes with {name}: {value}")


def _collect(body: Iterable[bytes]) -> list[bytes]:
    try:
        return list(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def init_app(app: Application, settings: ServerSettings) -> None:
    """Lay the middleware around the application; a request passes the last line first."""
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_size
    handler: WSGIApplication = app.wsgi_app
    handler = refuse_leading_slashes(handler)
    handler = BodyTimeout(handler, settings.request_timeout, settings.max_body_size)
    handler = Containment(handler, app)
    handler = Admission(handler, settings, app.telemetry.registry)
    handler = allow_origins(handler, settings.cors_allowed_origins or "")
    handler = Access(handler, app.readiness, app.telemetry)
    handler = hide_process_environment(handler)
    handler = Probes(handler, app.readiness, app.telemetry)
    app.wsgi_app = handler  # type: ignore[method-assign]

"""The Flask application class: what a service adds to Flask."""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Response, redirect, request
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import RequestRedirect

from service.chassis.lifecycle import Readiness
from service.chassis.telemetry import Telemetry

PLAIN_HEADERS = ["Content-Type", "Content-Length"]


class DirectResponse(Response):
    """A response that, where it is plain, is sent without copies of its headers and iterators."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = self.response
        if (
            self.status_code == 200
            and environ["REQUEST_METHOD"] != "HEAD"
            and not self._on_close
            and [name for name, _ in self.headers] == PLAIN_HEADERS
            and type(body) is list
            and [type(chunk) for chunk in body] == [bytes]
        ):
            start_response(self.status, self.headers.to_wsgi_list())
            return body
        return super().__call__(environ, start_response)


def redirect_relatively(error: RequestRedirect) -> Any:
    """Lead to a path's slash from where the client is: a gateway changes host, scheme and path."""
    target = urlsplit(error.new_url)
    if not unquote(target.path).endswith(f"{request.path}/"):
        return error
    name = quote(request.path.rpartition("/")[2], safe="")
    return redirect(urlunsplit(("", "", f"{name}/", target.query, "")), error.code)


class Application(Flask):
    """Flask with what its requests are recorded by, and what its readiness depends on."""

    # Makes the response of an HTTP error that no handler of the application has answered.
    render_error: Callable[[HTTPException], Response | HTTPException] | None = None
    redirects_relatively = True  # where a path lacks its slash
    home: str | None = None  # where `/` leads while it has no view

    def __init__(self, import_name: str, **options: Any) -> None:
        super().__init__(import_name, **{"static_folder": None, **options})
        self.url_map.merge_slashes = False  # a resource has one path: `/v1//x` is 404
        self.readiness = Readiness()
        self.telemetry = Telemetry()

    def make_response(self, rv: Any) -> Response:
        """Make a response of what a view or an error handler returns."""
        if isinstance(rv, HTTPException):
            # Flask keeps it in a frame of its traceback: body and all would wait for the collector.
            rv.__traceback__ = None
            rv = self._render(rv)
        response = super().make_response(rv)
        if type(response) is Response:  # of no class of the owner's
            response.__class__ = DirectResponse
        return response

    def _render(self, error: HTTPException) -> Any:
        if self.redirects_relatively and isinstance(error, RequestRedirect):
            return redirect_relatively(error)
        asked = (request.method, request.path)
        is_unknown = isinstance(request.routing_exception, NotFound)
        if self.home and is_unknown and asked in (("GET", "/"), ("HEAD", "/")):
            return redirect(self.home)
        return error if self.render_error is None else self.render_error(error)

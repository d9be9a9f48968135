"""The Flask application class: without what a service does not need and Flask does every time."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, NoReturn
from wsgiref.types import StartResponse, WSGIEnvironment

import orjson
from flask import Flask, Request, Response, abort, request, request_tearing_down
from flask.globals import request_ctx
from flask.json.provider import JSONProvider
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter
from werkzeug.routing import RequestRedirect
from werkzeug.routing import Rule

from service.chassis.lifecycle import Readiness
from service.chassis.telemetry.context import Telemetry

PLAIN_HEADERS = ["Content-Type", "Content-Length"]
RULE = "service.rule"  # in the WSGI environment: the rule that a request has matched


class NoSessions(SessionInterface):
    """No cookie is read or written."""

    _session = NullSession()  # refuses every change, so that all requests can share it

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return the one session, which is empty."""
        return self._session


class MatchedRequest(Request):
    """A request that tells the middleware which rule it has matched."""

    @property
    def url_rule(self) -> Rule | None:
        """The rule, once it is matched."""
        return self.environ.get(RULE)

    @url_rule.setter
    def url_rule(self, rule: Rule | None) -> None:
        self.environ[RULE] = rule


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


class FastJson(JSONProvider):
    """orjson instead of the standard library's json."""

    def dumps(self, obj: Any, **_: Any) -> str:
        """Encode a value."""
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """Decode a document."""
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Make the response of `jsonify` and of a view that returns a dictionary or a list."""
        data = orjson.dumps(self._prepare_response_obj(args, kwargs))
        return DirectResponse(data, content_type="application/json")


class Application(Flask):
    """Flask without sessions, a static folder, async views and HTML of its own."""

    request_class = MatchedRequest
    session_interface = NoSessions()
    json_provider_class = FastJson

    def __init__(self, import_name: str) -> None:
        super().__init__(import_name, static_folder=None)
        self.url_map.merge_slashes = False  # a resource has one spelling: `//v1` is 404
        self.readiness = Readiness()
        self.telemetry = Telemetry()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the view as it is: none is async."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Do as Flask does, without virtual hosts and WebSockets: a twelfth of a request's time."""
        if request is None:
            return super().create_url_adapter(None)
        request.trusted_hosts = self.config["TRUSTED_HOSTS"]
        return MapAdapter(
            self.url_map,
            request.host,
            request.root_path,
            "",
            request.scheme,
            request.environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
            request.method,
            request.query_string.decode(errors="replace"),
        )

    def preprocess_request(self, *args: Any) -> Any:
        """Do as Flask does, without the search for hooks where none was registered."""
        if self.before_request_funcs or self.url_value_preprocessors:
            return super().preprocess_request(*args)
        return None

    def process_response(self, response: Response) -> Response:
        """Do as Flask does, without sessions and the search for hooks where none was registered."""
        if self.after_request_funcs or request_ctx._after_request_functions:
            return super().process_response(response)
        return response

    def do_teardown_request(self, *args: Any) -> None:
        """Do as Flask does, without the search for hooks where none was registered."""
        if self.teardown_request_funcs or request_tearing_down.receivers:
            super().do_teardown_request(*args)

    def make_default_options_response(self) -> Response:
        """Answer OPTIONS with 204 and no body."""
        response = super().make_default_options_response()
        response.status_code = 204
        del response.headers["Content-Type"]
        return response

    def raise_routing_exception(self, request: Request) -> NoReturn:
        """Redirect without Flask's page of HTML."""
        redirect = request.routing_exception
        if isinstance(redirect, RequestRedirect):
            headers = {"Location": redirect.new_url}
            abort(Response(status=308, headers=headers, content_type="text/plain"))
        super().raise_routing_exception(request)

    def log_exception(self, exc_info: Any) -> None:
        """Log an unexpected error by the route's template, without the values in the path."""
        log = logging.getLogger("service")
        log.error("%s %s failed", request.method, request.url_rule, exc_info=exc_info)

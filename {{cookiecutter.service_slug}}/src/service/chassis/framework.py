"""The Flask application class: without what a service never needs and stock Flask does for every request."""

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

PLAIN = ["Content-Type", "Content-Length"]  # the headers of an answer that needs no more work


class NoSessions(SessionInterface):
    """No cookie is read or written."""

    _session = NullSession()  # refuses every change, so that all requests can share it

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._session


class DirectResponse(Response):
    """A response of the chassis; a plain one goes out without copies of its headers and iterators round its body."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body, names = self.response, [name for name, _ in self.headers]
        special = self.status_code != 200 or self._on_close or environ["REQUEST_METHOD"] == "HEAD" or names != PLAIN
        if special or type(body) is not list or [type(piece) for piece in body] != [bytes]:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return body


class FastJson(JSONProvider):
    """orjson instead of the standard library's json."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        return DirectResponse(orjson.dumps(self._prepare_response_obj(args, kwargs)), content_type="application/json")


class Service(Flask):
    """Flask without sessions, a static folder, async views and HTML of its own."""

    session_interface = NoSessions()
    json_provider_class = FastJson

    def __init__(self, import_name: str) -> None:
        super().__init__(import_name, static_folder=None)
        self.url_map.merge_slashes = False  # a resource has one spelling: `//v1` is 404

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """As Flask's, without virtual hosts, subdomains and WebSockets, which take a twelfth of a request's time."""
        if request is None:
            return super().create_url_adapter(None)
        request.trusted_hosts = self.config["TRUSTED_HOSTS"]
        path = request.environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        query = request.query_string.decode(errors="replace")
        root, method = request.root_path, request.method
        return MapAdapter(self.url_map, request.host, root, "", request.scheme, path, method, query)

    def preprocess_request(self, *args: Any) -> Any:
        """As Flask's, without the search for hooks where none was registered."""
        return super().preprocess_request(*args) if self.before_request_funcs or self.url_value_preprocessors else None

    def process_response(self, response: Response) -> Response:
        """As Flask's, without sessions and the search for hooks where none was registered."""
        hooks = self.after_request_funcs or request_ctx._after_request_functions
        return super().process_response(response) if hooks else response

    def do_teardown_request(self, *args: Any) -> None:
        """As Flask's, without the search for hooks where none was registered."""
        if self.teardown_request_funcs or request_tearing_down.receivers:
            super().do_teardown_request(*args)

    def make_default_options_response(self) -> Response:
        response = super().make_default_options_response()
        response.status_code = 204
        del response.headers["Content-Type"]
        return response

    def raise_routing_exception(self, request: Request) -> NoReturn:
        redirect = request.routing_exception
        if isinstance(redirect, RequestRedirect):  # its own body is HTML
            abort(Response(status=308, headers={"Location": redirect.new_url}, content_type="text/plain"))
        super().raise_routing_exception(request)

    def log_exception(self, exc_info: Any) -> None:
        logging.getLogger("service").error("%s %s failed", request.method, request.url_rule, exc_info=exc_info)

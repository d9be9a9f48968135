"""The Flask application class: what a service adds to Flask."""

from collections.abc import Callable, Iterable
from typing import IO, Any, cast
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Flask, Request, Response
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.routing import Rule
from werkzeug.utils import cached_property
from werkzeug.wsgi import LimitedStream

from service.chassis.lifecycle import Readiness
from service.chassis.telemetry.context import Telemetry

PLAIN_HEADERS = ["Content-Type", "Content-Length"]
RULE = "service.rule"  # in the WSGI environment: the rule that a request has matched


class MaximumStream(LimitedStream):
    """A body of unknown length, which passes at its limit and is refused, not cut, above it."""

    def on_exhausted(self) -> None:
        """Raise RequestEntityTooLarge if more comes."""
        if self._stream.read(1):
            raise RequestEntityTooLarge

    def readall(self) -> bytes:
        """Return the rest of the body."""
        data = super().readall()
        if self.is_exhausted:
            self.on_exhausted()
        return data


class ServiceRequest(Request):
    """A request that tells the middleware which rule it has matched."""

    @property
    def url_rule(self) -> Rule | None:
        """The rule, once it is matched."""
        return self.environ.get(RULE)

    @url_rule.setter
    def url_rule(self, rule: Rule | None) -> None:
        merges_slashes = rule is None or rule.map.merge_slashes
        # Werkzeug leaves out the slashes that a path begins with.
        if self.environ["PATH_INFO"].startswith("//") and not merges_slashes:
            self.routing_exception = NotFound()
        else:
            self.environ[RULE] = rule

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body, within its limit."""
        stream = super().stream
        if isinstance(stream, LimitedStream) and "wsgi.input_terminated" in self.environ:
            body = self.environ["wsgi.input"]
            stream = cast("IO[bytes]", MaximumStream(body, stream.limit, is_max=True))
        return stream


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


class Application(Flask):
    """Flask with what its requests are recorded by, and what its readiness depends on."""

    # Makes the response of an HTTP error that no handler of the application has answered.
    render_error: Callable[[HTTPException], Response | HTTPException] | None = None
    _request_class: type[Request] = ServiceRequest

    def __init__(self, import_name: str, **options: Any) -> None:
        super().__init__(import_name, **{"static_folder": None, **options})
        self.url_map.merge_slashes = False  # a resource has one path: `//v1` and `/v1//` are 404
        self.readiness = Readiness()
        self.telemetry = Telemetry()

    @property
    def request_class(self) -> type[Request]:
        """The class of requests; one that is set gets what the service's own adds."""
        return self._request_class

    @request_class.setter
    def request_class(self, given: type[Request]) -> None:
        is_own = issubclass(given, ServiceRequest)
        self._request_class = given if is_own else type(given.__name__, (ServiceRequest, given), {})

    def make_response(self, rv: Any) -> Response:
        """Make a response of what a view or an error handler returns."""
        if self.render_error is not None and isinstance(rv, HTTPException):
            rv = self.render_error(rv)
        response = super().make_response(rv)
        if type(response) is Response:
            response.__class__ = DirectResponse
        return response

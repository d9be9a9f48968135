"""Every error as a problem (RFC 9457): from a view, from Flask and from the middleware."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from wsgiref.types import StartResponse, WSGIEnvironment

import orjson
from flask import Response, request
from pydantic import MISSING, BaseModel, Field
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from service.chassis.http.access import Headers
from service.chassis.http.application import Application
from service.chassis.http.validation import Invalid
from service.chassis.telemetry.spans import current_ids

MEDIA_TYPE = "application/problem+json"
OWN_METHODS = (HTTPException.get_response, HTTPException.get_body)


class ProblemError(BaseModel):
    """One thing that is wrong with the request."""

    detail: str
    pointer: str | MISSING = Field(MISSING, description="JSON pointer into the body")
    parameter: str | MISSING = Field(MISSING, description="Name of a query parameter")
    header: str | MISSING = MISSING


class Problem(BaseModel):
    """What went wrong, for people and programs (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str | MISSING = MISSING
    instance: str = Field(description="Path of the request")
    request_id: str | MISSING = MISSING
    trace_id: str | MISSING = MISSING
    dependency: str | MISSING = Field(MISSING, description="Name of the service that failed")
    errors: list[ProblemError] | MISSING = MISSING


class ProblemType(HTTPException):
    """Base of errors with a type of their own: `class OutOfStock(ProblemType, Conflict)`.

    A subclass sets `type`, the URI by which programs know it, `title`, which says the same to
    people, and `code`, where no other base has. `raise OutOfStock("Two are left.", left=2)` adds
    a detail and members.
    """

    code: int
    type: ClassVar[str]
    title: ClassVar[str]

    def __init_subclass__(cls) -> None:
        missing = [name for name in ("code", "type", "title") if not getattr(cls, name, None)]
        if missing:
            raise TypeError(f"{cls.__module__}.{cls.__qualname__} must set {missing}")

    def __init__(self, detail: str | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.members = members


def encode(status: int, detail: str | None, instance: str, members: Mapping[str, Any]) -> bytes:
    """Encode a problem, whose type and title may be members; those without a value are left out."""
    title = HTTP_STATUS_CODES.get(status, "Error")
    fixed = {"status": status, "detail": detail, "instance": instance}
    problem = {"type": "about:blank", "title": title, **fixed, **members, **fixed}
    given = {name: value for name, value in problem.items() if value not in (None, "", ())}
    return orjson.dumps(given, default=str)


def describe(error: HTTPException, environ: WSGIEnvironment) -> tuple[str, bytes, Headers]:
    """Return status line, body and headers of an error; from 500 up the detail is not disclosed."""
    status = error.code or 500
    path = environ["PATH_INFO"].encode("latin-1", "replace").decode("utf-8", "replace") or "/"
    members: dict[str, Any] = dict(getattr(error, "members", {}))
    if isinstance(error, ProblemType):
        members |= {"type": error.type, "title": error.title}
    ids = current_ids().items()
    members |= {name: value for name, value in ids if name in Problem.model_fields}
    if isinstance(error, Invalid):
        members["errors"] = error.errors
    detail = str(error.description) if error.description and status < 500 else None
    body = encode(status, detail, path, members)
    headers = [pair for pair in error.get_headers(environ) if pair[0] != "Content-Type"]
    headers += [("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body)))]
    return f"{status} {HTTP_STATUS_CODES.get(status, 'Error')}", body, headers


def respond(
    error: HTTPException, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Answer with an error, as a WSGI application does."""
    status, body, headers = describe(error, environ)
    start_response(status, headers)
    return [body]


def render(error: HTTPException) -> Response | HTTPException:
    """Return Flask's response for an error; one with a response of its own stays as it is."""
    kind = type(error)
    makes_its_own = (kind.get_response, kind.get_body) != OWN_METHODS
    if error.response is not None or makes_its_own or (error.code or 500) < 400:
        return error
    _, body, headers = describe(error, request.environ)
    return Response(body, error.code or 500, headers)


def init_app(app: Application) -> None:
    """Let Flask answer with problems where the application has no handler of its own."""
    app.render_error = render

"""Every error as a problem (RFC 9457): from a view, from Flask and from the middleware."""

from collections.abc import Iterable, Sequence
from wsgiref.types import StartResponse, WSGIEnvironment

import orjson
from flask import Response, request
from pydantic import MISSING, BaseModel, Field
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

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
    errors: list[ProblemError] | MISSING = MISSING


def encode(
    status: int, detail: str | None, instance: str, errors: Sequence[object] = (), **ids: str
) -> bytes:
    """Encode a problem; members without a value are left out."""
    problem = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "instance": instance,
        **ids,
        "errors": errors,
    }
    return orjson.dumps({name: value for name, value in problem.items() if value})


def describe(
    error: HTTPException, environ: WSGIEnvironment
) -> tuple[str, bytes, list[tuple[str, str]]]:
    """Return status line, body and headers of an error; from 500 up the detail is not disclosed."""
    status = error.code or 500
    path = environ["PATH_INFO"].encode("latin-1", "replace").decode("utf-8", "replace") or "/"
    body = encode(
        status,
        str(error.description) if error.description and status < 500 else None,
        path,
        error.errors if isinstance(error, Invalid) else (),
        **{name: value for name, value in current_ids().items() if name in Problem.model_fields},
    )
    headers = [
        (name, value) for name, value in error.get_headers(environ) if name != "Content-Type"
    ]
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

"""Every error as a problem (RFC 9457), the same from a view, from Flask itself and from the layer outside it."""

from collections.abc import Sequence
from wsgiref.types import WSGIEnvironment

import orjson
from flask import Flask, Response, request
from pydantic import MISSING, BaseModel, Field
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from service.chassis import logs

MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """One thing that is wrong with the request."""

    detail: str
    pointer: str | MISSING = Field(MISSING, description="JSON pointer into the body")
    parameter: str | MISSING = Field(MISSING, description="Name in the query")
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
    errors: list[Fault] | MISSING = MISSING


def problem_bytes(status: int, detail: str | None, instance: str, errors: Sequence[object] = (), **ids: str) -> bytes:
    """Encode a problem; members without a value are left out."""
    title = HTTP_STATUS_CODES.get(status, "Error")
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": instance, **ids}
    return orjson.dumps({name: value for name, value in (problem | {"errors": errors}).items() if value})


def outside_flask(error: HTTPException, environ: WSGIEnvironment) -> tuple[str, bytes, list[tuple[str, str]]]:
    """Give status line, body and headers of an error; from 500 up no detail is told."""
    status = error.code or 500
    path = environ["PATH_INFO"].encode("latin-1", "replace").decode("utf-8", "replace") or "/"
    ids = {name: value for name, value in logs.request_ids.get().items() if name in Problem.model_fields}
    detail = error.description if status < 500 else None
    body = problem_bytes(status, detail, path, getattr(error, "errors", ()), **ids)
    headers = [(name, value) for name, value in error.get_headers(environ) if name != "Content-Type"]
    headers += [("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body)))]
    return f"{status} {HTTP_STATUS_CODES.get(status, 'Error')}", body, headers


def render(error: HTTPException) -> Response | HTTPException:
    """Flask's handler of every HTTP error; an error that carries a response of its own goes out as it is."""
    if error.response is not None:
        return error
    status, body, headers = outside_flask(error, request.environ)
    return Response(body, status, headers)


def init_app(app: Flask) -> None:
    app.register_error_handler(HTTPException, render)

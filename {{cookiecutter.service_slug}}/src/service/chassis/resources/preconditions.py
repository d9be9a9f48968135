"""ETags from a row's version: 304 for what the client has, 428 and 412 before a change."""

from typing import TypeVar

from flask import Response, abort
from pydantic import Field
from werkzeug.exceptions import PreconditionFailed, PreconditionRequired
from werkzeug.http import parse_etags

from service.chassis.http.routes import Reply
from service.chassis.http.validation import Model

T = TypeVar("T")

MAX_LENGTH = 1000


class IfNoneMatch(Model):
    """The header of a read."""

    if_none_match: str | None = Field(
        None, max_length=MAX_LENGTH, description="ETags that the client has"
    )


class IfMatch(Model):
    """The header of a change."""

    if_match: str | None = Field(
        None, max_length=MAX_LENGTH, description="ETag of the resource to change; required"
    )


class Versioned(Reply[T]):
    """An answer with the ETag of its version."""

    sends = ("ETag",)


def etag(version: int) -> dict[str, str]:
    """Return the header for a version."""
    return {"ETag": f'"{version}"'}


def unless_known(headers: IfNoneMatch, version: int) -> dict[str, str]:
    """Return the ETag's header; answer with 304 where the client has this version."""
    given = headers.if_none_match
    if given is not None and parse_etags(given).contains_weak(str(version)):
        abort(Response(status=304, headers=etag(version), content_type=None))
    return etag(version)


def require(headers: IfMatch) -> None:
    """Raise PreconditionRequired for a change without an ETag."""
    if headers.if_match is None:
        raise PreconditionRequired("Send the ETag of the resource in If-Match.")


def match(headers: IfMatch, version: int) -> None:
    """Raise PreconditionFailed for another version; call it in the transaction with the lock."""
    require(headers)
    if not parse_etags(headers.if_match).contains(str(version)):
        raise PreconditionFailed("ETag is out of date; fetch the resource again.")

"""ETags from a row's version: 304 for what the client has, 428 and 412 before a change."""

from flask import Response, abort
from pydantic import Field
from werkzeug.exceptions import PreconditionFailed, PreconditionRequired
from werkzeug.http import parse_etags

from service.chassis.validation import Model

LONGEST = 1000  # characters


class IfNoneMatch(Model):
    if_none_match: str | None = Field(None, max_length=LONGEST, description="ETags that the client has")


class IfMatch(Model):
    if_match: str | None = Field(None, max_length=LONGEST, description="ETag of what is to be changed; needed")


def etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


def unless_known(headers: IfNoneMatch, version: int) -> dict[str, str]:
    """Give the ETag's header; answer with 304 where the client has this version."""
    given = headers.if_none_match
    if given is not None and parse_etags(given).contains_weak(str(version)):
        abort(Response(status=304, headers=etag(version), content_type=None))
    return etag(version)


def require(headers: IfMatch) -> None:
    """Raise PreconditionRequired for a change that does not say of what."""
    if headers.if_match is None:
        raise PreconditionRequired("Send the ETag of what you change in If-Match.")


def match(headers: IfMatch, version: int) -> None:
    """Raise PreconditionFailed where another version is meant; call it in the transaction that locked the row."""
    require(headers)
    if not parse_etags(headers.if_match).contains(str(version)):
        raise PreconditionFailed("It has changed since: read it again.")

"""Typed routes on plain blueprints: a view's annotations are the contract of its operation."""

import inspect
import re
import typing as t
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import update_wrapper
from itertools import chain
from itertools import islice
from uuid import UUID

from flask import Blueprint, Response, current_app, g, request, stream_with_context
from pydantic import BaseModel, TypeAdapter
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map
from werkzeug.wrappers import Response as BaseResponse

from service.chassis.http.problems import ProblemType
from service.chassis.http.uploads import file_fields
from service.chassis.http.validation import READERS

VARIABLE = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")  # converter and name
CONVERTED: dict[str, type] = dict.fromkeys(("", *Map.default_converters), str)
CONVERTED |= {"int": int, "float": float, "uuid": UUID}
JSON = "application/json"
T = t.TypeVar("T")


@dataclass(frozen=True)
class Reply(t.Generic[T]):
    """An answer with headers of its own; a subclass sets another status and the headers' names."""

    body: T
    headers: Mapping[str, str] | None = None
    encoded: bytes | None = None  # the body as JSON, where that is known
    status: t.ClassVar[int] = 200
    sends: t.ClassVar[tuple[str, ...]] = ()  # headers that the document names


class Created(Reply[T]):
    """201: `headers` should give the new resource's Location, from the request's own address."""

    status = 201
    sends = ("Location",)


@dataclass(frozen=True)
class SecurityScheme:
    """How callers of a route prove who they are.

    `name` and `document` are what OpenAPI calls the scheme. `check` is called before a view, with
    the scopes that its route asks for; it returns what identifies the caller, as text or a number,
    which is then `g.caller`, or raises Unauthorized or Forbidden.
    """

    name: str
    document: Mapping[str, t.Any]
    check: Callable[..., str | int | UUID | None]
    scopes: tuple[str, ...] = ()

    def with_scopes(self, *scopes: str) -> "SecurityScheme":
        """Return the scheme for a route that asks for these scopes."""
        return replace(self, scopes=scopes)


class Contract(t.TypedDict, total=False):
    """What the annotations of a view do not say.

    `raises` are the statuses and problem types of the errors that it raises, and the statuses that
    a file's Response may have (206, 304).
    `security` says who may call it, None that everyone may.
    `produces` is the media type of a stream or a Response, as in `text/csv` or `image/*`.
    `max_body_size` is its own limit in bytes, instead of the setting's.
    """

    raises: tuple[int | type[ProblemType], ...]
    security: SecurityScheme | None
    produces: str
    max_body_size: int


Result = BaseModel | list[t.Any] | Reply[t.Any] | Response | Iterator[t.Any] | None
View = t.TypeVar("View", bound=Callable[..., Result])


class TypedView:
    """A view as Flask calls it: reads its arguments, checks and encodes its result."""

    def __init__(
        self, view: Callable[..., t.Any], method: str, rule: str, **contract: t.Unpack[Contract]
    ) -> None:
        update_wrapper(self, view)
        self.view = view
        self._is_decorated = hasattr(view, "__wrapped__")
        self.method = method
        for name in contract.keys() - Contract.__optional_keys__:
            self._refuse(f"has an unexpected keyword argument {name!r}")
        self.raises = contract.get("raises", ())
        self.security = contract.get("security")
        if not isinstance(self.security, SecurityScheme | None):
            self._refuse(f"has security={self.security!r}, which is no SecurityScheme")
        self.produces = contract.get("produces", "")
        self._max_body_size = contract.get("max_body_size")
        hints = t.get_type_hints(view, include_extras=True)
        self.inputs = {name: hints[name] for name in READERS if name in hints}
        self._check_arguments(rule, hints)
        self._readers = [(name, READERS[name](hint)) for name, hint in self.inputs.items()]
        self._read_result(hints["return"])

    def _read_result(self, hint: t.Any) -> None:
        """Find out what the view returns."""
        origin = t.get_origin(hint)
        is_reply = isinstance(origin, type) and issubclass(origin, Reply)
        self.reply = origin if is_reply else None
        body = t.get_args(hint)[0] if is_reply else hint
        self.kind = t.get_origin(body) or body
        self.item = next(iter(t.get_args(body)), None) if self.kind is list else None
        self.output = body if _is_model(self.item or self.kind) else None
        self._is_stream = self.kind in (Iterator, Generator)
        is_known = self.output or self._is_stream or hint in (type(None), Response)
        if not is_known or hint in (Iterator, Generator):
            self._refuse(
                f"returns {body}: must be a model, a list of one model, an iterator of str or "
                "bytes, a reply of these, a Response or None"
            )
        if self._is_stream and (not self.produces or set("*;") & set(self.produces)):
            self._refuse('streams: must say what, as in produces="text/csv"')
        if self.output and self.produces:
            self._refuse("returns models, which are JSON: must not say what it produces")
        self.produces = self.produces or (JSON if self.output else "")
        self.status = self.reply.status if self.reply else 204 if hint is type(None) else 200
        self._encode = TypeAdapter(self.output).serializer.to_json if self.output else None

    def _refuse(self, reason: str) -> t.NoReturn:
        raise TypeError(f"{self.view.__module__}.{self.view.__qualname__} {reason}")

    def _check_arguments(self, rule: str, hints: dict[str, t.Any]) -> None:
        if inspect.iscoroutinefunction(self.view):
            self._refuse("is async: views run in threads")
        names = set(inspect.signature(self.view).parameters)
        if bare := sorted(names.union({"return"}).difference(hints)):
            self._refuse(f"has no annotation for {bare}")
        variables = {
            name: CONVERTED.get(converter, hints.get(name))
            for converter, name in VARIABLE.findall(rule)
        }
        if odd := sorted((names - set(READERS)) ^ set(variables)):
            self._refuse(f"and its rule {rule} do not agree: {odd} must be in both")
        if wrong := [name for name, kind in variables.items() if hints[name] is not kind]:
            self._refuse(f"takes {wrong} as another type than its rule {rule} gives")
        bodies = {"body", "form"}.intersection(self.inputs)
        if bodies and self.method in ("GET", "DELETE"):
            self._refuse(f"takes a body, which a {self.method} request has not")
        if len(bodies) > 1:
            self._refuse("takes a body and a form: a request has one of them")
        if any(not _is_model(self.inputs[name]) for name in self.inputs.keys() - {"body"}):
            self._refuse("must take form, query and headers as models")
        if "form" in bodies and file_fields(self.inputs["form"]) and not self._max_body_size:
            self._refuse("takes files: must say how much, as in max_body_size=2_000_000")

    def __call__(self, **arguments: t.Any) -> Response:
        if self.security:
            g.caller = self.security.check(*self.security.scopes)
        if arguments and "\0" in request.path:  # nothing has such a name, and databases fail on it
            raise NotFound
        if self._max_body_size:
            request.max_content_length = self._max_body_size
        for name, read in self._readers:
            arguments[name] = read()
        return self._to_response(self.view(**arguments))

    def _to_response(self, result: t.Any) -> Response:
        if isinstance(result, BaseResponse):  # the view's own, or that of a decorator
            self._check_type(result)
            return t.cast("Response", result)
        if self._is_decorated and isinstance(result, tuple):
            return current_app.make_response(result)
        headers = data = None
        if self.reply:
            self._expect(self.reply, result)
            headers, data = result.headers, result.encoded
            result = result.body
        self._expect(self.kind, result)
        if self.item:
            self._expect(self.item, *result)
        if self._encode:
            # On wrong types pydantic only warns, and None and other models it encodes as null and
            # {}: hence the checks before.
            data = data or self._encode(result, by_alias=True, warnings="error")
            return Response(data, self.status, headers, content_type=JSON)
        if self._is_stream:
            return Response(self._start(result), self.status, headers, self.produces)
        response = Response(status=204)
        del response.headers["Content-Type"]
        return response

    def _start(self, stream: Iterator[t.Any]) -> Iterator[t.Any]:
        """Run a stream up to its first piece, while an error can still be the answer."""
        first = list(islice(stream, 1))
        self._expect((str, bytes), *first)
        return stream_with_context(chain(first, stream))

    def _check_type(self, response: BaseResponse) -> None:
        """See that a successful answer with a body is of the type that the document names."""
        if self._is_decorated and self.produces in ("", JSON):
            return  # a decorator may answer in its own way
        is_success = 200 <= response.status_code < 300 and response.response
        if is_success and not fnmatchcase(response.mimetype or "", self.produces):
            self._refuse(f'answered with {response.mimetype}: must say so, as in produces="..."')

    def _expect(self, kind: type | tuple[type, ...], *results: object) -> None:
        for result in results:
            if not isinstance(result, kind):
                name = getattr(kind, "__name__", "piece of text or bytes")
                self._refuse(f"returned a {type(result).__name__}, not a {name}")


class Routes:
    """Adds typed views to a blueprint and leaves them as they are.

    `security` holds for all of them that do not name their own; None lets everyone call.
    """

    def __init__(self, blueprint: Blueprint, security: SecurityScheme | None = None) -> None:
        self.blueprint = blueprint
        self.security = security

    def get(self, rule: str, **contract: t.Unpack[Contract]) -> Callable[[View], View]:
        """Route GET, and with it HEAD."""
        return self._route("GET", rule, contract)

    def post(self, rule: str, **contract: t.Unpack[Contract]) -> Callable[[View], View]:
        """Route POST."""
        return self._route("POST", rule, contract)

    def put(self, rule: str, **contract: t.Unpack[Contract]) -> Callable[[View], View]:
        """Route PUT."""
        return self._route("PUT", rule, contract)

    def patch(self, rule: str, **contract: t.Unpack[Contract]) -> Callable[[View], View]:
        """Route PATCH."""
        return self._route("PATCH", rule, contract)

    def delete(self, rule: str, **contract: t.Unpack[Contract]) -> Callable[[View], View]:
        """Route DELETE."""
        return self._route("DELETE", rule, contract)

    def _route(self, method: str, rule: str, contract: Contract) -> Callable[[View], View]:
        terms: Contract = {"security": self.security, **contract}

        def register(view: View) -> View:
            typed = TypedView(view, method, (self.blueprint.url_prefix or "") + rule, **terms)
            self.blueprint.add_url_rule(rule, view.__name__, typed, methods=[method])
            return view

        return register


def _is_model(hint: t.Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)

"""Typed routes on plain blueprints: a view's annotations are the contract of its operation."""

import inspect
import re
import typing as t
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from uuid import UUID

from flask import Blueprint, Response, request
from pydantic import BaseModel, TypeAdapter
from werkzeug.exceptions import NotFound

from service.chassis.framework import DirectResponse
from service.chassis.validation import READERS

VARIABLE = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")
CONVERTED = {"": str, "string": str, "path": str, "any": str, "int": int, "float": float, "uuid": UUID}
T = t.TypeVar("T")


@dataclass(frozen=True)
class Reply(t.Generic[T]):
    """An answer with headers of its own; a subclass sets another status."""

    body: T
    headers: Mapping[str, str] | None = None
    status: t.ClassVar[int] = 200


class Created(Reply[T]):
    """201: `headers` should give the new resource's Location."""

    status = 201


View = t.TypeVar("View", bound=Callable[..., BaseModel | list[t.Any] | Reply[t.Any] | Response | None])


class Contract:
    """A view as Flask calls it: reads what the annotations ask for, calls the view, checks and writes its answer."""

    def __init__(self, view: Callable[..., t.Any], method: str, rule: str, raises: tuple[int, ...]) -> None:
        update_wrapper(self, view)
        self.view, self.method, self.raises = view, method, raises
        hints = t.get_type_hints(view, include_extras=True)
        self.inputs = {name: hints[name] for name in READERS if name in hints}
        self._check_inputs(rule, hints)
        hint, origin = hints["return"], t.get_origin(hints["return"])
        self.reply = origin if isinstance(origin, type) and issubclass(origin, Reply) else None
        if self.reply:
            (hint,) = t.get_args(hint)
        self.guard = t.get_origin(hint) or hint
        self.item = next(iter(t.get_args(hint)), None) if self.guard is list else None
        self.output = hint if _is_model(self.item or self.guard) else None
        if not self.output and (self.reply or hint not in (type(None), Response)):
            self._refuse(f"returns {hint}: must be a model, a list of one model, a reply of these, a Response or None")
        self.status = self.reply.status if self.reply else 204 if hint is type(None) else 200
        self._readers = [(name, READERS[name](hint)) for name, hint in self.inputs.items()]
        self._write = TypeAdapter(self.output).serializer.to_json if self.output else None

    def _refuse(self, reason: str) -> t.NoReturn:
        raise TypeError(f"{self.view.__module__}.{self.view.__qualname__} {reason}")

    def _check_inputs(self, rule: str, hints: dict[str, t.Any]) -> None:
        if inspect.iscoroutinefunction(self.view):
            self._refuse("is async: views run in threads")
        names = set(inspect.signature(self.view).parameters)
        if bare := sorted(names.union({"return"}).difference(hints)):
            self._refuse(f"has no annotation for {bare}")
        variables = {name: CONVERTED.get(converter, hints.get(name)) for converter, name in VARIABLE.findall(rule)}
        if odd := sorted((names - set(READERS)) ^ set(variables)):
            self._refuse(f"and its rule {rule} do not agree: {odd} must be in both")
        if wrong := [name for name, kind in variables.items() if hints[name] is not kind]:
            self._refuse(f"takes {wrong} as another type than its rule {rule} gives")
        if "body" in self.inputs and self.method in ("GET", "DELETE"):
            self._refuse(f"takes a body, which a {self.method} request has not")
        if any(not _is_model(self.inputs.get(name, BaseModel)) for name in ("query", "headers")):
            self._refuse("must take query and headers as models")

    def __call__(self, **arguments: t.Any) -> Response:
        if arguments and "\0" in request.path:  # nothing has such a name, and databases fail on it
            raise NotFound
        for name, read in self._readers:
            arguments[name] = read()
        return self._answer(self.view(**arguments))

    def _answer(self, result: t.Any) -> Response:
        headers = None
        if self.reply:
            self._expect(self.reply, result)
            headers, result = result.headers, result.body
        self._expect(self.guard, result)
        if self.item:
            self._expect(self.item, *result)
        if self._write:
            # On wrong types pydantic only warns, and None and other models it writes as null and {}: hence the guards.
            data = self._write(result, warnings="error")
            return DirectResponse(data, self.status, headers, content_type="application/json")
        if result is None:
            result = Response(status=204)
            del result.headers["Content-Type"]
        return t.cast("Response", result)

    def _expect(self, kind: type, *results: object) -> None:
        for result in results:
            if not isinstance(result, kind):
                self._refuse(f"returned a {type(result).__name__}, not a {kind.__name__}")


class Routes:
    """Adds typed views to a blueprint and leaves them as they were; `raises` are the statuses a view aborts with."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint

    def get(self, rule: str, raises: tuple[int, ...] = ()) -> Callable[[View], View]:
        return self._route("GET", rule, raises)

    def post(self, rule: str, raises: tuple[int, ...] = ()) -> Callable[[View], View]:
        return self._route("POST", rule, raises)

    def put(self, rule: str, raises: tuple[int, ...] = ()) -> Callable[[View], View]:
        return self._route("PUT", rule, raises)

    def patch(self, rule: str, raises: tuple[int, ...] = ()) -> Callable[[View], View]:
        return self._route("PATCH", rule, raises)

    def delete(self, rule: str, raises: tuple[int, ...] = ()) -> Callable[[View], View]:
        return self._route("DELETE", rule, raises)

    def _route(self, method: str, rule: str, raises: tuple[int, ...]) -> Callable[[View], View]:
        def register(view: View) -> View:
            contract = Contract(view, method, (self.blueprint.url_prefix or "") + rule, raises)
            self.blueprint.add_url_rule(rule, view.__name__, contract, methods=[method])
            return view

        return register


def _is_model(hint: t.Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)

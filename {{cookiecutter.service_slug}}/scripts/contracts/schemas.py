"""Compare the schemas of two contracts by the rules."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from contracts.flatten import Json, Schema, UnreadableError, as_text, expand, flatten
from contracts.rules import LIMITS, NAMES, REMEDIES, REQUEST

UNDERSTOOD = {
    *LIMITS,
    "additionalProperties",
    "enum",
    "items",
    "mapping",
    "properties",
    "required",
}
DEEPEST = 100


class Fault(NamedTuple):
    """A change that breaks callers: where, by which rule, and what."""

    where: str
    rule: str
    what: str

    def __str__(self) -> str:
        """The line that tells it, and what to do instead."""
        return f"{self.where}: {self.what}; {REMEDIES[self.rule]}"


class Comparison:
    """Two documents, the older first, and what is taken for compatible meanwhile."""

    def __init__(self, old: Json, new: Json) -> None:
        self.old = old
        self.new = new
        self._assumed: set[tuple[str, ...]] = set()

    def schemas(
        self, old: Schema, new: Schema, flow: str, where: str, pointer: str = ""
    ) -> list[Fault]:
        """Return what of a schema in one flow breaks callers; `pointer` leads to it."""
        key = (flow, as_text(old), as_text(new))
        if key in self._assumed:  # it is within itself, or was found to fit
            return []
        before = set(self._assumed)
        self._assumed.add(key)
        try:
            if pointer.count("/") > DEEPEST:
                raise UnreadableError(f"more than {DEEPEST} levels cannot be compared")
            found = self._alternatives(old, new, flow, where, pointer)
        except UnreadableError as error:
            found = [Fault(f"{where} {pointer}".rstrip(), "unreadable", str(error))]
        if found:
            self._assumed = before
        return found

    def _alternatives(
        self, old: Schema, new: Schema, flow: str, where: str, pointer: str
    ) -> list[Fault]:
        """Hold each alternative that is given to those that are taken."""
        given = flatten(self.old, old)
        taken = flatten(self.new, new)
        if flow != REQUEST:
            given, taken = flatten(self.new, new), flatten(self.old, old)
        fits = LIMITS["type"].fits
        found: list[Fault] = []
        for one in given:
            likely = [o for o in taken if fits(one.get("type"), o.get("type"))]
            tried: list[list[Fault]] = [
                self._pair(one, other, flow, where, pointer) for other in likely
            ]
            if not tried:
                was, became = (given, taken) if flow == REQUEST else (taken, given)
                what = f"type {_types(was)} became {_types(became)}"
                found.append(Fault(f"{where} {pointer}".rstrip(), "type", what))
            elif all(tried):
                found += sorted(tried, key=len)[0]
        return list(dict.fromkeys(found))

    def _pair(self, given: Json, taken: Json, flow: str, where: str, pointer: str) -> list[Fault]:
        """Return where what one alternative gives does not fit what the other takes."""
        is_request = flow == REQUEST
        old, new = (given, taken) if is_request else (taken, given)
        told: list[tuple[str, str]] = []
        for name, limit in LIMITS.items():
            if flow in limit.flows and not limit.fits(given.get(name), taken.get(name)):
                told.append((name, f"{name} {_shown(old, name)} became {_shown(new, name)}"))
        for name, names in NAMES.items():
            if flow in names.flows and (excess := names.excess(given, taken)):
                told.append((name, f"{names.what} {', '.join(sorted(excess))}"))
        told += [
            ("not understood", f"{keyword} changed, which is not compared")
            for keyword in sorted((old.keys() | new.keys()) - UNDERSTOOD)
            if not self.alike(old.get(keyword), new.get(keyword))
        ]
        found = [Fault(f"{where} {pointer}".rstrip(), *one) for one in told]
        for name, one, other in _parts(given, taken):
            before, after = (one, other) if is_request else (other, one)
            found += self.schemas(before, after, flow, where, f"{pointer}/{name}")
        return found

    def alike(self, old: Any, new: Any) -> bool:
        """Whether two values are the same, with their references written out."""
        return as_text(expand(self.old, old)) == as_text(expand(self.new, new))


def _parts(given: Json, taken: Json) -> Iterator[tuple[str, Schema, Schema]]:
    """Yield the fields and items of both sides, each with its name."""
    own: Json = given.get("properties", {})
    other: Json = taken.get("properties", {})
    others: dict[str, Any] = {
        side: schema["additionalProperties"]
        for side, schema in (("given", given), ("taken", taken))
        if isinstance(schema.get("additionalProperties"), dict)
    }
    for name in sorted(own.keys() | other.keys()):
        one = own.get(name, others.get("given"))
        two = other.get(name, others.get("taken"))
        if one is not None and two is not None:
            yield name, one, two
    if "taken" in others and given.get("additionalProperties") is not False:
        yield "*", others.get("given", True), others["taken"]
    if "items" in taken:
        yield "*", given.get("items", True), taken["items"]


def _types(alternatives: list[Json]) -> str:
    return " or ".join(dict.fromkeys(one.get("type", "any") for one in alternatives)) or "none"


def _shown(schema: Json, keyword: str) -> str:
    value = schema.get(keyword, "none")
    return str(value[0] if isinstance(value, tuple) else value)

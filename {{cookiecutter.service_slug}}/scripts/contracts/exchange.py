"""Compare what one operation of two OpenAPI documents takes and answers."""

from collections.abc import Collection, Iterator

from contracts.flatten import Json, resolve, without_notes
from contracts.rules import ANSWER, ERROR, REQUEST
from contracts.schemas import Comparison, Fault

# What says nothing about the wire, beside the notes of schemas.
PROSE = {"operationId", "parameters", "summary", "tags"}


def unknown_changes(
    comparison: Comparison, where: str, old: Json, new: Json, known: Collection[str]
) -> list[Fault]:
    """Return a fault for each change in what is not compared."""
    there = (without_notes(old).keys() | without_notes(new).keys()) - set(known)
    return [
        Fault(where, "not understood", f"{name} changed, which is not compared")
        for name in sorted(there)
        if not comparison.alike(old.get(name), new.get(name))
    ]


class Exchange:
    """What an operation of two releases takes and answers."""

    def __init__(self, comparison: Comparison, where: str, old: Json, new: Json) -> None:
        self.comparison = comparison
        self.where = where
        self.old = old
        self.new = new

    def faults(self) -> list[Fault]:
        """Return what breaks its callers."""
        known = {*PROSE, "requestBody", "responses", "security"}
        return [
            *self.parameters(),
            *self.body(),
            *self.answers(),
            *self.security(),
            *unknown_changes(self.comparison, self.where, self.old, self.new, known),
        ]

    def parameters(self) -> Iterator[Fault]:
        """Compare what stands in path, query, headers and cookies."""
        new: dict[tuple[str, str], Json] = self.new["parameters"]
        for (place, name), one in self.old["parameters"].items():
            where = f"{self.where}, {place} parameter {one['name']}"
            if (place, name) not in new:
                yield Fault(where, "parameter removed", "removed")
                continue
            other = new[place, name]
            if other.get("required") and not one.get("required"):
                yield Fault(where, "parameter required", "became required")
            yield from self.comparison.schemas(
                one.get("schema", {}), other.get("schema", {}), REQUEST, where
            )
            known = {"in", "name", "required", "schema"}
            yield from unknown_changes(self.comparison, where, one, other, known)
        for place, name in new.keys() - self.old["parameters"].keys():
            if new[place, name].get("required"):
                where = f"{self.where}, {place} parameter {new[place, name]['name']}"
                yield Fault(where, "parameter required", "added, and required")

    def body(self) -> Iterator[Fault]:
        """Compare what requests hold."""
        old = resolve(self.comparison.old, self.old.get("requestBody", {}))
        new = resolve(self.comparison.new, self.new.get("requestBody", {}))
        where = f"{self.where}, request"
        if new.get("required") and not old.get("required"):
            yield Fault(where, "body required", "the body became required")
        if old and not new:
            yield Fault(where, "body removed", "the body is no longer taken")
            return
        yield from self.content(old, new, REQUEST, where)
        known = {"content", "required"}
        yield from unknown_changes(self.comparison, where, old, new, known)

    def content(self, old: Json, new: Json, flow: str, where: str) -> Iterator[Fault]:
        """Compare a body in its media types."""
        rule = "content type refused" if flow == REQUEST else "content type removed"
        for media_type, one in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield Fault(where, rule, f"{media_type} removed")
                continue
            other = new["content"][media_type]
            yield from self.comparison.schemas(
                one.get("schema", True), other.get("schema", True), flow, where
            )
            yield from self.encodings(one, other, where)
            known = {"schema", "encoding"}
            yield from unknown_changes(self.comparison, where, one, other, known)

    def encodings(self, old: Json, new: Json, where: str) -> Iterator[Fault]:
        """Compare in which media types the fields of a form may be."""
        before: Json = old.get("encoding", {})
        after: Json = new.get("encoding", {})
        if not (before or after):
            return
        for name in resolve(self.comparison.old, old.get("schema", {})).get("properties", ()):
            place = f"{where} /{name}"
            taken = _media_types(after, name)
            refused = _media_types(before, name) - taken
            if refused and taken != {"anything else"}:
                what = f"{', '.join(sorted(refused))} removed"
                yield Fault(place, "content type refused", what)
            known = {"contentType"}
            yield from unknown_changes(
                self.comparison, place, before.get(name, {}), after.get(name, {}), known
            )

    def answers(self) -> Iterator[Fault]:
        """Compare what comes back, status by status."""
        old: Json = self.old.get("responses", {})
        new: Json = self.new.get("responses", {})
        for status, answer in old.items():
            where = f"{self.where}, answer {status}"
            if status not in new:
                yield Fault(where, "answer removed", "removed")
                continue
            one = resolve(self.comparison.old, answer)
            other = resolve(self.comparison.new, new[status])
            flow = ANSWER if status[0] in "123" else ERROR
            yield from self.content(one, other, flow, where)
            yield from self.headers(one, other, where)
            known = {"content", "headers"}
            yield from unknown_changes(self.comparison, where, one, other, known)
        # Nobody gets a 304 who does not ask for it; errors are known by their class.
        for status in new.keys() - old.keys() - {"304", "default"}:
            if status[0] in "123":
                yield Fault(f"{self.where}, answer {status}", "answer added", "added")

    def headers(self, old: Json, new: Json, where: str) -> Iterator[Fault]:
        """Compare the headers of an answer."""
        there = {name.lower(): one for name, one in new.get("headers", {}).items()}
        for name, header in old.get("headers", {}).items():
            place = f"{where}, header {name}"
            if name.lower() not in there:
                yield Fault(place, "header removed", "removed")
                continue
            one = resolve(self.comparison.old, header)
            other = resolve(self.comparison.new, there[name.lower()])
            if one.get("required") and not other.get("required"):
                yield Fault(place, "header optional", "may be absent")
            yield from self.comparison.schemas(
                one.get("schema", True), other.get("schema", True), ANSWER, place
            )
            known = {"required", "schema"}
            yield from unknown_changes(self.comparison, place, one, other, known)

    def security(self) -> Iterator[Fault]:
        """Who was let in must be let in."""
        old = _alternatives(self.old, self.comparison.old)
        new = _alternatives(self.new, self.comparison.new)
        for one in old:
            if not any(_covers(one, other) for other in new):
                names = " and ".join(sorted(one)) or "no credentials"
                yield Fault(self.where, "security required", f"{names} no longer suffice")
        for name in sorted({name for one in old for name in one} & {n for o in new for n in o}):
            before, after = (
                resolve(document, {"$ref": f"#/components/securitySchemes/{name}"})
                for document in (self.comparison.old, self.comparison.new)
            )
            if not self.comparison.alike(before, after):
                yield Fault(self.where, "security changed", f"the scheme {name} changed")


def _alternatives(operation: Json, document: Json) -> list[Json]:
    """Return the sets of schemes, with their scopes, of which one lets in."""
    own = operation if "security" in operation else document
    return list(own.get("security", ())) or [{}]


def _media_types(encoding: Json, field: str) -> set[str]:
    named: str = encoding.get(field, {}).get("contentType", "")
    return {one.strip() for one in named.split(",")} if named else {"anything else"}


def _covers(credentials: Json, wanted: Json) -> bool:
    """Whether who has these credentials, with their scopes, has all that is wanted."""
    return all(
        name in credentials and set(scopes) <= set(credentials[name])
        for name, scopes in wanted.items()
    )

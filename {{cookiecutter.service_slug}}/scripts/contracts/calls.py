"""The calls of a contract: what a typed function for each operation takes and gives."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from contracts.flatten import Json, UnreadableError, resolve
from contracts.models import Models
from contracts.naming import parameter_type, snake_case, unique
from contracts.operations import Operation, operations

JSON = re.compile(r"application/(?:[\w.-]+\+)?json")
SENT_BY_SETTING = ("http bearer", "oauth2", "openIdConnect")  # the token in NAME_TOKEN


class Parameter(NamedTuple):
    """What a call takes: its name in Python and on the wire, and where that is."""

    name: str
    wire: str
    place: str
    type: str
    is_required: bool


class Call(NamedTuple):
    """A function, and the operation that it calls; a type is None where there is no body."""

    name: str
    operation: Operation
    parameters: list[Parameter]
    body: str | None
    answer: str | None


class Contract(NamedTuple):
    """What a client is made of; `left_out` has a line for each operation that it cannot call."""

    calls: list[Call]
    schemas: Json
    needs_token: bool
    left_out: list[str]


def read_contract(document: Json) -> Contract:
    """Plan a client; raise UnreadableError where the document is not valid."""
    models = Models(document)
    try:
        names = function_names(document)
        obstacles = [(one, _obstacle(document, one.document)) for one in operations(document)]
        callable_ = [one for one, obstacle in obstacles if not obstacle]
        # The models of answers come after those of bodies, whose limits they would lack.
        bodies = {one.key: _body(document, one, models, names[one.key]) for one in callable_}
        calls = [
            Call(
                names[one.key],
                one,
                _parameters(document, one),
                bodies[one.key],
                _answer(document, one, models, names[one.key]),
            )
            for one in callable_
        ]
        kinds = {kind for one in callable_ for kind, _ in _credentials(document, one.document)}
    except (AttributeError, KeyError, TypeError) as error:
        raise UnreadableError(f"it is no valid OpenAPI document: {error!r}") from error
    left_out = [f"{one} is left out: {obstacle}" for one, obstacle in obstacles if obstacle]
    return Contract(calls, models.schemas, bool(kinds & set(SENT_BY_SETTING)), left_out)


def function_names(document: Json) -> dict[tuple[str, str], str]:
    """Return the names of the functions by operation: the operationId without its tag."""
    several = list(operations(document))
    full = {one.key: snake_case(one.document.get("operationId") or str(one)) for one in several}
    short = {one.key: _without_tag(full[one.key], one.document) for one in several}
    found: dict[tuple[str, str], str] = {}
    for key in full:
        is_clear = list(short.values()).count(short[key]) == 1
        found[key] = unique(short[key] if is_clear else full[key], found.values())
    return found


def _without_tag(name: str, operation: Json) -> str:
    for tag in operation.get("tags", ()):
        prefix = f"{snake_case(tag)}_"
        if name.startswith(prefix) and name != prefix:
            return snake_case(name.removeprefix(prefix))
    return name


def _credentials(document: Json, operation: Json) -> list[tuple[str, Json]]:
    """Return the kinds and schemes of the first set of credentials that lets in."""
    needed = operation.get("security", document.get("security", ())) or [{}]
    if {} in needed:
        return []
    components = "#/components/securitySchemes/"
    schemes = [resolve(document, {"$ref": f"{components}{name}"}) for name in needed[0]]
    return [
        (" ".join((one["type"], one.get("scheme", ""))).strip().replace("Bearer", "bearer"), one)
        for one in schemes
    ]


def _obstacle(document: Json, operation: Json) -> str:
    """Say why an operation cannot be called by this client; empty where it can."""
    answers = list(_successes(document, operation))
    for verb, content in (
        ("takes", _content(document, operation.get("requestBody"))),
        *(("answers with", content) for content in answers),
    ):
        if content and _json_schema(content) is None:
            return f"it {verb} {', '.join(content)}"
    if any(answers) and not all(answers):
        return "it answers with a body or without"
    for kind, scheme in _credentials(document, operation):
        if kind not in SENT_BY_SETTING and scheme.get("in") not in ("header", "query"):
            return f"it needs credentials of the kind {kind}"
    for parameter in operation["parameters"].values():
        if parameter["in"] == "cookie" and parameter.get("required"):
            return f"it needs the cookie {parameter['name']}"
        if "schema" not in parameter:
            return f"its parameter {parameter['name']} has no schema"
    return ""


def _content(document: Json, owner: Any) -> Json:
    found: Json = resolve(document, owner or {}).get("content", {})
    return found


def _json_schema(content: Json) -> Any:
    """Return the schema of the JSON in a body, or None where there is none."""
    for media_type, one in content.items():
        if JSON.fullmatch(media_type.partition(";")[0].strip()):
            return one.get("schema", {})
    return None


def _successes(document: Json, operation: Json) -> Iterator[Json]:
    """Yield the contents of the answers that are a success."""
    for status, answer in sorted(operation.get("responses", {}).items()):
        if status.startswith("2"):
            yield _content(document, answer)


def _parameters(document: Json, operation: Operation) -> list[Parameter]:
    """Return the parameters, those of the path in its order first, then the required ones."""
    in_path = re.findall(r"\{([^}]*)\}", operation.path)
    declared = [one for one in operation.document["parameters"].values() if one["in"] != "cookie"]
    for kind, scheme in _credentials(document, operation.document):
        if kind not in SENT_BY_SETTING:
            own = {"name": scheme["name"], "in": scheme["in"], "required": True, "schema": {}}
            declared.append(own)
    found: list[Parameter] = []
    for one in declared:
        name = unique(snake_case(one["name"]), [other.name for other in found])
        kind = parameter_type(document, one["schema"])
        is_required = bool(one.get("required"))
        found.append(Parameter(name, one["name"], one["in"], kind, is_required))
    found.sort(key=lambda one: in_path.index(one.wire) if one.place == "path" else len(in_path))
    return sorted(found, key=lambda one: not one.is_required)


def _body(document: Json, operation: Operation, models: Models, name: str) -> str | None:
    schema = _json_schema(_content(document, operation.document.get("requestBody")))
    if schema is None:
        return None
    return models.type_of(schema, f"{name}_body", is_sent=True)


def _answer(document: Json, operation: Operation, models: Models, name: str) -> str | None:
    contents = [one for one in _successes(document, operation.document) if one]
    schemas = [_json_schema(content) for content in contents]
    kinds = [models.type_of(schema, f"{name}_answer", is_sent=False) for schema in schemas]
    return " | ".join(dict.fromkeys(kinds)) or None

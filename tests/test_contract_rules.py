"""The rules of a service's `make contract-check`, each with a pair of documents, both ways."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import FOLDER

Json = dict[str, Any]


def tree(name: str, **more: Any) -> Json:
    """A schema within itself."""
    itself = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
    return {"type": "object", "properties": {"trees": itself, **more}}


TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
# Rule in a request, rule in an answer, and two schemas, of which the first allows more. A request
# breaks where it narrows, an answer where it widens.
SCHEMAS: list[tuple[str, str, Any, Any]] = [
    ("type", "type", {"type": "number"}, WHOLE),
    ("type", "type", {}, TEXT),
    ("type", "type", {"type": ["string", "null"]}, TEXT),
    ("type", "type", {"anyOf": [TEXT, WHOLE]}, WHOLE),
    ("type", "type", {"oneOf": [TEXT, WHOLE]}, WHOLE),
    ("type", "type", TEXT, False),
    ("maximum", "maximum", {"type": "integer", "maximum": 9}, {"type": "integer", "maximum": 8}),
    ("maximum", "maximum", WHOLE, {"type": "integer", "maximum": 8}),
    ("maximum", "maximum", {"maximum": 9}, {"exclusiveMaximum": 9}),
    ("minimum", "minimum", {"minimum": 1}, {"minimum": 2}),
    ("minimum", "minimum", {"minimum": 1.5}, {"exclusiveMinimum": 1.5}),
    ("maxLength", "maxLength", {"maxLength": 9}, {"maxLength": 8}),
    ("minLength", "minLength", TEXT, {"type": "string", "minLength": 1}),
    ("maxItems", "maxItems", {"maxItems": 9}, {"maxItems": 8}),
    ("minItems", "minItems", {"minItems": 1}, {"minItems": 2}),
    ("maxProperties", "maxProperties", {"maxProperties": 9}, {"maxProperties": 8}),
    ("minProperties", "minProperties", {}, {"minProperties": 1}),
    ("uniqueItems", "uniqueItems", {"uniqueItems": False}, {"uniqueItems": True}),
    ("multipleOf", "multipleOf", {}, {"multipleOf": 5}),
    ("pattern", "pattern", TEXT, {"type": "string", "pattern": "^a"}),
    ("format", "format", TEXT, {"type": "string", "format": "date"}),
    ("contentEncoding", "contentEncoding", TEXT, {"type": "string", "contentEncoding": "base64"}),
    ("contentMediaType", "contentMediaType", TEXT, {"type": "string", "contentMediaType": "a/b"}),
    ("value refused", "value added", {"enum": ["a", "b"]}, {"enum": ["a"]}),
    ("value refused", "value added", TEXT, {"type": "string", "enum": ["a"]}),
    ("value refused", "value added", {"enum": [1, True]}, {"const": 1}),
    (
        "variant refused",
        "variant added",
        {"discriminator": {"propertyName": "kind", "mapping": {"a": "#/a", "b": "#/b"}}},
        {"discriminator": {"propertyName": "kind", "mapping": {"a": "#/a"}}},
    ),
    (
        "input required",
        "field optional",
        {"properties": {"a": TEXT}},
        {"properties": {"a": TEXT}, "required": ["a"]},
    ),
    (
        "maximum",
        "maximum",
        {"type": "array", "items": {"maximum": 9}},
        {"type": "array", "items": {"maximum": 8}},
    ),
    ("type", "type", {"type": "array"}, {"type": "array", "items": TEXT}),
    (
        "type",
        "type",
        {"additionalProperties": {"type": "number"}},
        {"additionalProperties": WHOLE},
    ),
    (
        "maxLength",
        "maxLength",
        {"allOf": [{"maxLength": 9}, {"minLength": 1}]},
        {"minLength": 1, "allOf": [{"maxLength": 9}, {"maxLength": 8}]},
    ),
    (
        "maximum",
        "maximum",
        {"allOf": [{"properties": {"a": WHOLE}}, {"properties": {"a": {"maximum": 9}}}]},
        {"properties": {"a": {"type": "integer", "maximum": 8}}},
    ),
]
# Rule, flow, and two schemas: from the first to the second it breaks, and not back.
ONE_WAY: list[tuple[str, str, Any, Any]] = [
    ("input removed", "request", {"properties": {"a": TEXT}}, {"properties": {}}),
    ("field removed", "answer", {"properties": {"a": TEXT}}, {"properties": {}}),
    ("object closed", "request", {}, {"additionalProperties": False}),
    ("default", "request", {"default": 20}, {}),
    ("problem type removed", "error", {"enum": ["/a", "/b"]}, {"enum": ["/a"]}),
    ("problem type removed", "error", {**TEXT, "enum": ["/a"]}, TEXT),
    ("field removed", "error", {"properties": {"a": TEXT}}, {}),
    ("type", "answer", {"additionalProperties": WHOLE}, {"additionalProperties": {}}),
]
# From either to the other it breaks.
BOTH_WAYS: list[tuple[str, Any, Any]] = [
    ("pattern", {"pattern": "^a"}, {"pattern": "^b"}),
    ("format", {"format": "date"}, {"format": "time"}),
    ("multipleOf", {"multipleOf": 2}, {"multipleOf": 3}),
    ("not understood", {"not": {"const": 1}}, {"not": {"const": 2}}),
    ("not understood", {}, {"if": {"required": ["a"]}}),
    ("not understood", {"prefixItems": [TEXT]}, {"prefixItems": [WHOLE]}),
    ("not understood", {"unevaluatedProperties": False}, {}),
    ("not understood", {"dependentRequired": {"a": ["b"]}}, {"dependentRequired": {}}),
    ("not understood", {"discriminator": {"propertyName": "a"}}, {}),
    ("unreadable", {"$ref": "#/components/schemas/Nobody"}, {}),
    ("unreadable", {"$ref": "other.json#/A"}, {}),
]
# What is only said otherwise.
SAME: list[tuple[Any, Any]] = [
    ({"type": ["string", "null"]}, {"anyOf": [{"type": "null"}, TEXT]}),
    ({"const": "a"}, {"enum": ["a"]}),
    ({"allOf": [TEXT, {"maxLength": 9}]}, {"type": "string", "maxLength": 9}),
    ({"allOf": [{"type": "number"}, WHOLE]}, WHOLE),
    ({"maximum": 9, "exclusiveMaximum": 12}, {"maximum": 9}),
    ({"title": "A", "description": "B", "examples": [1], "x-own": 1, "deprecated": True}, {}),
    ({"$ref": "#/components/schemas/Tree"}, {"$ref": "#/components/schemas/SameTree"}),
    ({"not": {"$ref": "#/components/schemas/Word"}}, {"not": TEXT}),
    ({"anyOf": [{"enum": ["a"]}, {"enum": ["a"]}]}, {"enum": ["a"]}),
    (True, {}),
    ({"required": ["b", "a"]}, {"required": ["a", "b"]}),
]


def document(operation: Json, **more: Any) -> Json:
    """A document of one operation."""
    schemas = {"Tree": tree("Tree"), "SameTree": tree("SameTree"), "Word": TEXT}
    made = {"openapi": "3.1.1", "paths": {"/a": {"post": {"responses": {}, **operation}}}}
    return {**made, "components": {"schemas": schemas}, **more}


def exchange(flow: str, schema: Any) -> Json:
    """A document in which a schema is that of a request, an answer or an error."""
    content = {"content": {"application/json": {"schema": schema}}}
    if flow == "request":
        return document({"requestBody": content})
    return document({"responses": {"200" if flow == "answer" else "409": content}})


@pytest.fixture(scope="module")
def contracts(template: Path) -> Iterator[SimpleNamespace]:
    """The scripts, from a copy, because Python leaves its caches beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(template / FOLDER / "scripts")
        names = ("events", "operations", "rules", "flatten", "schemas")
        yield SimpleNamespace(**{n: importlib.import_module(f"contracts.{n}") for n in names})
        for name in [name for name in sys.modules if name.partition(".")[0] == "contracts"]:
            del sys.modules[name]


def broken(contracts: SimpleNamespace, old: Json, new: Json) -> list[str]:
    """Return the rules that a change breaks."""
    return [fault.rule for fault in contracts.operations.breaking_changes(old, new)]


@pytest.mark.parametrize(("in_request", "in_answer", "wide", "narrow"), SCHEMAS)
def test_a_request_may_widen_and_an_answer_may_narrow(
    contracts: SimpleNamespace, in_request: str, in_answer: str, wide: Any, narrow: Any
) -> None:
    for flow, rule, old, new in (
        ("request", in_request, wide, narrow),
        ("answer", in_answer, narrow, wide),
    ):
        before = exchange(flow, old)
        after = exchange(flow, new)
        assert broken(contracts, before, after) == [rule]
        assert broken(contracts, after, before) == []


@pytest.mark.parametrize(("rule", "flow", "old", "new"), ONE_WAY)
def test_a_change_breaks_one_way(
    contracts: SimpleNamespace, rule: str, flow: str, old: Any, new: Any
) -> None:
    before = exchange(flow, old)
    after = exchange(flow, new)
    assert broken(contracts, before, after) == [rule]
    assert broken(contracts, after, before) == []


@pytest.mark.parametrize("flow", ["request", "answer"])
@pytest.mark.parametrize(("rule", "old", "new"), BOTH_WAYS)
def test_what_is_not_known_to_be_compatible_breaks(
    contracts: SimpleNamespace, flow: str, rule: str, old: Any, new: Any
) -> None:
    before = exchange(flow, old)
    after = exchange(flow, new)
    assert broken(contracts, before, after) == [rule]
    assert broken(contracts, after, before) == [rule]


@pytest.mark.parametrize("flow", ["request", "answer"])
@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_only_said_otherwise_breaks_nothing(
    contracts: SimpleNamespace, flow: str, one: Any, other: Any
) -> None:
    before = exchange(flow, one)
    after = exchange(flow, other)
    assert broken(contracts, before, after) == []
    assert broken(contracts, after, before) == []


BOTH: Json = {"/a": {"get": {}, "post": {}}}
SCHEMA = {"schema": TEXT}
OK: Json = {"200": {}}
LINKED: Json = {"links": {}}
QUERY = {"name": "q", "in": "query", "schema": TEXT}
HEADER = {"name": "X-Own", "in": "header", "schema": TEXT}
PATH = {"name": "id", "in": "path", "required": True, "schema": TEXT}
KEY = {"type": "apiKey", "in": "header", "name": "x-api-key"}
FORM = {"schema": {"properties": {"file": TEXT}}}
LINK = {"200": {"headers": {"Link": {"schema": TEXT}}}}


def body(content: Json, **more: Any) -> Json:
    """An operation with a body."""
    return document({"requestBody": {"content": content, **more}})


def parameters(*several: Json) -> Json:
    """An operation with parameters."""
    return document({"parameters": list(several)})


def secured(*alternatives: Json, scheme: Json = KEY) -> Json:
    """An operation for those with credentials."""
    components = {"securitySchemes": {"key": scheme}}
    return document({"security": list(alternatives)}, components=components)


# Rule, and two documents: from the first to the second it breaks, and not back.
DOCUMENTS: list[tuple[str, Json, Json]] = [
    ("path removed", document({}), document({}, paths={})),
    ("operation removed", document({}, paths=BOTH), document({}, paths={"/a": {"get": {}}})),
    ("parameter removed", parameters(QUERY), parameters()),
    ("parameter removed", parameters(HEADER), parameters()),
    ("parameter required", parameters(QUERY), parameters({**QUERY, "required": True})),
    ("maxLength", parameters(QUERY), parameters({**QUERY, "schema": {**TEXT, "maxLength": 9}})),
    ("body removed", body({}), document({})),
    ("body required", body({}), body({}, required=True)),
    ("content type refused", body({"a/b": SCHEMA, "c/d": SCHEMA}), body({"a/b": SCHEMA})),
    (
        "content type refused",
        body({"a/b": {**FORM, "encoding": {"file": {"contentType": "image/png, a/b"}}}}),
        body({"a/b": {**FORM, "encoding": {"file": {"contentType": "image/png"}}}}),
    ),
    (
        "content type refused",
        body({"a/b": FORM}),
        body({"a/b": {**FORM, "encoding": {"file": {"contentType": "image/png"}}}}),
    ),
    (
        "content type removed",
        document({"responses": {"200": {"content": {"a/b": SCHEMA}}}}),
        document({"responses": OK}),
    ),
    ("header removed", document({"responses": LINK}), document({"responses": OK})),
    (
        "header optional",
        document({"responses": {"200": {"headers": {"A": {"required": True}}}}}),
        document({"responses": {"200": {"headers": {"a": {}}}}}),
    ),
    (
        "maxLength",
        document({"responses": {"200": {"headers": {"A": {"schema": {"maxLength": 9}}}}}}),
        document({"responses": {"200": {"headers": {"a": {}}}}}),
    ),
    ("security required", secured(), secured({"key": []})),
    ("security required", secured({"key": []}, {}), secured({"key": []})),
    ("security required", secured({"key": ["read"]}), secured({"key": ["read", "write"]})),
    ("server removed", document({}, servers=[{"url": "."}]), document({}, servers=[])),
]
# From either to the other it breaks.
DOCUMENTS_BOTH_WAYS: list[tuple[str, Json, Json]] = [
    ("security changed", secured({"key": []}), secured({"key": []}, scheme={**KEY, "name": "x"})),
    ("not understood", document({"callbacks": {"a": {}}}), document({})),
    ("not understood", document({}), document({}, webhooks={"a": {}})),
    ("not understood", parameters(QUERY), parameters({**QUERY, "explode": False})),
    (
        "not understood",
        document({"responses": OK}),
        document({"responses": {"200": {"links": {}}}}),
    ),
    (
        "not understood",
        document({}),
        document({}, paths={"/a": {"servers": [{"url": "b"}], "post": {"responses": {}}}}),
    ),
]
# An answer that goes breaks; one that comes does too, but for those that callers know by class.
ANSWERS = [("200", False), ("201", False), ("409", True), ("304", True), ("default", True)]


@pytest.mark.parametrize(("rule", "old", "new"), DOCUMENTS)
def test_a_change_of_an_operation_breaks_one_way(
    contracts: SimpleNamespace, rule: str, old: Json, new: Json
) -> None:
    assert broken(contracts, old, new) == [rule]
    assert broken(contracts, new, old) == []


@pytest.mark.parametrize(("rule", "old", "new"), DOCUMENTS_BOTH_WAYS)
def test_a_change_of_an_operation_that_is_not_known_to_be_compatible_breaks(
    contracts: SimpleNamespace, rule: str, old: Json, new: Json
) -> None:
    assert broken(contracts, old, new) == [rule]
    assert broken(contracts, new, old) == [rule]


@pytest.mark.parametrize(("status", "may_come"), ANSWERS)
def test_an_answer_may_not_go(contracts: SimpleNamespace, status: str, may_come: bool) -> None:
    with_it = document({"responses": {status: {}}})
    without = document({"responses": {}})
    assert broken(contracts, with_it, without) == ["answer removed"]
    assert broken(contracts, without, with_it) == ([] if may_come else ["answer added"])


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("parameter required", parameters(), parameters({**QUERY, "required": True})),
        ("body required", document({}), body({}, required=True)),
        (
            "input required",
            exchange("request", {}),
            exchange("request", {"properties": {"a": TEXT}, "required": ["a"]}),
        ),
    ],
)
def test_what_is_new_must_not_be_required(
    contracts: SimpleNamespace, rule: str, old: Json, new: Json
) -> None:
    assert broken(contracts, old, new) == [rule]


def test_every_rule_is_tested(contracts: SimpleNamespace) -> None:
    tested = {rule for row in SCHEMAS for rule in row[:2]}
    several: tuple[list[Any], ...] = (ONE_WAY, BOTH_WAYS, DOCUMENTS, DOCUMENTS_BOTH_WAYS)
    tested |= {row[0] for rows in several for row in rows} | {"answer added", "answer removed"}
    tested |= {row[0] for row in EVENTS}
    assert tested == contracts.rules.REMEDIES.keys()


def test_every_rule_says_what_to_do_instead_on_one_line(contracts: SimpleNamespace) -> None:
    for rule, remedy in contracts.rules.REMEDIES.items():
        line = str(contracts.schemas.Fault("GET /a", rule, "changed"))
        assert line == f"GET /a: changed; {remedy}"
        assert "\n" not in line


def test_a_fault_names_the_place_and_both_values(contracts: SimpleNamespace) -> None:
    line = {"type": "object", "properties": {"quantity": {"type": "integer", "maximum": 9}}}
    narrow = {"type": "object", "properties": {"quantity": {"type": "integer", "maximum": 8}}}
    old = exchange("request", {"type": "array", "items": line})
    new = exchange("request", {"type": "array", "items": narrow})
    (fault,) = contracts.operations.breaking_changes(old, new)
    assert str(fault) == "POST /a, request /*/quantity: maximum 9 became 8; keep the limit"


def test_a_schema_within_itself_is_compared(contracts: SimpleNamespace) -> None:
    old = exchange("answer", {"$ref": "#/components/schemas/Tree"})
    new = exchange("answer", {"$ref": "#/components/schemas/Tree"})
    new["components"]["schemas"]["Tree"] = tree("Tree", height=WHOLE)
    assert broken(contracts, old, new) == []
    assert broken(contracts, new, old) == ["field removed"]


def test_what_is_not_understood_is_compared_through_its_references(
    contracts: SimpleNamespace,
) -> None:
    old = exchange("answer", {"not": {"$ref": "#/components/schemas/Tree"}})
    new = exchange("answer", {"not": {"$ref": "#/components/schemas/Tree"}})
    new["components"]["schemas"]["Tree"] = tree("Tree", height=WHOLE)
    assert broken(contracts, old, new) == ["not understood"]


def test_the_nearest_variant_is_named(contracts: SimpleNamespace) -> None:
    def union(maximum: int) -> Json:
        card = {"kind": {"const": "card"}, "limit": {"maximum": maximum}}
        cash = {"kind": {"const": "cash"}, "note": TEXT}
        variants = [{"type": "object", "properties": one} for one in (card, cash)]
        return exchange("request", {"oneOf": variants})

    (fault,) = contracts.operations.breaking_changes(union(9), union(8))
    assert (fault.where, fault.rule) == ("POST /a, request /limit", "maximum")


def test_the_variables_of_a_path_may_be_renamed(contracts: SimpleNamespace) -> None:
    def named(name: str) -> Json:
        parameter = {**PATH, "name": name}
        item = {"parameters": [parameter], "get": {"responses": OK}}
        return document({}, paths={f"/orders/{{{name}}}": item})

    assert broken(contracts, named("id"), named("order_id")) == []


def test_a_parameter_and_an_answer_may_be_references(contracts: SimpleNamespace) -> None:
    def referred(parameter: Json) -> Json:
        operation = {
            "parameters": [{"$ref": "#/components/parameters/Q"}],
            "requestBody": {"$ref": "#/components/requestBodies/B"},
            "responses": {"200": {"$ref": "#/components/responses/R"}},
        }
        components = {
            "parameters": {"Q": parameter},
            "requestBodies": {"B": {"content": {}}},
            "responses": {"R": {"headers": {"Link": {"$ref": "#/components/headers/L"}}}},
            "headers": {"L": SCHEMA},
        }
        return document(operation, components=components)

    assert broken(contracts, referred(QUERY), referred(QUERY)) == []
    required = {**QUERY, "required": True}
    assert broken(contracts, referred(QUERY), referred(required)) == ["parameter required"]


def test_only_what_is_called_is_compared(contracts: SimpleNamespace) -> None:
    old = document({}, paths={"/a": {"get": {}}, "/b/{id}": {"get": {}}})
    new = document({}, paths={}, webhooks={})
    changes = contracts.operations.breaking_changes
    assert len(changes(old, new)) == 3
    assert [fault.where for fault in changes(old, new, {("get", "/b/{}")})] == ["GET /b/{id}"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"openapi": "3.0.3"}, "no OpenAPI 3.1 document: `openapi` is 3.0.3"),
        ({"openapi": None}, "`openapi` is missing"),
        ({"paths": []}, "`paths` is no object"),
        ({"paths": {"/a": []}}, "no valid OpenAPI document"),
        ({"paths": {"/a": {"get": {"parameters": [{}]}}}}, "no valid OpenAPI document"),
    ],
)
def test_what_is_no_openapi_document_is_refused(
    contracts: SimpleNamespace, changed: Json, told: str
) -> None:
    with pytest.raises(contracts.flatten.UnreadableError, match=told):
        contracts.operations.breaking_changes(document({}), document({}, **changed))


def test_schemas_of_endless_depth_or_alternatives_are_a_fault(contracts: SimpleNamespace) -> None:
    deep: Json = {}
    for _ in range(150):
        deep = {"type": "object", "properties": {"a": deep}}
    pairs = [{"anyOf": [{"minimum": number}, {"maximum": number}]} for number in range(10)]
    for schema in (deep, {"allOf": pairs}, {"$ref": "#/components/schemas/Loop"}):
        loop = {"schemas": {"Loop": {"allOf": [{"$ref": "#/components/schemas/Loop"}]}}}
        made = {**exchange("request", schema), "components": loop}
        assert broken(contracts, made, made) == ["unreadable"]


def events(*actions: str, **parts: Any) -> Json:
    """A document of an event that is sent or handled, or both."""
    reference = {"$ref": "#/channels/c"}
    message = {"name": "order.placed", "payload": parts.get("payload", {})}
    return {
        "asyncapi": "3.1.0",
        "channels": {"c": {"messages": {"m": message}, **parts.get("channel", {})}},
        "operations": {one: {"action": one, "channel": reference} for one in actions},
    }


def event(action: str, **schema: Any) -> Json:
    """A document of an event with one schema, which is sent or handled."""
    return events(action, payload={"type": "object", **schema})


FIELD: Json = {"properties": {"a": TEXT}}
REQUIRED: Json = {**FIELD, "required": ["a"]}
DEFAULT: Json = {"properties": {"a": {**TEXT, "default": "b"}}}
ROUTED: Json = {"channel": {"bindings": {"amqp": {"is": "queue"}}}}
# Rule, and two documents of events: from the first to the second it breaks, and not back.
EVENTS: list[tuple[str, Json, Json]] = [
    ("event removed", events("send"), events()),
    ("event removed", events("send", "receive"), events("receive")),
    ("field removed", event("send", **FIELD), event("send")),
    ("field optional", event("send", **REQUIRED), event("send", **FIELD)),
    ("type", events("send", payload=WHOLE), events("send", payload={"type": "number"})),
    ("maxLength", events("send", payload={"maxLength": 8}), events("send")),
    ("value added", event("send", enum=["a"]), event("send", enum=["a", "b"])),
    ("input required", event("receive"), event("receive", **REQUIRED)),
    ("type", events("receive", payload={"type": "number"}), events("receive", payload=WHOLE)),
    ("maxLength", events("receive"), events("receive", payload={"maxLength": 8})),
    ("object closed", event("receive"), event("receive", additionalProperties=False)),
]


@pytest.mark.parametrize(("rule", "old", "new"), EVENTS)
def test_a_change_of_an_event_breaks_one_way(
    contracts: SimpleNamespace, rule: str, old: Json, new: Json
) -> None:
    breaking = contracts.events.breaking_events
    assert [fault.rule for fault in breaking(old, new)] == [rule]
    assert breaking(new, old) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Who handles an event may read less of it, or no event at all.
        (events("receive"), events()),
        (event("receive", **FIELD), event("receive")),
        (event("receive", **FIELD), event("receive", **DEFAULT)),
        # What is sent and handled by one class requires what has a default too.
        (event("receive"), event("receive", **DEFAULT, required=["a"])),
        (events("send"), events("send", "receive")),
        (event("send"), {**event("send"), "info": {"version": "2"}, "defaultContentType": "a/b"}),
    ],
)
def test_a_change_of_an_event_that_concerns_nobody_else_breaks_nothing(
    contracts: SimpleNamespace, one: Json, other: Json
) -> None:
    assert contracts.events.breaking_events(one, other) == []


@pytest.mark.parametrize("action", ["send", "receive"])
def test_an_event_is_routed_as_it_was(contracts: SimpleNamespace, action: str) -> None:
    old = events(action)
    new = events(action, **ROUTED)
    for before, after in ((old, new), (new, old)):
        (fault,) = contracts.events.breaking_events(before, after)
        assert fault.rule == "not understood"


@pytest.mark.parametrize(
    "document", [{}, {"asyncapi": "2.6.0"}, {"asyncapi": "3.1.0", "operations": {"a": {}}}]
)
def test_what_is_no_document_of_events_is_not_compared(
    contracts: SimpleNamespace, document: Json
) -> None:
    with pytest.raises(contracts.flatten.UnreadableError):
        contracts.events.breaking_events(document, events("send"))

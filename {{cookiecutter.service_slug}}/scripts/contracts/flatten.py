"""JSON Schemas as plain alternatives: no reference, `allOf`, `anyOf`, `oneOf` or list of types."""

import itertools
import json
from typing import Any
from urllib.parse import unquote

Json = dict[str, Any]
Schema = Json | bool

# What describes and decides nothing.
NOTES = {"$comment", "deprecated", "description", "example", "examples", "externalDocs", "title"}
MOST_ALTERNATIVES = 200


class UnreadableError(Exception):
    """A document that cannot be read, and why."""


def resolve(document: Json, node: Any) -> Any:
    """Return what a chain of references leads to; what is no reference is returned itself."""
    seen: list[str] = []
    while isinstance(node, dict) and isinstance(node.get("$ref"), str):
        reference: str = node["$ref"]
        if reference in seen or not reference.startswith("#/"):
            raise UnreadableError(f"the reference {reference} leads nowhere in this document")
        seen.append(reference)
        node = document
        for part in reference[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or key not in node:
                raise UnreadableError(f"the reference {reference} leads nowhere in this document")
            node = node[key]
    return node


def without_notes(schema: Json) -> Json:
    """Leave out what only describes, and extensions (`x-...`)."""
    return {k: v for k, v in schema.items() if k not in NOTES and not k.startswith("x-")}


def expand(document: Json, node: Any, trail: tuple[str, ...] = ()) -> Any:
    """Write the references out, but for those within themselves, to compare what is unknown."""
    if isinstance(node, list):
        return [expand(document, one, trail) for one in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str) and reference not in trail:
        target = expand(document, resolve(document, {"$ref": reference}), (*trail, reference))
        return {**target, **{k: v for k, v in node.items() if k != "$ref"}}
    return {key: expand(document, value, trail) for key, value in without_notes(node).items()}


def flatten(document: Json, schema: Schema, trail: tuple[str, ...] = ()) -> list[Json]:
    """Return the alternatives of a schema, each a schema of one type, or of any.

    The schemas of fields and items stay as they are.
    """
    if isinstance(schema, bool):
        return [{}] if schema else []
    own = without_notes(schema)
    parts: list[list[Json]] = []
    if (reference := own.pop("$ref", None)) is not None:
        if reference in trail:
            raise UnreadableError(f"the reference {reference} leads to itself")
        target = resolve(document, {"$ref": reference})
        parts.append(flatten(document, target, (*trail, reference)))
    parts += [flatten(document, one, trail) for one in own.pop("allOf", ())]
    for keyword in ("anyOf", "oneOf"):
        if keyword in own:
            several = own.pop(keyword)
            parts.append([one for each in several for one in flatten(document, each, trail)])
    parts.append(_by_type(_normalised(own)))
    alternatives: list[Json] = [{}]
    for part in parts:
        pairs = itertools.product(alternatives, part)
        alternatives = [both for one, other in pairs if (both := _both(one, other)) is not None]
        if len(alternatives) > MOST_ALTERNATIVES:
            raise UnreadableError(f"a schema has more than {MOST_ALTERNATIVES} alternatives")
    return alternatives


def _by_type(schema: Json) -> list[Json]:
    types = schema.get("type")
    return [{**schema, "type": one} for one in types] if isinstance(types, list) else [schema]


def _normalised(schema: Json) -> Json:
    """Write `const` as `enum`, and both kinds of a bound as one: (value, whether it is meant)."""
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "enum" in schema:
        schema["enum"] = {as_text(value) for value in schema["enum"]}
    for name, exclusive, tighter in (
        ("minimum", "exclusiveMinimum", max),
        ("maximum", "exclusiveMaximum", min),
    ):
        # Of two equal ones the exclusive bound is tighter: the larger minimum, the smaller maximum.
        bounds = [(schema[name], tighter is min)] if name in schema else []
        bounds += [(schema.pop(exclusive), tighter is max)] if exclusive in schema else []
        if bounds:
            schema[name] = tighter(bounds)
    if "default" in schema:
        schema["default"] = as_text(schema["default"])
    if "discriminator" in schema:
        # Which schema a value names, the alternatives say themselves.
        named = schema["discriminator"]
        schema["discriminator"] = named.get("propertyName")
        if "mapping" in named:
            schema["mapping"] = set(named["mapping"])
    return schema


def _both(one: Json, other: Json) -> Json | None:
    """Return what fits both; None is nothing."""
    merged = {**one, **other}
    for key in one.keys() & other.keys():
        if one[key] != other[key]:
            merged[key] = MERGED.get(key, _unmerged)(one[key], other[key])
    types = {one.get("type"), other.get("type")} - {None}
    if len(types) > 1:
        if types != {"integer", "number"}:
            return None
        merged["type"] = "integer"
    return merged


def _unmerged(one: Any, other: Any) -> Any:
    return sorted([one, other], key=as_text)


def _merged_schemas(one: Schema, other: Schema) -> Schema:
    if isinstance(one, bool):
        return other if one else False
    if isinstance(other, bool):
        return one if other else False
    parts = [part for each in (one, other) for part in (each["allOf"] if _is_all(each) else [each])]
    return {"allOf": list({as_text(part): part for part in parts}.values())}


def _is_all(schema: Json) -> bool:
    return schema.keys() == {"allOf"}


def _merged_fields(one: Json, other: Json) -> Json:
    common = {k: _merged_schemas(one[k], other[k]) for k in one.keys() & other.keys()}
    return {**one, **other, **common}


MERGED: dict[str, Any] = {
    "additionalProperties": _merged_schemas,
    "default": lambda _, own: own,
    "enum": lambda one, other: one & other,
    "items": _merged_schemas,
    "mapping": lambda one, other: one & other,
    "maximum": min,
    "maxItems": min,
    "maxLength": min,
    "maxProperties": min,
    "minimum": max,
    "minItems": max,
    "minLength": max,
    "minProperties": max,
    "properties": _merged_fields,
    "required": lambda one, other: sorted({*one, *other}),
    "type": lambda one, _: one,
    "uniqueItems": lambda *_: True,
}


def as_text(value: Any) -> str:
    """Return a value as JSON, in which `true` is not 1."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=sorted)

"""The models of a contract: what of it goes to the generator, and what that makes of it."""

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from contracts.flatten import Json, UnreadableError, resolve
from contracts.naming import SCALARS, class_name, unique

ROOT = Path(__file__).parents[2]
GENERATOR = ROOT / ".venv" / "generator" / "bin" / "datamodel-codegen"
OPTIONS = (
    *("--input-file-type", "openapi", "--openapi-scopes", "schemas"),
    *("--output-model-type", "pydantic_v2.BaseModel", "--formatters", "builtin"),
    *("--target-python-version", "3.11", "--target-pydantic-version", "2.14"),
    *("--enum-field-as-literal", "all", "--use-one-literal-as-default"),
    # What may be absent is MISSING: not sent, and told from null.
    *("--use-missing-sentinel", "--strict-nullable"),
    *("--use-annotated", "--collapse-root-models", "--disable-future-imports"),
    *("--use-schema-description", "--use-field-description", "--use-single-line-docstring"),
    *("--keep-model-order", "--disable-timestamp"),
)
BY_NAME = "--allow-population-by-field-name"  # where a field's name is no Python name
KEPT = {"const", "default", "description", "enum", "format", "required", "type"}
# Kept of what is sent; an answer may go beyond what was announced.
LIMITS = {
    *("exclusiveMaximum", "exclusiveMinimum", "maxItems", "maxLength", "maximum"),
    *("minItems", "minLength", "minimum", "multipleOf", "pattern"),
}
COMPONENTS = "#/components/schemas/"
NULL = {"type": "null"}


class Models:
    """The models that calls need, by the names of their classes; ask for what is sent first."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._names: dict[str, str] = {}  # of classes, by references
        self.schemas: dict[str, Json] = {}

    def type_of(self, schema: Any, hint: str, is_sent: bool) -> str:
        """Return the type of a body; what needs a class and has no name gets that in `hint`."""
        made = self._prepared(schema, is_sent)
        return self._written(made, hint)

    def _written(self, schema: Json, hint: str) -> str:
        """Return a prepared schema as a type."""
        if reference := schema.get("$ref"):
            return str(reference.removeprefix(COMPONENTS))
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                kinds = [self._written(one, hint) for one in schema[keyword]]
                return " | ".join(dict.fromkeys(kinds))
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [self._written({**schema, "type": one}, hint) for one in kind]
            return " | ".join(kinds)
        if kind == "array":
            return f"list[{self._written(schema.get('items', {}), hint)}]"
        if "properties" in schema or "allOf" in schema:
            name = unique(class_name(hint), self.schemas)
            self.schemas[name] = schema
            return name
        if kind == "object":
            return f"dict[str, {self._written(schema.get('additionalProperties', {}), hint)}]"
        return SCALARS.get(str(kind), "None" if kind == "null" else "Any")

    def _referred(self, reference: str, is_sent: bool, trail: tuple[str, ...]) -> Json:
        """Return a reference to a class, or what needs none itself."""
        target = resolve(self._document, {"$ref": reference})
        if not isinstance(target, dict):
            return {}
        if not ({"properties", "allOf"} & target.keys() or reference in trail):
            return self._prepared(target, is_sent, (*trail, reference))
        if reference not in self._names:
            name = unique(class_name(reference.rpartition("/")[2]), self.schemas)
            self._names[reference] = name
            self.schemas[name] = {}  # so that a schema within itself ends
            self.schemas[name] = self._prepared(target, is_sent)
        return {"$ref": f"{COMPONENTS}{self._names[reference]}"}

    def _prepared(self, schema: Any, is_sent: bool, trail: tuple[str, ...] = ()) -> Json:
        """Return a schema that refers to classes, of keywords that make a difference to them."""
        if not isinstance(schema, dict):
            return {}
        if isinstance(reference := schema.get("$ref"), str):
            return self._referred(reference, is_sent, trail)
        kept = KEPT | LIMITS if is_sent else KEPT
        made: Json = {key: value for key, value in schema.items() if key in kept}
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                made[key] = [self._prepared(one, is_sent, trail) for one in schema[key]]
        if "properties" in schema:
            fields = schema["properties"].items()
            made["properties"] = {name: self._prepared(one, is_sent, trail) for name, one in fields}
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                made[key] = self._prepared(schema[key], is_sent, trail)
        return _without_null_alone(made)


def _without_null_alone(schema: Json) -> Json:
    """Write one type or null as two types, which the generator makes no class of."""
    several = schema.get("anyOf", ())
    others = [one for one in several if one != NULL]
    if len(others) == 1 and len(several) == 2 and isinstance(others[0].get("type"), str):
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**others[0], **rest, "type": [others[0]["type"], "null"]}
    return schema


def generate(schemas: Json) -> str:
    """Return the source of the models; raise UnreadableError where the generator makes none."""
    if not schemas:
        return ""
    info = {"title": "models", "version": "1"}
    document = {"openapi": "3.1.0", "info": info, "paths": {}, "components": {"schemas": schemas}}
    source = _run(json.dumps(document))
    if re.search(r"\balias=", source):
        source = _run(json.dumps(document), BY_NAME)
    made = {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    if missing := schemas.keys() - made:
        raise UnreadableError(f"no model was made of {', '.join(sorted(missing))}")
    return re.sub(r"^#.*\n", "", source, flags=re.MULTILINE)


def _run(document: str, *more: str) -> str:
    done = subprocess.run(  # noqa: S603 the command is ours
        (str(GENERATOR), *OPTIONS, *more),
        input=document,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UnreadableError(f"datamodel-codegen makes no models of it: {lines[-1]}")
    return done.stdout

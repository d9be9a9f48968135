"""Python names and types for what a contract names."""

import builtins
import keyword
import re
from collections.abc import Collection
from typing import Any

from contracts.flatten import Json, resolve

# What a client's module and functions use, and so cannot call otherwise.
USED = {
    "Annotated",
    "Any",
    "AwareDatetime",
    "BaseModel",
    "ConfigDict",
    "Field",
    "Literal",
    "MISSING",
    "RootModel",
    "UUID",
    "Union",
    "answer",
    "answer_type",
    "body",
    "client",
    "date",
    "wire",
}
SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
FORMATS = {"uuid": "UUID", "date": "date", "date-time": "AwareDatetime"}
IMPORTS = {
    "Any": "from typing import Any",
    "AwareDatetime": "from pydantic import AwareDatetime",
    "Literal": "from typing import Literal",
    "UUID": "from uuid import UUID",
    "date": "from datetime import date",
}


def snake_case(text: str) -> str:
    """Return a name for a function or a parameter: `getOrder-v2` is `get_order_v2`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    name = re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")
    name = f"_{name}" if name[:1].isdigit() or not name else name
    return f"{name}_" if keyword.iskeyword(name) or name in USED else name


def class_name(text: str) -> str:
    """Return a name for a model: `Page_Order_` is `PageOrder`."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", text) if part]
    name = "".join(part[0].upper() + part[1:] for part in parts) or "Model"
    is_taken = name[0].isdigit() or name in USED or hasattr(builtins, name)
    return f"{'Model' if name[0].isdigit() else ''}{name}{'Model' if is_taken else ''}"


def unique(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken, with a number where need be."""
    number = 2
    found = name
    while found in taken:
        found = f"{name}{number}"
        number += 1
    return found


def parameter_type(document: Json, schema: Any) -> str:
    """Return the type of what stands in a path, a query or a header; it is text on the wire."""
    schema = resolve(document, schema)
    if not isinstance(schema, dict):
        return "str"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return f"Literal[{', '.join(map(repr, values))}]"
    if schema.get("type") == "array":
        return f"list[{parameter_type(document, schema.get('items', {}))}]"
    if schema.get("type") == "string" and schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    for keyword_ in ("anyOf", "oneOf"):
        if keyword_ in schema:
            kinds = [parameter_type(document, one) for one in schema[keyword_]]
            return " | ".join(dict.fromkeys(kinds))
    kind = schema.get("type")
    return SCALARS.get(kind, "str") if isinstance(kind, str) else "str"

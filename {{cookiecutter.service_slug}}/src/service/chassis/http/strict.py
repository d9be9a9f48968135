"""Core schemas of pydantic made stricter: text without U+0000, dates and times of one form."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function
from pydantic_core.core_schema import no_info_before_validator_function

Json = dict[str, Any]

NO_NUL = r"^[^\x00]*$"
LISTS = ("dict", "frozenset", "list", "set", "tuple")


def _iso_form(read: Callable[[str], Any], pattern: str, example: str) -> Callable[[Any], Any]:
    """Make a reader of text of one form of ISO 8601; pydantic takes numbers too, since 1970."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def read_text(value: Any) -> Any:
        if not isinstance(value, str | int | float):
            return value
        text = str(value).upper()
        with suppress(ValueError, OverflowError):
            if matches(text):
                return read(text)
        message = "Input should be ISO 8601, such as {example}"
        raise PydanticCustomError("iso_form", message, {"example": example})

    return read_text


def _read_datetime(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo:
        value.astimezone(UTC)  # which fails where the years of UTC end
    return value


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "String should not have U+0000")
    return text


DAY = r"\d{4}-\d\d-\d\d"
CLOCK = r"\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?"
DURATION = TypeAdapter(timedelta).validator.validate_python
ISO_FORMS = {
    "date": _iso_form(date.fromisoformat, DAY, "2026-01-31"),
    "datetime": _iso_form(_read_datetime, f"{DAY}T{CLOCK}", "2026-01-31T12:00:00Z"),
    "time": _iso_form(time.fromisoformat, CLOCK, "12:00:00"),
    "timedelta": _iso_form(DURATION, r"-?P[\dYMWDTHS.]+", "PT1H30M"),
}


def _copy(node: Any, change: Callable[[Json], Any]) -> Any:
    """Copy a core schema; `change` returns what stands for a part, whose own parts are changed."""
    if isinstance(node, list | tuple):
        return type(node)(_copy(part, change) for part in node)
    if not isinstance(node, dict):
        return node
    is_default = node.get("type") == "default"
    values = ("metadata", "default") if is_default else ("metadata",)  # which hold no schemas
    parts = {key: part if key in values else _copy(part, change) for key, part in node.items()}
    return change(parts)


def _strict(schema: Json) -> Any:
    kind = str(schema.get("type"))  # of a schema; of a model's fields it is one
    if kind == "str" and schema.get("pattern", NO_NUL) == NO_NUL:
        return schema | {"pattern": NO_NUL}
    if kind == "str":
        return no_info_after_validator_function(_refuse_nul, schema)
    if kind == "function-after" and schema["function"]["function"] is _refuse_nul:
        return schema["schema"]
    if kind == "datetime":
        schema = {"tz_constraint": "aware"} | schema
    if kind == "function-before" and schema["function"]["function"] in ISO_FORMS.values():
        return schema["schema"]  # of a model within this one: it has the form twice
    form = ISO_FORMS.get(kind)
    return no_info_before_validator_function(form, schema) if form else schema


def _failing_fast(schema: Json) -> Json:
    return schema | {"fail_fast": True} if schema.get("type") in LISTS else schema


def strict(schema: Any) -> Any:
    """Copy a schema: strings without U+0000, dates and times in ISO 8601, datetimes with a zone."""
    return _copy(schema, _strict)


def failing_fast(schema: Any) -> Any:
    """Copy a schema, in which lists end at their first error."""
    return _copy(schema, _failing_fast)

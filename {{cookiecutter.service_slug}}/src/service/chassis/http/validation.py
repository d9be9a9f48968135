"""What a request must look like: the models' base; readers of body, form, query and headers."""

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import orjson
from flask import request
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, SchemaValidator, from_json
from pydantic_core.core_schema import CoreConfig
from pydantic_core.core_schema import no_info_after_validator_function
from pydantic_core.core_schema import no_info_before_validator_function
from werkzeug.exceptions import BadRequest, UnprocessableEntity, UnsupportedMediaType

from service.chassis.http import uploads

MAX_ERRORS = 100  # more are not listed: the answer would be many times the size of the body
SCALAR = re.compile(r"-?(0|[1-9]\d{0,99})(\.\d{1,99})?([eE][+-]?\d{1,3})?|true|false", re.ASCII)
SCALARS = {"boolean", "integer", "number"}
MAX_DETAILED = 4096  # bytes; of a larger body's lists only the first error is noted: 1 KB for each
NO_NUL = r"^[^\x00]*$"
MAX_DEPTH = 32  # of JSON: errors in nested unions take memory by the square of the depth
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
LISTS = ("dict", "frozenset", "list", "set", "tuple")

Detail = dict[str, str]
Reader = Callable[[], Any]
Json = dict[str, Any]
Kinds = dict[str, set[str]]


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
    """Take strings without U+0000, dates and times in ISO 8601 and with a zone."""
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
    """Let lists end at their first error."""
    return schema | {"fail_fast": True} if schema.get("type") in LISTS else schema


class Model(BaseModel):
    """Base of the API's models: unknown fields, NaN, infinity and U+0000 are refused.

    Clients know a field by its alias, where it has one; Python by its name. Dates and times are
    ISO 8601; a datetime has a zone, unless it is a NaiveDatetime.
    """

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        from_attributes=True,
        validate_by_name=True,
        json_schema_serialization_defaults_required=True,
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return _copy(handler(source), _strict)


class Invalid(UnprocessableEntity):
    """422 that names what is invalid.

    Each error has a `detail`, and where it is: `pointer` (a JSON pointer), `parameter` or `header`.
    """

    description = "The request is not valid."

    def __init__(self, *errors: Detail) -> None:
        super().__init__()
        self.errors = errors


def is_json(media_type: str) -> bool:
    """Return whether a body of this type is JSON."""
    return media_type == "application/json" or media_type.endswith("+json")


def body_reader(hint: Any) -> Reader:
    """Make a function that reads the JSON body as `hint`; it raises 400, 413, 415 or 422."""
    schema = _copy(TypeAdapter(hint).core_schema, _strict)  # a list may hold what is no Model
    config = CoreConfig(allow_inf_nan=False)
    detailed = SchemaValidator(schema, config, _use_prebuilt=False)
    brief = SchemaValidator(_copy(schema, _failing_fast), config, _use_prebuilt=False)

    def read() -> Any:
        if not is_json(request.mimetype):
            raise UnsupportedMediaType("The body must be application/json.")
        data = request.get_data(cache=False)
        if _is_deep(data):
            raise BadRequest(f"The body is nested deeper than {MAX_DEPTH}.")
        validator = detailed if len(data) <= MAX_DETAILED else brief
        try:
            return validator.validate_json(data, strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            refusal = _refusal(error, data)
        raise refusal  # here, so that it does not keep the error, which keeps what it was read to

    return read


def _is_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in TOKEN.finditer(data):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            return True
    return False


def _refusal(invalid: ValidationError, data: bytes) -> BadRequest | Invalid:
    try:
        document = from_json(data)
    except ValueError as error:
        return BadRequest(f"The body is not JSON: {error}.")
    return _to_problem(invalid, lambda error: {"pointer": _pointer(error, document)})


def form_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads a form as `model`; it raises 400, 413, 415, 422 or 503."""
    validate = TypeAdapter(model).validator.validate_python
    media_types = uploads.media_types(model)
    kinds = _kinds(model)

    def read() -> Any:
        if request.mimetype not in media_types:
            raise UnsupportedMediaType(f"The body must be {' or '.join(media_types)}.")
        given = _collapse(uploads.parse_form().lists(), kinds)
        try:
            return validate(given, by_alias=True, by_name=False)
        except ValidationError as error:
            raise _to_problem(error, lambda error: {"pointer": _pointer(error, given)}) from None

    return read


def query_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads the query as `model`; it raises 422, also for a second value."""
    kinds = _kinds(model)

    def given() -> Json:
        return _collapse(request.args.lists(), kinds)

    return _reader(model, kinds, given, lambda name: {"parameter": name})


def headers_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads `model`, as `if_match` the header If-Match; it raises 422."""
    kinds = _kinds(model)
    names = {name: header_name(name) for name in kinds}

    def given() -> Json:
        headers = request.headers
        return {name: headers[header] for name, header in names.items() if header in headers}

    return _reader(model, kinds, given, lambda name: {"header": header_name(name)})


READERS: dict[str, Callable[[Any], Reader]] = {
    "body": body_reader,
    "form": form_reader,
    "query": query_reader,
    "headers": headers_reader,
}


def header_name(field: str) -> str:
    """Return the header that a field of a model stands for."""
    return field.replace("_", "-")


def _kinds(model: type[BaseModel]) -> Kinds:
    """Return the parameters that a model names, each with the JSON types of it and its items."""
    schema = model.model_json_schema()
    models = schema.get("$defs", {})
    kinds = {name: _types(part, models) for name, part in schema.get("properties", {}).items()}
    for field in model.model_fields.values():
        names: list[str] = getattr(field.validation_alias, "choices", [])
        for name in names:  # of which the schema has the first
            kinds[name] = kinds[names[0]]
    return kinds


def _types(schema: Json, models: Json) -> set[str]:
    schema = models.get(schema.get("$ref", "").removeprefix("#/$defs/"), schema)
    parts = [schema.get("items", {}), *schema.get("prefixItems", ()), *schema.get("anyOf", ())]
    types = [_types(part, models) for part in parts if part]
    return {str(schema.get("type"))}.union(*types)


def _from_text(value: str | list[str]) -> Any:
    """Return text as the number or boolean that it is in JSON, other text as it is."""
    if isinstance(value, list):
        return [_from_text(text) for text in value]
    literal = value.lower()  # Python's clients write True
    return orjson.Fragment(literal) if SCALAR.fullmatch(literal) else value


def _reader(
    model: type[BaseModel], kinds: Kinds, given: Callable[[], Json], place: Callable[[str], Detail]
) -> Reader:
    """Make a function that validates parameters as strictly as a body."""
    validate = TypeAdapter(model).validator.validate_json
    scalars = [name for name, types in kinds.items() if "string" not in types and types & SCALARS]

    def place_of(error: ErrorDetails) -> Detail:
        return place(str(error["loc"][0])) if error["loc"] else {}

    def read() -> Any:
        parameters = given()
        for name in scalars:
            if name in parameters:
                parameters[name] = _from_text(parameters[name])
        try:
            return validate(orjson.dumps(parameters), strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            raise _to_problem(error, place_of) from None

    return read


def _collapse(given: Iterable[tuple[str, list[Any]]], kinds: Kinds) -> Json:
    """Take the one value out of what is no list; what is repeated stays, to be refused."""
    return {
        name: values if len(values) > 1 or "array" in kinds.get(name, ()) else values[0]
        for name, values in given
    }


def _to_problem(error: ValidationError, place: Callable[[ErrorDetails], Detail]) -> Invalid:
    if error.error_count() > MAX_ERRORS:
        return Invalid({"detail": f"More than {MAX_ERRORS} errors"})
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return Invalid(*({"detail": one["msg"]} | place(one) for one in errors))


def _pointer(error: ErrorDetails, document: Any) -> str:
    """Return the JSON pointer of an error.

    What its location names and the document lacks is the name of a union's member.
    """
    pointer = ""
    for number, part in enumerate(error["loc"], 1):
        try:
            document = document[part]
        except (LookupError, TypeError):
            if error["type"] != "missing" or number < len(error["loc"]):
                continue
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer

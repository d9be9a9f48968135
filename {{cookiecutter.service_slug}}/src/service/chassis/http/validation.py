"""What a request must look like: the models' base; readers of body, form, query and headers."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from flask import request
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, SchemaValidator, from_json
from pydantic_core.core_schema import CoreConfig
from werkzeug.exceptions import BadRequest, UnprocessableEntity, UnsupportedMediaType

from service.chassis.http import uploads
from service.chassis.http.strict import Json
from service.chassis.http.strict import failing_fast
from service.chassis.http.strict import strict

MAX_ERRORS = 100  # more are not listed: the answer would be many times the size of the body
SCALAR = re.compile(r"-?(0|[1-9]\d{0,99})(\.\d{1,99})?([eE][+-]?\d{1,3})?|true|false", re.ASCII)
SCALARS = {"boolean", "integer", "number"}
MAX_DETAILED = 4096  # bytes; of a larger body's lists only the first error is noted: 1 KB for each
MAX_DEPTH = 32  # of JSON: errors in nested unions take memory by the square of the depth
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)

Detail = dict[str, str]
Reader = Callable[[], Any]
Kinds = dict[str, set[str]]


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
        return strict(handler(source))


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
    schema = strict(TypeAdapter(hint).core_schema)  # a list may hold what is no Model
    config = CoreConfig(allow_inf_nan=False)
    detailed = SchemaValidator(schema, config, _use_prebuilt=False)
    brief = SchemaValidator(failing_fast(schema), config, _use_prebuilt=False)

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

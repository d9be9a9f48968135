"""What a request must look like: the models' base, and the readers of body, query and headers."""

from collections.abc import Callable
from typing import Any, get_args, get_origin

from flask import request
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json
from werkzeug.exceptions import BadRequest, UnprocessableEntity, UnsupportedMediaType

MAX_ERRORS = 100  # more are not listed: the answer would be many times the size of the body

Detail = dict[str, str]
Parameters = dict[str, str | list[str]]
Reader = Callable[[], Any]


def _without_nul(node: Any) -> Any:
    """Copy a core schema, and give its strings a pattern where they have none."""
    if isinstance(node, list | tuple):
        return type(node)(map(_without_nul, node))
    if not isinstance(node, dict):
        return node
    value = "default" if node.get("type") == "default" else None  # holds no schema
    copy = {key: part if key == value else _without_nul(part) for key, part in node.items()}
    return {"pattern": r"^[^\x00]*$"} | copy if copy.get("type") == "str" else copy


class Model(BaseModel):
    """Base of the API's models: unknown fields, NaN, infinity and U+0000 are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, from_attributes=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return _without_nul(handler(source))


class Invalid(UnprocessableEntity):
    """422 that names what is invalid.

    Each error has a `detail`, and where it is: `pointer` (a JSON pointer), `parameter` or `header`.
    """

    description = "The request is not valid."

    def __init__(self, *errors: Detail) -> None:
        super().__init__()
        self.errors = errors


def body_reader(hint: Any) -> Reader:
    """Make a function that reads the JSON body as `hint`; it raises 400, 413, 415 or 422."""
    validate = TypeAdapter(hint).validator.validate_json

    def read() -> Any:
        media_type = request.mimetype
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise UnsupportedMediaType("The body must be application/json.")
        data = request.get_data(cache=False)
        try:
            return validate(data, strict=True)
        except ValidationError as error:
            invalid = error
        try:
            document = from_json(data)
        except ValueError as error:
            raise BadRequest(f"The body is not JSON: {error}.") from None
        raise _to_problem(invalid, lambda error: {"pointer": _pointer(error, document)})

    return read


def query_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads the query as `model`.

    It raises 422, also where a parameter that is no list is repeated.
    """
    fields = model.model_fields.items()
    lists = {field.alias or name for name, field in fields if _is_list(field.annotation)}

    def given() -> Parameters:
        return {
            name: values if name in lists or len(values) > 1 else values[0]
            for name, values in request.args.lists()
        }

    return _reader(model, given, lambda name: {"parameter": name})


def headers_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads the headers that `model` names, If-Match as `if_match`.

    It raises 422.
    """
    fields = [field.alias or name for name, field in model.model_fields.items()]
    names = {name: header_name(name) for name in fields}

    def given() -> Parameters:
        headers = request.headers
        return {name: headers[header] for name, header in names.items() if header in headers}

    return _reader(model, given, lambda name: {"header": header_name(name)})


READERS: dict[str, Callable[[Any], Reader]] = {
    "body": body_reader,
    "query": query_reader,
    "headers": headers_reader,
}


def header_name(field: str) -> str:
    """Return the header that a field of a model stands for."""
    return field.replace("_", "-")


def _reader(
    model: type[BaseModel], given: Callable[[], Parameters], place: Callable[[str], Detail]
) -> Reader:
    validate = TypeAdapter(model).validator.validate_python

    def place_of(error: ErrorDetails) -> Detail:
        return place(str(error["loc"][0])) if error["loc"] else {}

    def read() -> Any:
        try:
            return validate(given())
        except ValidationError as error:
            raise _to_problem(error, place_of) from None

    return read


def _is_list(annotation: Any) -> bool:
    kinds = (annotation, *get_args(annotation))
    return any(get_origin(kind) in (list, set, frozenset, tuple) for kind in kinds)


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

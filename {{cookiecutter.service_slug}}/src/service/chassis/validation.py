"""What a request must look like: the base of all models, the readers of body, query and headers, and their errors."""

import re
from collections.abc import Callable
from typing import Any, get_args, get_origin

from flask import request
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json
from werkzeug.exceptions import BadRequest, UnprocessableEntity, UnsupportedMediaType

MOST_ERRORS = 100  # more are not listed: the answer would be many times the size of the body
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?')
Fault = dict[str, str]
Given = dict[str, str | list[str]]
Reader = Callable[[], Any]


def _without_nul(node: Any) -> Any:
    """Copy a core schema and give its strings a pattern, where they have none."""
    if isinstance(node, list | tuple):
        return type(node)(map(_without_nul, node))
    if not isinstance(node, dict):
        return node
    default = node.get("type") == "default"
    copy = {key: value if default and key == "default" else _without_nul(value) for key, value in node.items()}
    return {"pattern": r"^[^\x00]*$"} | copy if copy.get("type") == "str" else copy


class Model(BaseModel):
    """Base of every model of the contract: unknown fields, NaN, infinity and U+0000 are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, from_attributes=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return _without_nul(handler(source))


class Invalid(UnprocessableEntity):
    """422 with the places at fault: errors have `detail` and one of `pointer` (JSON pointer), `parameter`, `header`."""

    description = "The request is not valid."

    def __init__(self, *errors: Fault) -> None:
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
            failure = error
        try:
            document = from_json(data)
            # JSON Schema says that 1.0 is an integer, strict validation that it is not.
            if failure.error_count() <= MOST_ERRORS and (repaired := TOKEN.sub(_integral, data)) != data:
                return validate(repaired, strict=True)
        except ValidationError as error:
            failure = error
        except ValueError as error:
            raise BadRequest(f"The body is not JSON: {error}.") from None
        raise _invalid(failure, lambda error: {"pointer": _pointer(error, document)})

    return read


def query_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads the query as `model`; it raises 422, also when what is no list is repeated."""
    lists = {field.alias or name for name, field in model.model_fields.items() if _is_list(field.annotation)}

    def given() -> Given:
        return {k: v if k in lists or len(v) > 1 else v[0] for k, v in request.args.lists()}

    return _reader(model, given, lambda name: {"parameter": name})


def headers_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads the headers that `model` names, `if_match` for If-Match; it raises 422."""
    names = {name: header_name(name) for name in (field.alias or name for name, field in model.model_fields.items())}

    def given() -> Given:
        return {name: request.headers[header] for name, header in names.items() if header in request.headers}

    return _reader(model, given, lambda name: {"header": header_name(name)})


READERS: dict[str, Callable[[Any], Reader]] = {"body": body_reader, "query": query_reader, "headers": headers_reader}


def header_name(field: str) -> str:
    return field.replace("_", "-")


def _reader(model: type[BaseModel], given: Callable[[], Given], place: Callable[[str], Fault]) -> Reader:
    validate = TypeAdapter(model).validator.validate_python

    def read() -> Any:
        try:
            return validate(given())
        except ValidationError as error:
            raise _invalid(error, lambda e: place(str(e["loc"][0])) if e["loc"] else {}) from None

    return read


def _integral(token: re.Match[bytes]) -> bytes:
    text = token[0]
    if text.startswith(b'"') or text.lstrip(b"-").isdigit():
        return text
    number = float(text)
    return b"%d" % number if number.is_integer() else text


def _is_list(annotation: Any) -> bool:
    return any(get_origin(a) in (list, set, frozenset, tuple) for a in (annotation, *get_args(annotation)))


def _invalid(error: ValidationError, place: Callable[[ErrorDetails], Fault]) -> Invalid:
    if error.error_count() > MOST_ERRORS:
        return Invalid({"detail": f"More than {MOST_ERRORS} errors"})
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return Invalid(*({"detail": e["msg"]} | place(e) for e in errors))


def _pointer(error: ErrorDetails, document: Any) -> str:
    """The JSON pointer of an error; what its location names and the document lacks is the name of a union's member."""
    pointer = ""
    for number, part in enumerate(error["loc"], 1):
        try:
            document = document[part]
        except (LookupError, TypeError):
            if error["type"] != "missing" or number < len(error["loc"]):
                continue
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer

"""What a request must look like: the base of all models, the readers of body, query and headers, and their errors."""

import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import get_args
from typing import get_origin

from flask import request
from pydantic import BaseModel
from pydantic import ConfigDict
from pydantic import GetCoreSchemaHandler
from pydantic import TypeAdapter
from pydantic import ValidationError
from pydantic_core import CoreSchema
from pydantic_core import ErrorDetails
from pydantic_core import from_json
from werkzeug.exceptions import BadRequest
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import UnprocessableEntity
from werkzeug.exceptions import UnsupportedMediaType

MOST_ERRORS = 100  # more are not listed: the answer would be many times the size of the body
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?')
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
    """Base of every model of the contract: refuses unknown fields, NaN, infinity, and U+0000 in strings without a pattern.

    `model_validate` also takes an object that has the fields as attributes.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, from_attributes=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _without_nul(handler(source))
        return schema


class Invalid(UnprocessableEntity):
    """422 whose `errors` tell the places at fault: each has `detail` and a `pointer` (JSON pointer) or `parameter` or `header`."""

    description = "The request is not valid."

    def __init__(self, *errors: dict[str, str]) -> None:
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
            # JSON Schema says that 1.0 is an integer, strict validation that it is not.
            if failure.error_count() <= MOST_ERRORS and (repaired := TOKEN.sub(_integral, data)) != data:
                return validate(repaired, strict=True)
        except ValidationError as error:
            failure = error
        raise _body_error(failure, data)

    return read


def query_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads the query as `model`; it raises 422, also when what is no list is repeated."""
    lists = {field.alias or name for name, field in model.model_fields.items() if _is_list(field.annotation)}
    return _reader(
        model, "parameter", lambda: {k: v if k in lists or len(v) > 1 else v[0] for k, v in request.args.lists()}
    )


def headers_reader(model: type[BaseModel]) -> Reader:
    """Make a function that reads the headers that `model` names, `if_match` for If-Match; it raises 422."""
    names = {name: header_name(name) for name in (field.alias or name for name, field in model.model_fields.items())}

    def given() -> dict[str, str]:
        headers = request.headers
        return {name: headers[header] for name, header in names.items() if header in headers}

    return _reader(model, "header", given)


READERS: dict[str, Callable[[Any], Reader]] = {"body": body_reader, "query": query_reader, "headers": headers_reader}


def header_name(field: str) -> str:
    return field.replace("_", "-")


def _reader(model: type[BaseModel], kind: str, given: Callable[[], Mapping[str, Any]]) -> Reader:
    validate = TypeAdapter(model).validator.validate_python

    def read() -> Any:
        try:
            return validate(given())
        except ValidationError as error:
            if error.error_count() > MOST_ERRORS:
                raise _too_many() from None
            places = [(e["msg"], "".join(map(str, e["loc"][:1]))) for e in _details(error)]
            name = header_name if kind == "header" else str
            raise Invalid(
                *({"detail": text} | ({kind: name(place)} if place else {}) for text, place in places)
            ) from None

    return read


def _integral(token: re.Match[bytes]) -> bytes:
    text = token[0]
    if text.startswith(b'"') or text.lstrip(b"-").isdigit():
        return text
    number = float(text)
    return b"%d" % number if number.is_integer() else text


def _is_list(annotation: Any) -> bool:
    return any(get_origin(a) in (list, set, frozenset, tuple) for a in (annotation, *get_args(annotation)))


def _too_many() -> Invalid:
    return Invalid({"detail": f"More than {MOST_ERRORS} errors"})


def _body_error(error: ValidationError, data: bytes) -> HTTPException:
    if error.error_count() > MOST_ERRORS:
        return _too_many()
    errors = _details(error)
    if errors[0]["type"] == "json_invalid" and not errors[0]["loc"]:
        return BadRequest(errors[0]["msg"])
    document = from_json(data)
    return Invalid(*({"detail": e["msg"], "pointer": _pointer(e, document)} for e in errors))


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def _pointer(error: ErrorDetails, document: Any) -> str:
    """The JSON pointer to the value at fault; what pydantic's location names and the document lacks is a union's member."""
    pointer = ""
    for number, part in enumerate(error["loc"], 1):
        try:
            document = document[part]
        except (LookupError, TypeError):
            if error["type"] != "missing" or number < len(error["loc"]):
                continue
        pointer += "/" + str(part).replace("~", "~0").replace("/", "~1")
    return pointer

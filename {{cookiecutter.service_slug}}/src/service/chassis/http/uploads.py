"""Files in forms: what they may be, in validation and in the document, and where they are kept."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast, get_args

from flask import request
from pydantic import BaseModel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from werkzeug import exceptions
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.formparser import FormDataParser

log = logging.getLogger("service")

RETRY_AFTER = 1  # seconds
MAX_PARTS = 64  # fields and files of a form
MAX_FIELD = 98_304  # bytes; Werkzeug reads 65,536 at once, to which it adds what it has left over
FILE_MEMORY = 65_536  # bytes; the rest of a file is kept on disk
MULTIPART = "multipart/form-data"
FORM_TYPES = ("application/x-www-form-urlencoded", MULTIPART)


@dataclass(frozen=True)
class FileLimits:
    """What a form's file may be: `photo: Annotated[FileStorage, FileLimits(max_size=1_000_000)]`.

    `max_size` is in bytes, and a larger file gets 413. `media_types` are those that the client may
    name; another gets 415. Whether the content is of the named type is not looked at.
    """

    max_size: int | None = None
    media_types: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        # As JSON a file is its digest: two requests with one Idempotency-Key are compared by it.
        digest = core_schema.plain_serializer_function_ser_schema(_digest)
        return core_schema.no_info_plain_validator_function(self._check, serialization=digest)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        # OpenAPI 3.1 names the media type; "binary" is for tools that know the format of 3.0 alone.
        schema = {"contentMediaType": "application/octet-stream", "format": "binary"}
        limit = {} if self.max_size is None else {"maxLength": self.max_size}
        return {"type": "string", **schema, **limit}

    def _check(self, file: object) -> FileStorage:
        if not isinstance(file, FileStorage):
            raise PydanticCustomError("file_type", "Input should be a file")
        if self.media_types and file.mimetype not in self.media_types:
            raise exceptions.UnsupportedMediaType(
                f"{file.name} must be {' or '.join(self.media_types)}."
            )
        size = file.stream.seek(0, os.SEEK_END)
        file.stream.seek(0)
        if self.max_size is not None and size > self.max_size:
            raise exceptions.RequestEntityTooLarge(
                f"{file.name} has more than {self.max_size} bytes."
            )
        return file


def _digest(file: FileStorage) -> str:
    file.stream.seek(0)
    digest = hashlib.file_digest(cast("Any", file.stream), "sha256").hexdigest()
    file.stream.seek(0)
    return f"{file.filename} {digest}"


class FormParser(FormDataParser):
    """Werkzeug's parser with small limits in memory; it raises ValueError for what is no form."""

    def __init__(self, **options: Any) -> None:
        limits = {"max_form_memory_size": MAX_FIELD, "max_form_parts": MAX_PARTS}
        super().__init__(**options | limits, silent=False)

    def parse(self, *body: Any, **options: Any) -> Any:
        """Return the stream, the fields and the files, which are closed if it fails."""
        with ExitStack() as files:
            self.stream_factory = lambda *_, **__: cast(
                "IO[bytes]", files.enter_context(SpooledTemporaryFile(FILE_MEMORY))
            )
            parsed = super().parse(*body, **options)
            files.pop_all()
        return parsed


def parse_form() -> MultiDict[str, Any]:
    """Return the request's fields and chosen files; raise 400, 413, or 503 for lack of room."""
    request.form_data_parser_class = FormParser
    try:
        fields = request.form.items(multi=True)
    except exceptions.RequestEntityTooLarge:
        raise exceptions.RequestEntityTooLarge(
            f"A form has at most {request.max_content_length} bytes and {MAX_PARTS} parts, "
            f"and a field that is no file at most {MAX_FIELD} bytes."
        ) from None
    except ValueError as error:
        raise exceptions.BadRequest(f"The body is not a form: {error}.") from None
    except OSError as error:
        log.warning("an upload could not be kept: %s", error)
        raise exceptions.ServiceUnavailable(retry_after=RETRY_AFTER) from error
    files = request.files.items(multi=True)
    return MultiDict([*fields, *((name, file) for name, file in files if file.filename)])


def file_fields(model: type[BaseModel]) -> dict[str, FileLimits]:
    """Return the limits of a form's files by the names of their fields."""
    return {
        str(field.validation_alias or name): limits
        for name, field in model.model_fields.items()
        for limits in _find(field.annotation, *field.metadata)
    }


def _find(*hints: Any) -> Iterator[FileLimits]:
    for hint in hints:
        if isinstance(hint, FileLimits):
            yield hint
        yield from _find(*get_args(hint))


def media_types(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the media types in which a form can be sent."""
    return (MULTIPART,) if file_fields(model) else FORM_TYPES

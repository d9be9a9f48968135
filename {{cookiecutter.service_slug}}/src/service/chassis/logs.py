"""One line per event on standard output: JSON, or text on a terminal."""

import json
import logging
import logging.config
import os
import re
import sys
from contextvars import ContextVar
from datetime import UTC
from datetime import datetime
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol

import orjson

from service.chassis.configuration import PROJECT
from service.settings import Settings

if TYPE_CHECKING:  # the server's supervisor logs too, without Flask
    from flask import Flask

STDOUT = 1
# What every LogRecord has; the rest of its attributes came as `extra`.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


class Ids(Protocol):
    """What joins the lines, answers and calls of one request: 128, 128 (hexadecimal) and 64 bits."""

    request_id: str
    trace_id: str
    span_id: str


_text = False
request_ids: ContextVar[Ids | None] = ContextVar("request_ids", default=None)


def encode(event: dict[str, Any]) -> bytes:
    """One line of JSON; a value that JSON does not know is written as its `str`."""
    try:
        return orjson.dumps(event, str, OPTIONS)
    except orjson.JSONEncodeError:  # lone surrogates, integers above 64 bits
        return json.dumps(event, default=str, skipkeys=True).encode() + b"\n"


def write(line: bytes) -> None:
    """One system call a line, so that workers do not tear each other's lines."""
    os.write(STDOUT, line)


class Redactor(logging.Filter):
    """Puts `***` for every secret of the settings, in the message, in a traceback and in what came as `extra`."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self._pattern = (
            re.compile("|".join(re.escape(s) for s in sorted(secrets, key=len, reverse=True))) if secrets else None
        )

    def filter(self, record: logging.LogRecord) -> bool:
        if self._pattern is None:
            return True
        record.msg, record.args = self._pattern.sub("***", record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._pattern.sub("***", record.exc_text)
        for name, value in vars(record).items():
            if name not in STANDARD and isinstance(value, str):
                setattr(record, name, self._pattern.sub("***", value))
        return True


class JsonFormatter(logging.Formatter):
    """A record as one JSON object, with the ids of the request it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "service.name": PROJECT.name,
            "service.version": PROJECT.version,
        }
        if ids := request_ids.get():
            event |= {"request_id": ids.request_id, "trace_id": ids.trace_id, "span_id": ids.span_id}
        event |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info or record.exc_text:
            event["exception.stacktrace"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        return encode(event).decode()


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record) + "\n"


class LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            write(self.format(record).encode("utf-8", "backslashreplace"))
        except Exception:  # logging must not fail a request
            self.handleError(record)


class ThreadsAdvice(logging.Filter):
    """Drops the server's advice to have fewer threads: their number is derived from the limits."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "Configuration allows spawning up to" not in record.getMessage()


def access(event: dict[str, Any]) -> None:
    """The line of an answered request; past `logging`, whose records cost more than the rest of the chassis."""
    write(_access_text(event) if _text else encode(event))


def _access_text(event: dict[str, Any]) -> bytes:
    time, milliseconds = event["timestamp"].astimezone(), event["http.server.request.duration"] * 1000
    what = f"{event['http.request.method']} {event['url.path']!r} {event['http.response.status_code']}"
    return f"{time:%H:%M:%S} {what} {milliseconds:.1f} ms {event['request_id']}\n".encode()


def as_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stdout.isatty())


def config(settings: Settings) -> dict[str, Any]:
    """The `logging.config` dictionary of this process and of the server's."""
    formatter = JsonFormatter if as_json(settings) else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "filters": {"redact": {"()": Redactor, "secrets": settings.secrets()}, "advice": {"()": ThreadsAdvice}},
        "handlers": {"stdout": {"()": LineHandler, "formatter": "line", "filters": ["redact"]}},
        "root": {"handlers": ["stdout"], "level": settings.log_level},
        "loggers": {
            "_granian": {"handlers": ["stdout"], "propagate": False, "filters": ["advice"]},
            "werkzeug": {"level": "WARNING"},
        },
    }


def init_app(_app: "Flask", settings: Settings) -> None:
    global _text
    _text = not as_json(settings)
    logging.config.dictConfig(config(settings))
    logging.captureWarnings(True)

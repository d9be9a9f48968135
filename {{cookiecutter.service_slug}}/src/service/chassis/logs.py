"""One line per event on standard output: JSON, or text on a terminal."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson

from service.chassis import output
from service.chassis.configuration import PROJECT
from service.settings import Settings

# What every LogRecord has; the rest of its attributes came as `extra`.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
# What joins the lines, answers, spans and calls of the current request: request_id, trace_id, span_id, trace_flags.
request_ids: ContextVar[Mapping[str, str]] = ContextVar("request_ids", default=MappingProxyType({}))
_json, _slow = True, 1.0
access_log = logging.getLogger("service.access")


def event(when: datetime, level: str, logger: str, message: str) -> dict[str, Any]:
    """What every line has; of a request also its ids."""
    return {
        "timestamp": when,
        "level": level,
        "logger": logger,
        "message": message,
        "service.name": PROJECT.name,
        "service.version": PROJECT.version,
        **request_ids.get(),
    }


def encode(line: dict[str, Any]) -> bytes:
    """One line of JSON; a value that JSON does not know is written as its `str`."""
    try:
        return orjson.dumps(line, str, OPTIONS)
    except orjson.JSONEncodeError:  # lone surrogates, integers above 64 bits
        return json.dumps(line, default=str, skipkeys=True).encode() + b"\n"


class JsonFormatter(logging.Formatter):
    """A record as one JSON object, with the ids of the request it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        line = event(when, record.levelname, record.name, record.getMessage())
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info:
            line["exception.stacktrace"] = self.formatException(record.exc_info)
        return encode(line).decode().rstrip()


class LineHandler(logging.Handler):
    """Writes records, a line each, and hides the secrets in whatever is written."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        output.stdout.hide(secrets)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            output.stdout.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # logging must not fail a request
            self.handleError(record)


def access(what: str, seconds: float, fields: dict[str, Any]) -> None:
    """Log an answered request, a slow one as a warning; as JSON past `logging`, whose records cost too much here."""
    level = logging.WARNING if seconds >= _slow else logging.INFO
    if not access_log.isEnabledFor(level):
        return
    if _json:
        line = event(datetime.now(UTC), logging.getLevelName(level), access_log.name, what)
        output.stdout.put(encode(line | fields))
    else:
        access_log.log(level, "%s in %.1f ms", repr(what)[1:-1], seconds * 1000)


def without_advice(record: logging.LogRecord) -> bool:
    """Drop the server's advice to have fewer threads: their number is derived from the limits."""
    return "Configuration allows spawning up to" not in record.getMessage()


def as_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not (sys.stdout and sys.stdout.isatty()))


def config(settings: Settings) -> dict[str, Any]:
    """The `logging.config` dictionary of this process and of the server's."""
    text = {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s", "datefmt": "%H:%M:%S"}
    stdout = {"()": LineHandler, "secrets": settings.secrets(), "formatter": "line"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonFormatter} if as_json(settings) else text},
        "handlers": {"stdout": stdout},
        "root": {"handlers": ["stdout"], "level": settings.log_level},
        "loggers": {
            "_granian": {"handlers": ["stdout"], "propagate": False, "filters": [without_advice]},
            "werkzeug": {"level": "WARNING"},
        },
    }


def init_app(_app: object, settings: Settings) -> None:
    global _json, _slow
    _json, _slow = as_json(settings), settings.slow_request
    logging.config.dictConfig(config(settings))
    logging.captureWarnings(True)

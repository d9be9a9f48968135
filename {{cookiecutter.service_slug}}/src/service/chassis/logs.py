"""One line per event on standard output: JSON, or text on a terminal."""

import fcntl
import json
import logging
import logging.config
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson

from service.chassis.configuration import PROJECT
from service.settings import Settings

STDOUT = 1
# What every LogRecord has; the rest of its attributes came as `extra`.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
# What joins the lines, answers, spans and calls of the current request: request_id, trace_id, span_id, trace_flags.
request_ids: ContextVar[Mapping[str, str]] = ContextVar("request_ids", default=MappingProxyType({}))
_json, _slow = True, 1.0
_writing = threading.RLock()  # a signal's handler may log within a line
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


class Output:
    """Standard output: every line is whole and has `***` for every secret, wherever in it that stands."""

    def __init__(self, secrets: Iterable[str], shared: bool) -> None:
        forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])}
        escaped = {orjson.dumps(secret)[1:-1] for secret in secrets}
        self._secrets = sorted(escaped | {form.encode() for form in forms}, key=len, reverse=True)
        self._shared = shared  # with other workers: a pipe takes no more than 4096 bytes at once

    def write(self, line: bytes) -> None:
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        with _writing:
            if self._shared:
                fcntl.lockf(STDOUT, fcntl.LOCK_EX)
            os.write(STDOUT, line)
            if self._shared:
                fcntl.lockf(STDOUT, fcntl.LOCK_UN)


_output = Output((), shared=False)


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
    """Hands records to an Output, a line each."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # logging must not fail a request
            self.handleError(record)


def access(what: str, seconds: float, fields: dict[str, Any]) -> None:
    """Log an answered request, a slow one as a warning; as JSON past `logging`, whose records cost too much here."""
    level = logging.WARNING if seconds >= _slow else logging.INFO
    if not access_log.isEnabledFor(level):
        return
    if _json:
        line = event(datetime.now(UTC), logging.getLevelName(level), access_log.name, what)
        line.update(fields)
        _output.write(encode(line))
    else:
        access_log.log(level, "%s in %.1f ms", repr(what)[1:-1], seconds * 1000)


def without_advice(record: logging.LogRecord) -> bool:
    """Drop the server's advice to have fewer threads: their number is derived from the limits."""
    return "Configuration allows spawning up to" not in record.getMessage()


def as_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stdout.isatty())


def output(settings: Settings) -> Output:
    shared = settings.workers > 1 and sys.platform == "linux"  # elsewhere a pipe cannot be locked
    return Output(settings.secrets(), shared)


def config(settings: Settings) -> dict[str, Any]:
    """The `logging.config` dictionary of this process and of the server's."""
    text = {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s", "datefmt": "%H:%M:%S"}
    stdout = {"()": LineHandler, "output": output(settings), "formatter": "line"}
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
    global _json, _slow, _output
    _json, _slow, _output = as_json(settings), settings.slow_request, output(settings)
    logging.config.dictConfig(config(settings))
    logging.captureWarnings(True)

"""One line per event on standard output: JSON, or text on a terminal."""

import fcntl
import json
import logging
import logging.config
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from multiprocessing.util import Finalize
from types import MappingProxyType
from typing import Any

import orjson

from service.chassis.configuration import PROJECT
from service.settings import Settings

STDOUT = 1
GATHER = 0.005  # seconds in which the lines of requests wait for each other
WAITING = 1000  # lines at most; then nobody reads them, and requests wait too
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


class Output:
    """Standard output: every line is whole and has `***` for every secret, wherever in it that stands."""

    def __init__(self) -> None:
        self._secrets: list[bytes] = []
        self._lines: deque[bytes] = deque()
        self._some, self._writing, self._within = threading.Event(), threading.RLock(), False
        self._gathers = False

    def hide(self, secrets: Iterable[str]) -> None:
        forms = (str.encode, lambda text: json.dumps(text)[1:-1].encode(), lambda text: orjson.dumps(text)[1:-1])
        self._secrets = sorted({form(secret) for secret in secrets for form in forms}, key=len, reverse=True)

    def gather(self) -> None:
        """From now on write what is put by a thread: a write of its own costs a request the interpreter's lock."""
        self._gathers = True
        threading.Thread(target=self._run, name="logs", daemon=True).start()
        Finalize(None, self.flush, exitpriority=0)  # `atexit` does not run in a forked worker

    def put(self, line: bytes) -> None:
        """Write a line, at once or with those of the next few milliseconds."""
        self._lines.append(line)
        if not self._gathers or len(self._lines) > WAITING:
            self.flush()
        elif not self._some.is_set():
            self._some.set()

    def write(self, line: bytes) -> None:
        """Write a line at once, behind those that were put."""
        self._lines.append(line)
        self.flush()

    def flush(self) -> None:
        with self._writing, suppress(OSError):  # a request must not fail because nobody reads of it
            while self._lines and not self._within:  # it is within where a signal's handler logs
                self._within = True
                try:
                    self._write(b"".join([self._lines.popleft() for _ in range(len(self._lines))]))
                finally:
                    self._within = False

    def _write(self, data: bytes) -> None:
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        _lock(fcntl.LOCK_EX)
        try:
            while data:
                data = data[os.write(STDOUT, data) :]
        finally:
            _lock(fcntl.LOCK_UN)

    def _run(self) -> None:
        while self._some.wait():
            time.sleep(GATHER)
            self._some.clear()
            self.flush()


def _lock(operation: int) -> None:
    """Keep the lines of other processes out of ours: a pipe takes no more than 4096 bytes at once."""
    with suppress(OSError):  # macOS cannot lock a pipe
        fcntl.lockf(STDOUT, operation)


output = Output()


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
        output.hide(secrets)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            output.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # logging must not fail a request
            self.handleError(record)


def access(what: str, seconds: float, fields: dict[str, Any]) -> None:
    """Log an answered request, a slow one as a warning; as JSON past `logging`, whose records cost too much here."""
    level = logging.WARNING if seconds >= _slow else logging.INFO
    if not access_log.isEnabledFor(level):
        return
    if _json:
        line = event(datetime.now(UTC), logging.getLevelName(level), access_log.name, what)
        output.put(encode(line | fields))
    else:
        access_log.log(level, "%s in %.1f ms", repr(what)[1:-1], seconds * 1000)


def without_advice(record: logging.LogRecord) -> bool:
    """Drop the server's advice to have fewer threads: their number is derived from the limits."""
    return "Configuration allows spawning up to" not in record.getMessage()


def as_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stdout.isatty())


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

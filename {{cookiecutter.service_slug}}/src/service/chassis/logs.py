"""One line per event on standard output: JSON, or text on a terminal."""

import fcntl
import json
import logging
import logging.config
import os
import select
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
WHOLE = 4096  # bytes that a pipe takes from one process at once, whatever others write
GATHER = 0.005  # seconds in which the lines of requests wait for each other
PATIENCE = 1.0  # seconds to wait for a reader that does not read, once
WAITING = 4096  # lines at most; further ones are lost
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
    """Standard output: every line is whole and has `***` for every secret, wherever in it that stands.

    A reader that hangs or is gone stops nobody: lines wait for it, and those that are too many are counted.
    """

    def __init__(self) -> None:
        self._secrets: list[bytes] = []
        self.renew()

    def renew(self) -> None:
        """Begin anew, without lines: in a forked process the thread is missing and a lock may be held for ever."""
        self._lines: deque[bytes] = deque()
        self._some, self._writing, self._within = threading.Event(), threading.RLock(), False
        self._gathers, self._patience, self._lost = False, PATIENCE, 0

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
        if not self._gathers:
            self.write(line)
            return
        self._add(line)
        if not self._some.is_set():
            self._some.set()

    def write(self, line: bytes) -> None:
        """Write a line at once, behind those that were put."""
        self._add(line)
        self.flush()

    def _add(self, line: bytes) -> None:
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        if len(self._lines) < WAITING:
            self._lines.append(line)
        else:
            self._lost += 1

    def flush(self) -> None:
        with self._writing:
            if self._within:  # a signal's handler logs: what it came into writes its line too
                return
            self._within = True
            _lock(fcntl.LOCK_EX)
            try:
                while self._lines and self._is_read():
                    self._write()
            except OSError:
                pass  # nobody can read: a request must not fail of that
            finally:
                _lock(fcntl.LOCK_UN)
                self._within = False

    def _is_read(self) -> bool:
        _, ready, _ = select.select((), (STDOUT,), (), self._patience)
        self._patience = PATIENCE if ready else 0
        return bool(ready)

    def _write(self) -> None:
        """Write as many lines as a pipe takes whole, or a longer one in parts."""
        piece = self._lines.popleft()
        while self._lines and len(piece) + len(self._lines[0]) <= WHOLE:
            piece += self._lines.popleft()
        if rest := piece[os.write(STDOUT, piece[:WHOLE]) :]:
            self._lines.appendleft(rest)

    def _run(self) -> None:
        while True:
            self._some.wait(PATIENCE if self._lines else None)
            time.sleep(GATHER)
            self._some.clear()
            self.flush()
            if self._lost and not self._lines:
                logging.getLogger("service").warning("%d lines were lost: nobody read them", self._lost)
                self._lost = 0


def _lock(operation: int) -> None:
    """Keep the lines of other processes out of a long one of ours."""
    with suppress(OSError):  # macOS cannot lock a pipe
        fcntl.lockf(STDOUT, operation)


output = Output()
os.register_at_fork(after_in_child=output.renew)


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

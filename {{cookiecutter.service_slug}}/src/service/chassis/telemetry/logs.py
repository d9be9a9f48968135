"""One line per event on standard output: JSON, or text on a terminal."""

import json
import logging
import logging.config
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

import orjson

from service.chassis.project import PROJECT
from service.chassis.telemetry import Fields
from service.chassis.telemetry import Observed
from service.chassis.telemetry.settings import TelemetrySettings
from service.chassis.telemetry.spans import NO_IDS, Ids, current_ids
from service.chassis.telemetry.stdout import stdout

# The attributes of every LogRecord; the others came as `extra`.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
TIME_FORMAT = "%H:%M:%S"
access_log = logging.getLogger("service.access")


def event(when: datetime, level: str, logger: str, message: str, ids: Ids) -> Fields:
    """Return the fields of every line."""
    return {
        "timestamp": when,
        "level": level,
        "logger": logger,
        "message": message,
        "service.name": PROJECT.name,
        "service.version": PROJECT.version,
        **ids,
    }


def encode(line: Fields) -> bytes:
    """Encode one line of JSON; a value that JSON does not know is written as its `str`."""
    try:
        return orjson.dumps(line, str, OPTIONS)
    except orjson.JSONEncodeError:  # lone surrogates, integers above 64 bits
        return json.dumps(line, default=str, skipkeys=True).encode() + b"\n"


class JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        when = datetime.fromtimestamp(record.created, UTC)
        line = event(when, record.levelname, record.name, record.getMessage(), current_ids())
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info:
            line["exception.stacktrace"] = self.formatException(record.exc_info)
        return encode(line).decode().rstrip()


class LineHandler(logging.Handler):
    """Writes each record as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; logging must not fail a request."""
        try:
            stdout.write(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def hide(secrets: Iterable[str]) -> None:
    """Hide the process's secrets in its output, but for words that every line has."""
    words = encode(event(datetime.now(UTC), "INFO", access_log.name, "", NO_IDS)).decode()
    stdout.hide(secret for secret in secrets if secret not in words)


def make_handler(secrets: Iterable[str]) -> LineHandler:
    """Make the handler of a process, whose output hides these secrets from now on."""
    hide(secrets)
    return LineHandler()


class AccessLog:
    """Logs the answered requests of one application, slow ones as warnings.

    Not by way of `logging`, which belongs to the process and costs too much for every request.
    """

    def __init__(self, settings: TelemetrySettings) -> None:
        self._text = None if is_json(settings) else logging.Formatter(TEXT_FORMAT, TIME_FORMAT)
        self._minimum = logging.getLevelNamesMapping()[settings.log_level]
        self._slow = settings.slow_request

    def __call__(self, _span: object, ids: Ids, fields: Fields, seconds: float) -> None:
        level = logging.WARNING if seconds >= self._slow else logging.INFO
        if level < self._minimum or level < access_log.level:
            return
        method = fields.get("http.request.method_original") or fields["http.request.method"]
        what = f"{method} {fields['url.path']} {fields['http.response.status_code']}"
        if self._text:
            message = f"{repr(what)[1:-1]} in {seconds * 1000:.1f} ms"
            record = logging.LogRecord(access_log.name, level, "", 0, message, None, None)
            stdout.put(f"{self._text.format(record)}\n".encode())
            return
        line = event(datetime.now(UTC), logging.getLevelName(level), access_log.name, what, ids)
        line.update(fields)
        line["http.server.request.duration"] = int(seconds * 1e6) / 1e6
        stdout.put(encode(line))


def drop_thread_warning(record: logging.LogRecord) -> bool:
    """Drop the server's advice to have fewer threads: their number follows from the limits."""
    return "Configuration allows spawning up to" not in record.getMessage()


def drop_request_line(record: logging.LogRecord) -> bool:
    """Drop the lines of requests of Flask's development server: the application writes them."""
    return not str(record.msg).endswith('"%s" %s %s')


def is_json(settings: TelemetrySettings) -> bool:
    """Return whether lines are JSON."""
    if settings.log_format == "auto":
        return not (sys.stdout and sys.stdout.isatty())
    return settings.log_format == "json"


def config(settings: TelemetrySettings) -> Fields:
    """Return the `logging.config` dictionary of this process and of the server's worker."""
    text = {"format": TEXT_FORMAT, "datefmt": TIME_FORMAT}
    handler = {"()": make_handler, "secrets": settings.secrets(), "formatter": "line"}
    server = {"handlers": ["stdout"], "propagate": False, "filters": [drop_thread_warning]}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonFormatter} if is_json(settings) else text},
        "handlers": {"stdout": handler},
        "root": {"handlers": ["stdout"], "level": settings.log_level},
        "loggers": {"_granian": server, "werkzeug": {"filters": [drop_request_line]}},
    }


def configure(settings: TelemetrySettings) -> None:
    """Set up the process's logging unless that was done before, and hide the settings' secrets."""
    hide(settings.secrets())
    if not any(isinstance(handler, LineHandler) for handler in logging.getLogger().handlers):
        logging.config.dictConfig(config(settings))
    logging.captureWarnings(True)


def init_app(app: Observed, settings: TelemetrySettings) -> None:
    """Log the process's events and the application's requests."""
    configure(settings)
    app.telemetry.recorders.append(AccessLog(settings))

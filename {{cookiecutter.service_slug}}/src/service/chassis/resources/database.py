"""The application's database: for views, for readiness, and what clients are told of its errors."""

import logging
from contextlib import AbstractContextManager

from flask import Response, current_app
from sqlalchemy import Connection, exc
from werkzeug.exceptions import Conflict, HTTPException, ServiceUnavailable

from service.chassis.data.connections import Database
from service.chassis.data.settings import DatabaseSettings
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.chassis.resources import pagination

log = logging.getLogger("service.database")

RETRY_AFTER = 1  # second
UNIQUE = ("23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
READ_ONLY = "25006"  # the server was the primary, or is not yet


def read() -> Connection:
    """Return a connection on which each statement stands alone: the cheap way, for reading."""
    return _current().read()


def transaction() -> AbstractContextManager[Connection]:
    """Return a connection whose statements are committed together, or not at all."""
    return _current().transaction()


def _current() -> Database:
    database: Database = current_app.extensions["database"]
    return database


def to_http_error(error: exc.SQLAlchemyError) -> HTTPException | None:
    """Return what the client is told of an error; None where the service itself is at fault."""
    origin = getattr(error, "orig", None)
    code = getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorname", None)
    if code in UNIQUE:
        return Conflict("A unique value is already in use.")
    unavailable = exc.OperationalError | exc.InterfaceError | exc.TimeoutError
    if code == READ_ONLY or (isinstance(error, unavailable) and code != "SQLITE_ERROR"):
        return ServiceUnavailable(retry_after=RETRY_AFTER)
    return None


def _render(error: exc.SQLAlchemyError) -> Response | HTTPException:
    http_error = to_http_error(error)
    if http_error is None:
        raise error
    if isinstance(http_error, ServiceUnavailable):
        log.warning("the database cannot be used: %s", getattr(error, "orig", None) or error)
    return problems.render(http_error)


def init_app(app: Application, settings: DatabaseSettings, concurrency: int) -> None:
    """Give the views a database, with a connection for each request and one for readiness."""
    database = Database(settings, concurrency + 1, app.telemetry.registry)
    app.extensions["database"] = database
    app.extensions["cursor_key"] = pagination.make_cursor_key(settings)
    app.register_error_handler(exc.SQLAlchemyError, _render)
    app.readiness.require("database", database.check)

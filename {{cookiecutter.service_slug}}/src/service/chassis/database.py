"""The two ways to the database, `read` and `transaction`, and what a client is told of its errors."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import sqlalchemy
from flask import Flask, Response, current_app
from sqlalchemy import Connection, exc
from werkzeug.exceptions import Conflict, HTTPException, ServiceUnavailable

from service.chassis import database_metrics
from service.chassis import problems
from service.chassis.database_engine import lend
from service.chassis.database_engine import make_engine
from service.settings import Settings

log = logging.getLogger("service.database")

RETRY_AFTER = 1  # second
PROBE = sqlalchemy.text("SELECT 1")
UNIQUE = ("23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
READ_ONLY = "25006"  # the server was the primary, or is not yet


class Database:
    """An engine and the two ways to it."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(settings)
        # SQLite's plain BEGIN lets two readers of one row overwrite each other's change.
        self._begin = "BEGIN" if self.engine.dialect.name == "postgresql" else "BEGIN IMMEDIATE"
        database_metrics.watch(self.engine)

    def read(self) -> Connection:
        """Lend a connection on which each statement stands alone: the cheap way, for reading."""
        return lend(self.engine)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection whose statements hold together: committed at the block's end, rolled back on any error."""
        with lend(self.engine) as connection:
            connection.exec_driver_sql(self._begin)
            yield connection
            connection.exec_driver_sql("COMMIT")  # without it the connection's end rolls back

    def ask(self) -> None:
        """Raise where the database does not answer."""
        with self.read() as connection:
            connection.execute(PROBE)


def read() -> Connection:
    return _current().read()


def transaction() -> AbstractContextManager[Connection]:
    return _current().transaction()


def _current() -> Database:
    database: Database = current_app.extensions["database"]
    return database


def refusal(error: exc.SQLAlchemyError) -> HTTPException | None:
    """What the client is told of an error; None where the service itself is at fault."""
    origin = getattr(error, "orig", None)
    code = getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorname", None)
    if code in UNIQUE:
        return Conflict("A value that must be unique is taken.")
    away = isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError) and code != "SQLITE_ERROR"
    return ServiceUnavailable(retry_after=RETRY_AFTER) if away or code == READ_ONLY else None


def _answer(error: exc.SQLAlchemyError) -> Response | HTTPException:
    told = refusal(error)
    if told is None:
        raise error
    if told.code == ServiceUnavailable.code:
        log.warning("the database cannot be used: %s", getattr(error, "orig", None) or error)
    return problems.render(told)


def init_app(app: Flask, settings: Settings) -> None:
    """Offer the database to views and require it for readiness; call it after the edge's."""
    database = app.extensions["database"] = Database(settings)
    app.register_error_handler(exc.SQLAlchemyError, _answer)
    app.extensions["health"].require("database", database.ask)

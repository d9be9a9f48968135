"""The engine: as many connections as requests at once, and limits that the database, the network and we keep."""

import sqlite3
import time
from typing import Any

import psycopg
import sqlalchemy
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, event

from service.chassis import database_metrics
from service.chassis.configuration import PROJECT
from service.settings import Settings

SQLITE = "sqlite:///.data/service.db"
PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON")
POOL_WAIT = 2.0  # seconds: the pool has a connection for every request, so only a fault makes one wait
RECYCLE = 1800  # seconds: before firewalls forget an idle connection
LOCK_SHARE = 0.4  # of a statement's time: a lock that is held says so before the statement's end
SILENCE = 1.0  # seconds that a statement may last beyond its limit before the server counts as dead


class LimitedConnection(psycopg.Connection[Any]):
    """Closes itself where the server says nothing in time: a host that hangs keeps connections open and no limit."""

    limit: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.limit)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


def _postgresql(url: URL, settings: Settings) -> dict[str, Any]:
    """Limits that the server keeps, and a socket that notices a host that is gone."""
    if settings.database_password:
        url = url.set(password=settings.database_password.get_secret_value())
    milliseconds = settings.database_timeout * 1000
    session = {
        "statement_timeout": int(milliseconds),
        "lock_timeout": int(milliseconds * LOCK_SHARE),
        "idle_in_transaction_session_timeout": int(milliseconds * 2),
        "TimeZone": "UTC",
    }
    connect = {
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
        "application_name": PROJECT.name,
        "connect_timeout": 2,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(milliseconds * 2),
    }
    return {"url": url, "connect_args": connect}


class SqliteConnection(sqlite3.Connection):
    def cursor(self, factory: Any = database_metrics.SqliteCursor) -> Any:
        return super().cursor(factory)


def _sqlite(url: URL, settings: Settings) -> dict[str, Any]:
    return {
        "url": url,
        "connect_args": {"timeout": settings.database_timeout * LOCK_SHARE, "factory": SqliteConnection},
    }


def _connect_sqlite(connection: Any, _record: object) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def make_engine(settings: Settings) -> Engine:
    """Make the engine; it connects at the first use. Each statement stands alone unless BEGIN is sent."""
    url = sqlalchemy.make_url(settings.database_url.get_secret_value() if settings.database_url else SQLITE)
    is_postgresql = url.get_backend_name() == "postgresql"
    options = _postgresql(url, settings) if is_postgresql else _sqlite(url, settings)
    engine = sqlalchemy.create_engine(
        **options,
        isolation_level="AUTOCOMMIT",
        poolclass=sqlalchemy.QueuePool,
        pool_size=settings.concurrency + 1,  # one more for readiness
        max_overflow=0,
        pool_timeout=POOL_WAIT,
        pool_recycle=RECYCLE,
        pool_reset_on_return=None,  # a connection rolls back before it goes back
        hide_parameters=True,
    )

    def connect(_dialect: object, _record: object, args: Any, options: Any) -> LimitedConnection:
        connection = LimitedConnection.connect(*args, cursor_factory=database_metrics.PostgresqlCursor, **options)
        connection.limit = settings.database_timeout + SILENCE
        return connection

    event.listen(engine, *(("do_connect", connect) if is_postgresql else ("connect", _connect_sqlite)))
    return engine


def lend(engine: Engine) -> Connection:
    """Take a connection from the pool and count how long that took."""
    started = time.perf_counter()
    connection = engine.connect()
    database_metrics.WAIT.observe(time.perf_counter() - started)
    return connection

"""The engine: its pool, and time limits that the database, the network and the client keep."""

import sqlite3
from typing import Any

import psycopg
import sqlalchemy
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Engine, event

from service.chassis.data.cursors import DatabaseMetrics, PostgresqlCursor, SqliteCursor
from service.chassis.data.settings import DatabaseSettings
from service.chassis.project import PROJECT

SQLITE = "sqlite:///.data/service.db"
PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON")
POOL_TIMEOUT = 2.0  # seconds: the pool has a connection for every request, so only a fault waits
POOL_RECYCLE = 1800  # seconds: before firewalls forget an idle connection
LOCK_TIMEOUT_RATIO = 0.4  # of a statement's time: a held lock is reported before the statement ends
READ_TIMEOUT_MARGIN = 1.0  # seconds beyond a statement's limit, then the server counts as dead
SELECT_SESSION = "SELECT pg_backend_pid(), name, setting FROM pg_settings WHERE name = ANY(%s)"


class PostgresqlConnection(psycopg.Connection[Any]):
    """Closes itself where the server does not answer: a host that hangs keeps no time limit."""

    metrics: DatabaseMetrics
    read_timeout: float | None = None
    is_pooled = False
    remedy = ""

    def set_session(self, wanted: dict[str, str]) -> None:
        """Set parameters of the session; behind a pooler, which shares it, its role has to."""
        cursor = psycopg.Cursor(self)  # one that records nothing
        found = cursor.execute(SELECT_SESSION, [list(wanted)]).fetchall()
        self.is_pooled = found[0][0] != self.info.backend_pid  # a pooler makes up its own
        different = [name for _, name, value in found if value != wanted[name]]
        changes = [f"SET {name} = '{wanted[name]}'" for name in different]
        if not self.is_pooled:
            cursor.execute("; ".join(changes))
            return
        self.prepare_threshold = None  # what one session prepared, another does not know
        self.remedy = "; ".join(f"ALTER ROLE {self.info.user} {change}" for change in changes)

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server as the driver does, within the limit."""
        try:
            return super().wait(gen, interval, timeout or self.read_timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise

    def rollback(self) -> None:
        """Roll back as the driver does, at no cost where no transaction is open."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            super().rollback()


class SqliteConnection(sqlite3.Connection):
    """The standard library's connection with the cursor that records."""

    metrics: DatabaseMetrics

    def cursor(self, factory: Any = SqliteCursor) -> Any:
        """Make a cursor."""
        return super().cursor(factory)


def session_parameters(settings: DatabaseSettings) -> dict[str, str]:
    """Return the limits that the server keeps, in milliseconds, and the zone of its times."""
    milliseconds = settings.database_timeout * 1000
    return {
        "statement_timeout": f"{milliseconds:.0f}",
        "lock_timeout": f"{milliseconds * LOCK_TIMEOUT_RATIO:.0f}",
        "idle_in_transaction_session_timeout": f"{milliseconds * 2:.0f}",
        "TimeZone": "UTC",
    }


def _connect_args(url: URL, settings: DatabaseSettings) -> dict[str, Any]:
    """Return what the driver is told; a socket of PostgreSQL's notices a host that is gone."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": settings.database_timeout * LOCK_TIMEOUT_RATIO}
    connect: dict[str, Any] = {
        "application_name": PROJECT.name,
        "autocommit": True,
        "connect_timeout": max(2, int(settings.database_timeout / 30)),  # more for migrations
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": int(settings.database_timeout * 2000),
    }
    # What the URL says comes before ours.
    return {name: value for name, value in connect.items() if name not in url.query}


def make_engine(
    settings: DatabaseSettings, pool_size: int = 5, metrics: DatabaseMetrics | None = None
) -> Engine:
    """Make the engine, on which each statement stands alone unless BEGIN is sent."""
    metrics = metrics or DatabaseMetrics(None)
    secret = settings.database_url
    url = sqlalchemy.make_url(secret.get_secret_value() if secret else SQLITE)
    if settings.database_password and url.get_backend_name() == "postgresql":
        url = url.set(password=settings.database_password.get_secret_value())
    engine = sqlalchemy.create_engine(
        url,
        connect_args=_connect_args(url, settings),
        isolation_level="AUTOCOMMIT",
        poolclass=sqlalchemy.QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_recycle=POOL_RECYCLE,
        pool_reset_on_return=None,  # a connection rolls back before it goes back
        hide_parameters=True,
    )
    _make_connections(engine, settings, metrics)
    return engine


def _make_connections(engine: Engine, settings: DatabaseSettings, metrics: DatabaseMetrics) -> None:
    """Let the engine use our connections instead of the drivers' own."""

    def connect_postgresql(_dialect: object, _record: object, args: Any, options: Any) -> Any:
        options = {**options, "cursor_factory": PostgresqlCursor}
        connection = PostgresqlConnection.connect(*args, **options)
        connection.metrics = metrics
        connection.read_timeout = settings.database_timeout + READ_TIMEOUT_MARGIN
        connection.set_session(session_parameters(settings))
        return connection

    def connect_sqlite(_dialect: object, _record: object, args: Any, options: Any) -> Any:
        connection = sqlite3.connect(*args, **options, factory=SqliteConnection)
        connection.metrics = metrics
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()
        return connection

    is_sqlite = engine.dialect.name == "sqlite"
    event.listen(engine, "do_connect", connect_sqlite if is_sqlite else connect_postgresql)

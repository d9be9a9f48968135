"""Alembic environment: one process at a time, as the owner of the tables, with short lock waits."""

import logging.config
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal

from alembic import context
from psycopg.errors import LockNotAvailable
from psycopg.errors import UndefinedTable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import ProgrammingError

from service import storage
from service.chassis.data.engine import LOCK_TIMEOUT_RATIO
from service.chassis.data.engine import make_engine
from service.chassis.data.types import UtcDateTime, metadata
from service.chassis.messaging import inbox  # only-if: messaging == "rabbitmq"
from service.chassis.messaging import outbox  # only-if: messaging == "rabbitmq"
from service.chassis.resources import idempotency
from service.chassis.telemetry import logs
from service.settings import Settings

for module in iter_modules(storage.__path__, f"{storage.__name__}."):
    import_module(module.name)  # registers its tables in the metadata
TARGET_METADATA = [
    metadata,
    idempotency.metadata,
    inbox.metadata,  # only-if: messaging == "rabbitmq"
    outbox.metadata,  # only-if: messaging == "rabbitmq"
]
SETTINGS = Settings.load()
STATEMENT_TIMEOUT = 15 * 60  # seconds
# Requests queue behind a migration that waits for a lock, so it gives up before they do.
LOCK_TIMEOUT = int(SETTINGS.database_timeout * LOCK_TIMEOUT_RATIO / 2 * 1000)  # milliseconds
SET_TIMEOUTS = (
    f"SET lock_timeout = '{LOCK_TIMEOUT}ms'; SET statement_timeout = '{STATEMENT_TIMEOUT}s'"
)
# Only their owner can lock the table so; readers of it, such as the service, stand in nobody's way.
LOCK = "LOCK TABLE alembic_version IN SHARE UPDATE EXCLUSIVE MODE NOWAIT"
KEEP = "SET LOCAL idle_in_transaction_session_timeout = 0"
CREATE = (
    "CREATE TABLE IF NOT EXISTS alembic_version"
    " (version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY)"
)
HOLDER = text(
    "SELECT format('process %s of role %s', pid, usename)"
    " FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE datname = current_database() AND relation = 'alembic_version'::regclass AND granted"
    " AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')"
)
POLL_INTERVAL = 0.5  # seconds
WAIT = context.get_x_argument(as_dictionary=True).get("wait", "900")  # seconds for another job
log = logging.getLogger("service.migrations")


def connect(engine: Engine) -> Connection:
    """Return a connection to PostgreSQL, or end with one line that says what to do."""
    try:
        return engine.connect()
    except OperationalError as error:
        cause = " ".join(str(error.orig).split())
        sys.exit(f"{cause}. Are the passwords those of the volume? See database/README.md")


def take_lock(connection: Connection) -> bool:
    """Lock the table of versions until the transaction ends, or return False at once."""
    try:
        connection.exec_driver_sql(KEEP)
        connection.exec_driver_sql(LOCK)
    except (OperationalError, ProgrammingError) as error:
        connection.rollback()
        if isinstance(error.orig, UndefinedTable):
            with suppress(IntegrityError):  # another process creates it at the same moment
                connection.exec_driver_sql(CREATE)
            connection.commit()
            return take_lock(connection)
        if not isinstance(error.orig, LockNotAvailable):
            raise
        return False
    return True


@contextmanager
def migration_lock(engine: Engine) -> Iterator[None]:
    """Wait until no other process migrates; say for whom, and give up in the end.

    It polls on a connection of its own. Between statements that one has no snapshot, for which
    CREATE INDEX CONCURRENTLY would wait.
    """
    end = time.monotonic() + int(WAIT)
    told = None
    with connect(engine) as connection:
        while not take_lock(connection):
            holder = connection.scalar(HOLDER) or told
            connection.rollback()
            if time.monotonic() > end:
                sys.exit(f"gave up after {WAIT} s: the lock of migrations is held by {holder}")
            if holder != told:
                log.warning(
                    "waiting up to %s s for the lock of migrations, held by %s", WAIT, holder
                )
            told = holder
            time.sleep(POLL_INTERVAL)
        yield


def render_item(_kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Render our own type as the plain one: a migration must not import code that may change."""
    return "sa.DateTime(timezone=True)" if isinstance(item, UtcDateTime) else False


def migrate(connection: Connection) -> None:
    """Run the migrations on a connection."""
    context.configure(
        connection=connection,
        target_metadata=TARGET_METADATA,
        transaction_per_migration=True,
        render_as_batch=True,  # SQLite alters a table by copying it; PostgreSQL gets ALTER TABLE
        render_item=render_item,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online(engine: Engine) -> None:
    """Migrate the database of the settings."""
    if engine.dialect.name == "sqlite":
        Path(engine.url.database or "").parent.mkdir(parents=True, exist_ok=True)
        with engine.connect() as connection:
            migrate(connection)
        return
    transactional = engine.execution_options(isolation_level="READ COMMITTED")
    with connect(transactional) as connection:
        if getattr(connection.connection.driver_connection, "is_pooled", False):
            server = f"{engine.url.host}:{engine.url.port or 5432}"
            sys.exit(f"a pooler answers at {server}: name PostgreSQL's own address in DATABASE_URL")
        with migration_lock(transactional):
            connection.exec_driver_sql(SET_TIMEOUTS)
            connection.commit()
            migrate(connection)


def run_offline() -> None:
    """Print the SQL, which migrations/lint.py reads."""
    context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.execute(SET_TIMEOUTS)
        context.run_migrations()


if not WAIT.isdecimal():
    sys.exit(f"-x wait={WAIT}: name a number of seconds")
if len(heads := context.script.get_heads()) > 1:
    sys.exit(
        f"{len(heads)} heads, {' and '.join(heads)}: join them by"
        " `.venv/bin/alembic merge heads --message merge`"
    )
if context.is_offline_mode():
    run_offline()
else:
    if context.config.cmd_opts:  # set by the alembic command, not by tests
        logging.config.dictConfig(logs.config(SETTINGS))
        logging.getLogger("alembic.runtime.plugins").setLevel("WARNING")
    engine = make_engine(SETTINGS.model_copy(update={"database_timeout": STATEMENT_TIMEOUT}))
    try:
        run_online(engine)
    finally:
        engine.dispose()

"""How Alembic runs: one process at a time, in the role that owns the tables, never waiting long for their locks."""

import logging.config
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal

from alembic import context
from service.chassis.configuration import PROJECT
from service.chassis.database_engine import LOCK_SHARE
from service.chassis.database_engine import make_engine
from sqlalchemy import Connection, Engine, text

from service import domain
from service.chassis import idempotency
from service.chassis import logs
from service.domain import tables
from service.settings import Settings

for module in iter_modules(domain.__path__, f"{domain.__name__}."):
    import_module(module.name)  # so that its tables are known
TABLES = [tables.metadata, idempotency.metadata]
LONGEST = 15 * 60  # seconds for a statement
SETTINGS = Settings.load()
# Requests wait behind a migration that waits for a lock: it gives up first and may run again.
LOCK = int(SETTINGS.database_timeout * LOCK_SHARE / 2 * 1000)
LIMITS = f"SET lock_timeout = '{LOCK}ms'; SET statement_timeout = '{LONGEST}s'"
TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
UNLOCK = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")
PAUSE = 0.5  # seconds


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Wait until no other process migrates. By asking: a statement that waits would stop CREATE INDEX CONCURRENTLY."""
    name = {"name": f"migrations of {PROJECT.name}"}
    while not connection.scalar(TRY_LOCK, name):
        connection.commit()
        time.sleep(PAUSE)
    connection.exec_driver_sql(LIMITS)
    connection.commit()
    yield
    connection.execute(
        UNLOCK, name
    )  # after an error the connection is closed, which unlocks as well


def without_the_service(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our own type as the plain one below it: a migration is history and imports nothing that may change."""
    return "sa.DateTime(timezone=True)" if isinstance(item, tables.Instant) else False


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=TABLES,
        transaction_per_migration=True,
        render_as_batch=True,  # SQLite changes a table by copying it; PostgreSQL gets plain ALTER TABLE
        render_item=without_the_service,
    )
    with context.begin_transaction():
        context.run_migrations()


def online(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        Path(engine.url.database or "").parent.mkdir(parents=True, exist_ok=True)
        with engine.connect() as connection:
            migrate(connection)
        return
    transactional = engine.execution_options(isolation_level="READ COMMITTED")
    with transactional.connect() as connection, alone(connection):
        migrate(connection)


def offline() -> None:
    """Print the SQL, as `make lint` reads it."""
    context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.execute(LIMITS)
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    if context.config.cmd_opts:  # the command, not a test
        logging.config.dictConfig(logs.config(SETTINGS))
        logging.getLogger("alembic.runtime.plugins").setLevel("WARNING")
    engine = make_engine(SETTINGS.model_copy(update={"database_timeout": LONGEST}))
    try:
        online(engine)
    finally:
        engine.dispose()

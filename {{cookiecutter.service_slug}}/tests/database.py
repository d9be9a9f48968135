"""The database of the tests: SQLite in a file, or the one that TEST_DATABASE_URL names."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import parcels
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, event

from service.chassis import lifecycle
from service.chassis.data import types
from service.chassis.data.engine import make_engine
from service.chassis.http.application import Application
from service.chassis.messaging import inbox  # only-if: messaging == "rabbitmq"
from service.chassis.messaging import outbox  # only-if: messaging == "rabbitmq"
from service.chassis.resources import idempotency
from service.settings import Settings

ALEMBIC = Config(toml_file=Path(__file__).parents[1] / "pyproject.toml")
POSTGRES = os.environ.get("TEST_DATABASE_URL", "").startswith("postgres")
only_postgres = pytest.mark.skipif(
    not POSTGRES, reason="needs PostgreSQL; make test-postgres runs it"
)
# Values of DATABASE_URL that are refused at the start.
WRONG_URLS = [
    "mysql://u:hunter2@h/x",
    "postgresql://u:my@hunter2@h/x",
    "postgresql://u:my@h?hunter2@h/x",
    "postgresql://u:hunter2@first:5432,second:5433/x",
    "postgresql://u:hunter2@h:abc/x",
    "postgresql://u:hunter2@h:99999/x",
    "postgresql://u:hunter2@h:0/x",
    "postgresql://u:hunter2@h /x",
    "postgresql://u:hunter2@h/x?pgbouncer=true",
    "postgresql://u@h/x?password=hunter2",
    "postgresql://u@h/x?sslmode=a",
    "postgresql://u@h/x?sslmode=require&sslmode=disable",
    "postgresql://u@h/x?connect_timeout=soon",
    "postgresql://u@h/x?options=-clock_timeout%3D9",
    "sqlite:///x?timeout=9",
    "sqlite:///",
    "sqlite:///:memory:",
]


def pytest_configure(config: pytest.Config) -> None:
    """Let every application use the database, also those made when a module is imported."""
    lifecycle.CHECK_INTERVAL = 3600  # a check runs once, and takes no connection after its test
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    sqlite = f"sqlite:///{folder.name}/service.db"
    os.environ["DATABASE_URL"] = os.environ.get("TEST_DATABASE_URL") or sqlite


@pytest.fixture(scope="session", autouse=True)
def migrated() -> None:
    command.upgrade(ALEMBIC, "head")
    engine = make_engine(Settings.load())
    parcels.metadata.drop_all(engine)
    parcels.metadata.create_all(engine)
    engine.dispose()


@pytest.fixture(autouse=True)
def _no_connection_outlives_its_test() -> Iterator[None]:
    engines: set[Engine] = set()

    def remember(connection: Connection) -> None:
        engines.add(connection.engine)

    event.listen(Engine, "engine_connect", remember)
    yield
    event.remove(Engine, "engine_connect", remember)
    for engine in engines:
        engine.dispose()


@pytest.fixture
def connection(app: Application) -> Iterator[Connection]:
    """A connection of the application's to empty tables, inside its context."""
    with app.app_context(), app.extensions["database"].read() as connection:
        for table in (
            *reversed(types.metadata.sorted_tables),
            idempotency.KEYS,
            inbox.INBOX,  # only-if: messaging == "rabbitmq"
            outbox.OUTBOX,  # only-if: messaging == "rabbitmq"
            parcels.TABLE,
        ):
            connection.execute(sa.delete(table))
        yield connection

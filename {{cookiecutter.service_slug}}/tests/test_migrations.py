"""Migrations: up and down, on empty and filled tables, and one process at a time."""

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import RevisionStep
from alembic.script import Script
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, exc
from support import wait_until

from database import ALEMBIC
from database import POSTGRES
from database import only_postgres
from service.chassis.data.engine import make_engine
from service.chassis.data.types import metadata
from service.chassis.resources import idempotency
from service.settings import Settings

# SQLAlchemy reads NOT VALID of a constraint into an argument that it does not know.
pytestmark = pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")

ROOT = Path(__file__).parents[1]
SCRIPTS = ScriptDirectory.from_config(ALEMBIC)
MIGRATIONS = list(SCRIPTS.walk_revisions())[::-1]
NEWEST = tuple(SCRIPTS.get_heads()) or None
# Values of a table's columns, where those that `fill` makes up break one of its constraints.
ROWS: dict[str, dict[str, Any]] = {}
VALUES: dict[type, Any] = {
    int: 1,
    float: 1.0,
    str: "x",
    bytes: b"x",
    bool: True,
    datetime: datetime.now(UTC),
    date: datetime.now(UTC).date(),
    timedelta: timedelta(1),
    Decimal: Decimal(1),
    dict: {},
    list: [],
}
STEPS: dict[type, Any] = {int: 1, float: 1.0, datetime: timedelta(1), date: timedelta(1)}
MIGRATION = '''"""Tried."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {after!r}
{accepted}

def upgrade() -> None:
    {body}


def downgrade() -> None:
    {undo}
'''

ADD_ENUM = 'op.add_column("parcels", sa.Column("way", sa.Enum("a", "b", name="ways")))'
CHANGE = "op.execute(\"UPDATE parcels SET note = 'x'\")"
READ = 'op.get_bind().execute(sa.text("SELECT count(*) FROM parcels")).scalar_one()'


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An empty database, which the settings name."""
    name = f"fresh_{uuid4().hex}"
    if not POSTGRES:
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/{name}.db")
        engine = make_engine(Settings.load())
        yield engine
        engine.dispose()
        return
    server = make_engine(Settings.load())
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        url = server.url.set(database=name).render_as_string(hide_password=False)
        monkeypatch.setenv("DATABASE_URL", url)
        engine = make_engine(Settings.load())
        yield engine
        engine.dispose()
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


def names(engine: Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names()) - {"alembic_version"}


def value(column: "sa.Column[Any]", position: int) -> Any:
    """Return a value that rises from column to column, as a start and an end do; keys are alike."""
    kind = column.type.python_type
    if kind not in VALUES:
        return kind(int=1)
    is_key = column.primary_key or column.foreign_keys
    return (
        VALUES[kind] + STEPS[kind] * (0 if is_key else position) if kind in STEPS else VALUES[kind]
    )


def fill(engine: Engine) -> None:
    """Store a row in each table that has none."""
    found = sa.MetaData()
    found.reflect(engine)
    found.remove(found.tables["alembic_version"])
    with engine.connect() as connection:
        for table in found.sorted_tables:
            if connection.execute(sa.select(table)).first() is not None:
                continue
            given = ROWS.get(table.name, {})
            row = {
                column.name: given[column.name] if column.name in given else value(column, position)
                for position, column in enumerate(table.columns)
            }
            try:
                connection.execute(sa.insert(table), row)
            except exc.IntegrityError as error:
                pytest.fail(f"name values for {table.name} in ROWS of {__file__}: {error.orig}")


def run(config: Config, migration: Script, is_upgrade: bool) -> None:
    """Run one migration, which may be one of several branches or their merge."""
    scripts = ScriptDirectory.from_config(config)
    step = RevisionStep(scripts.revision_map, migration, is_upgrade)
    with EnvironmentContext(config, scripts, fn=lambda _heads, _context: [step]):
        scripts.run_env()


def up_and_down(config: Config, engine: Engine) -> None:
    """Run each migration up, down and up again on filled tables, and all down in the end."""
    before: list[tuple[Script, set[str]]] = []
    for migration in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
        before.append((migration, names(engine)))
        run(config, migration, is_upgrade=True)
        fill(engine)
        run(config, migration, is_upgrade=False)
        assert names(engine) == before[-1][1]
        run(config, migration, is_upgrade=True)
        fill(engine)
    for migration, left in reversed(before):
        run(config, migration, is_upgrade=False)
        assert names(engine) == left


def test_the_migrations_make_the_tables_that_the_code_names(fresh: Engine) -> None:
    command.upgrade(ALEMBIC, "head")
    command.check(ALEMBIC)


def test_a_table_that_no_migration_made_is_noticed(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.upgrade(ALEMBIC, "head")
    forgotten = sa.Table("forgotten", metadata, sa.Column("id", sa.Integer, primary_key=True))
    try:
        with pytest.raises(CommandError, match="forgotten"):
            command.check(ALEMBIC)
    finally:
        metadata.remove(forgotten)


def test_a_check_that_no_migration_made_is_noticed(fresh: Engine) -> None:
    command.upgrade(ALEMBIC, "head")
    forgotten = sa.CheckConstraint("headers <= answer", name="ck_forgotten")
    idempotency.KEYS.append_constraint(forgotten)
    try:
        with pytest.raises(CommandError, match="ck_forgotten"):
            command.check(ALEMBIC)
    finally:
        idempotency.KEYS.constraints.remove(forgotten)


def test_each_migration_goes_up_down_and_up_again_on_filled_tables(fresh: Engine) -> None:
    up_and_down(ALEMBIC, fresh)


def test_a_migration_that_is_there_is_not_made_again(fresh: Engine) -> None:
    command.upgrade(ALEMBIC, "head")
    fill(fresh)
    command.upgrade(ALEMBIC, "head")
    with fresh.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM idempotency_keys").scalar() == 1


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lint", ROOT / "migrations" / "lint.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add(
    folder: Path,
    body: str = "pass",
    accepted: str = "",
    revision: str = "tried",
    after: tuple[str, ...] | None = NEWEST,
    undo: str = "pass",
) -> None:
    """Add a migration to a copy of them."""
    text = MIGRATION.format(revision=revision, after=after, body=body, undo=undo, accepted=accepted)
    (folder / "migrations" / "versions" / f"{revision}.py").write_text(text)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the migrations."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations", ignore=ignored)
    return tmp_path


@pytest.fixture
def config(copied: Path) -> Config:
    """Alembic's configuration of that copy."""
    return Config(toml_file=copied / "pyproject.toml", stdout=io.StringIO())


def test_the_migrations_are_safe(lint: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert (lint.main(), capsys.readouterr().out) == (0, "")


@pytest.mark.parametrize(
    ("body", "rule", "way"),
    [
        ('op.drop_column("parcels", "note")', "ban-drop-column", "a later release"),
        ('op.drop_table("parcels")', "ban-drop-table", "a later release"),
        (
            'op.alter_column("parcels", "note", new_column_name="remark")',
            "renaming-column",
            "add the new one",
        ),
        ('op.rename_table("parcels", "packets")', "renaming-table", "add the new one"),
        (
            'op.alter_column("parcels", "note", type_=sa.Integer())',
            "changing-column-type",
            "add the new one",
        ),
        (
            'op.add_column("parcels", sa.Column("x", sa.Integer(), nullable=False))',
            "adding-required-field",
            "default",
        ),
        (
            'op.alter_column("parcels", "note", nullable=False)',
            "adding-not-nullable-field",
            "NOT VALID",
        ),
        (
            'op.create_index("ix", "parcels", ["note"])',
            "require-concurrent-index-creation",
            "autocommit_block",
        ),
        (
            'op.drop_index("ix_parcels_weight", "parcels")',
            "require-concurrent-index-deletion",
            "autocommit_block",
        ),
        (
            'op.create_check_constraint("c", "parcels", "weight < 9")',
            "constraint-missing-not-valid",
            "VALIDATE",
        ),
        (CHANGE, "rows-in-migration", "in batches"),
        (ADD_ENUM, "native-enum", "native_enum=False"),
        (READ, "reads-rows", "in a job"),
    ],
)
def test_a_migration_that_stops_a_service_is_refused_with_the_safe_way(
    lint: ModuleType,
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    body: str,
    rule: str,
    way: str,
) -> None:
    add(copied, body)
    assert lint.main(copied) == 1
    output = capsys.readouterr().out
    assert output.startswith(f"tried.py: {rule}: ")
    assert way in output.partition("instead: ")[2]


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
def test_a_lock_without_a_time_limit_is_refused(lint: ModuleType, setting: str) -> None:
    limits = "SET lock_timeout = '2s'; SET statement_timeout = '1min';".replace(setting, "work_mem")
    sql = f"{limits}\nALTER TABLE parcels ADD COLUMN x int;"
    assert [finding.partition(":")[0] for finding in lint.findings(sql)] == [
        f"require-{setting.replace('_', '-')}"
    ]


@pytest.mark.parametrize(
    "body",
    [
        'op.add_column("parcels", sa.Column("x", sa.Integer()))',
        'op.add_column("parcels", sa.Column("x", sa.Text, nullable=False, server_default=""))',
        'op.create_check_constraint("c", "parcels", "weight < 9", postgresql_not_valid=True)',
        ADD_ENUM.replace("))", ", native_enum=False))"),
        "with op.get_context().autocommit_block():\n"
        '        op.create_index("i", "parcels", ["note"], postgresql_concurrently=True)',
    ],
)
def test_the_safe_way_passes(lint: ModuleType, copied: Path, body: str) -> None:
    add(copied, body)
    assert lint.main(copied) == 0


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("ban-drop-column", 'op.drop_column("parcels", "note")'),
        ("native-enum", ADD_ENUM),
        ("reads-rows", READ),
        ("rows-in-migration", CHANGE),
    ],
)
def test_a_finding_that_is_meant_passes(
    lint: ModuleType, copied: Path, rule: str, body: str
) -> None:
    add(copied, body, f'accepted = {{"{rule}": "unused since 1.4.0"}}\n')
    assert lint.main(copied) == 0


def test_a_rule_that_does_not_exist_is_told(
    lint: ModuleType, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(copied, accepted='accepted = {"no-such-rule": "unused"}\n')
    assert lint.main(copied) == 1
    assert "tried.py: squawk: error: invalid value 'no-such-rule'" in capsys.readouterr().out


def test_two_migrations_of_one_day_with_one_message_are_two_files(config: Config) -> None:
    for _ in range(2):
        command.revision(config, message="add a column")
    assert len(list(ScriptDirectory.from_config(config).walk_revisions())) == len(MIGRATIONS) + 2


@pytest.fixture
def branched(copied: Path) -> Path:
    """A copy with a migration of this branch and one of another."""
    add(copied, revision="here")
    add(copied, revision="there")
    return copied


@pytest.mark.usefixtures("branched")
@pytest.mark.parametrize("is_offline", [True, False])
def test_two_heads_end_in_a_line_that_says_how_to_join_them(
    fresh: Engine, config: Config, is_offline: bool
) -> None:
    with pytest.raises(SystemExit, match=r"2 heads, here and there: join them by .*merge heads"):
        command.upgrade(config, "heads", sql=is_offline)


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ('op.drop_table("parcels")', 1)])
def test_a_merge_is_checked_like_any_migration(
    lint: ModuleType, branched: Path, body: str, status: int
) -> None:
    add(branched, body, revision="merged", after=("here", "there"))
    assert lint.main(branched) == status


def test_a_merge_goes_up_and_down_as_alembic_writes_it(
    branched: Path, config: Config, fresh: Engine
) -> None:
    command.merge(config, "heads", message="merge")
    up_and_down(config, fresh)
    command.upgrade(config, "head")
    written = next((branched / "migrations" / "versions").glob("*_merge.py")).read_text("utf-8")
    assert "down_revision: str | Sequence[str] | None = (" in written


def test_a_check_between_two_columns_that_is_not_valid_goes_up_and_down(
    copied: Path, config: Config, fresh: Engine
) -> None:
    table = 'with op.batch_alter_table("idempotency_keys") as table:\n        table.'
    check = '"ck", "headers <= answer", postgresql_not_valid=True'
    undo = f'{table}drop_constraint("ck", type_="check")'
    add(copied, f"{table}create_check_constraint({check})", undo=undo)
    up_and_down(config, fresh)


TABLE = "CREATE TABLE t (a int, b int, starts_at timestamp, ends_at timestamp, CHECK ({}))"


@pytest.mark.parametrize("rule", ["a < b", "starts_at < ends_at"])
def test_a_row_is_made_up_for_a_check_between_two_columns(fresh: Engine, rule: str) -> None:
    command.upgrade(ALEMBIC, "head")
    with fresh.connect() as connection:
        connection.exec_driver_sql(TABLE.format(rule))
        fill(fresh)
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 1


def test_the_values_of_a_row_that_cannot_be_made_up_are_asked_for(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.upgrade(ALEMBIC, "head")
    with fresh.connect() as connection:
        connection.exec_driver_sql(TABLE.format("b < a"))
    with pytest.raises(pytest.fail.Exception, match="name values for t in ROWS"):
        fill(fresh)
    monkeypatch.setitem(ROWS, "t", {"a": 2, "b": 1})
    fill(fresh)


def upgrade(wait: str = "900") -> "subprocess.Popen[str]":
    arguments = (sys.executable, "-m", "alembic", "-x", f"wait={wait}", "upgrade", "head")
    environment = {**os.environ, "PYTHONPATH": "src", "LOG_FORMAT": "json"}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(  # noqa: S603 the command is this file's own
        arguments, cwd=ROOT, env=environment, text=True, **streams
    )


CREATE_VERSIONS = "CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) PRIMARY KEY)"
KEEP = "SET idle_in_transaction_session_timeout = 0"
LOCK = f"{KEEP}; BEGIN; LOCK TABLE alembic_version IN SHARE UPDATE EXCLUSIVE MODE"
ALL_HERE = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")


@only_postgres
def test_a_migration_that_waits_says_for_whom_and_gives_up(fresh: Engine) -> None:
    with fresh.connect() as connection:
        connection.exec_driver_sql(CREATE_VERSIONS)
        connection.exec_driver_sql(LOCK)
        job = upgrade(wait="1")
        output = job.communicate(timeout=30)[0]
        pid, role = connection.exec_driver_sql("SELECT pg_backend_pid(), current_user").one()
    assert job.returncode == 1
    assert (
        f"waiting up to 1 s for the lock of migrations, held by process {pid} of role {role}"
        in (output)
    )
    assert output.splitlines()[-1].startswith("gave up after 1 s: ")


def test_a_time_to_wait_that_is_no_number_is_refused_in_a_line() -> None:
    job = upgrade(wait="long")
    assert job.communicate(timeout=30)[0] == "-x wait=long: name a number of seconds\n"
    assert job.returncode == 1


@only_postgres
def test_of_two_that_migrate_at_once_one_waits_and_finds_nothing_to_do(fresh: Engine) -> None:
    with fresh.connect() as connection, fresh.connect() as watcher:
        connection.exec_driver_sql(CREATE_VERSIONS)
        connection.exec_driver_sql(LOCK)
        both = [upgrade(), upgrade()]
        wait_until(lambda: watcher.scalar(ALL_HERE) == 6)  # two of each
        time.sleep(1)
        assert names(fresh) == set()
    fresh.dispose()
    outputs = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(output.count("Running upgrade") for output in outputs) == [0, len(MIGRATIONS)]


@only_postgres
def test_a_migration_gives_up_a_lock_before_the_requests_behind_it_do(
    fresh: Engine, tmp_path: Path
) -> None:
    command.upgrade(ALEMBIC, "head")
    with fresh.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("LOCK TABLE idempotency_keys")
        started = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            command.downgrade(ALEMBIC, "base")
        assert time.monotonic() - started < 2
        connection.exec_driver_sql("ROLLBACK")
    command.downgrade(ALEMBIC, "base")


@only_postgres
def test_the_first_migrations_of_a_database_may_create_its_table_of_versions_at_once(
    fresh: Engine,
) -> None:
    with fresh.connect() as connection:
        connection.exec_driver_sql(f"{KEEP}; BEGIN; {CREATE_VERSIONS}")
        job = upgrade()
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        wait_until(lambda: connection.scalar(waiting) == 1)
        connection.commit()
    assert job.communicate(timeout=30)[0].count("Running upgrade") == len(MIGRATIONS)
    assert job.returncode == 0

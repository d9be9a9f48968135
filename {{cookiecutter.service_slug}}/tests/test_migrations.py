"""Migrations: up and down, on empty and filled tables, and one process at a time."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine
from support import wait_until

from database import ALEMBIC
from database import POSTGRES
from database import only_postgres
from service.chassis.data.engine import make_engine
from service.chassis.data.types import metadata
from service.chassis.project import PROJECT
from service.settings import Settings

ROOT = Path(__file__).parents[1]
REVISIONS = [script.revision for script in ScriptDirectory.from_config(ALEMBIC).walk_revisions()][
    ::-1
]
VALUES: dict[type, Any] = {
    int: 1,
    float: 1.0,
    str: "x",
    bytes: b"x",
    bool: True,
    datetime: datetime.now(UTC),
}
MIGRATION = '''"""Tried."""

import sqlalchemy as sa
from alembic import op

revision = "tried"
down_revision = "{last}"
{accepted}

def upgrade() -> None:
    {body}


def downgrade() -> None:
    pass
'''


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


def fill(engine: Engine) -> None:
    """Store a row in each table that has none."""
    found = sa.MetaData()
    found.reflect(engine)
    with engine.connect() as connection:
        for table in found.sorted_tables:
            if (
                table.name != "alembic_version"
                and connection.execute(sa.select(table)).first() is None
            ):
                kinds = {column.name: column.type.python_type for column in table.columns}
                row = {
                    name: VALUES[kind] if kind in VALUES else kind(int=1)
                    for name, kind in kinds.items()
                }
                connection.execute(sa.insert(table), row)


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


def test_each_migration_goes_up_down_and_up_again_on_filled_tables(fresh: Engine) -> None:
    before: list[set[str]] = []
    for revision in REVISIONS:
        before.append(names(fresh))
        command.upgrade(ALEMBIC, revision)
        fill(fresh)
        command.downgrade(ALEMBIC, "-1")
        assert names(fresh) == before[-1]
        command.upgrade(ALEMBIC, revision)
        fill(fresh)
    for left in reversed(before):
        command.downgrade(ALEMBIC, "-1")
        assert names(fresh) == left


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


def project(folder: Path, body: str, accepted: str = "") -> Path:
    """Copy the migrations and add one."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(
        ROOT / "migrations", folder / "migrations", ignore=shutil.ignore_patterns("__pycache__")
    )
    text = MIGRATION.format(last=REVISIONS[-1], body=body, accepted=accepted)
    (folder / "migrations" / "versions" / "tried.py").write_text(text)
    return folder


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
        ("op.execute(\"UPDATE parcels SET note = 'x'\")", "rows-in-migration", "in batches"),
    ],
)
def test_a_migration_that_stops_a_service_is_refused_with_the_safe_way(
    lint: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    body: str,
    rule: str,
    way: str,
) -> None:
    assert lint.main(project(tmp_path, body)) == 1
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
        "with op.get_context().autocommit_block():\n"
        '        op.create_index("i", "parcels", ["note"], postgresql_concurrently=True)',
    ],
)
def test_the_safe_way_passes(lint: ModuleType, tmp_path: Path, body: str) -> None:
    assert lint.main(project(tmp_path, body)) == 0


def test_a_finding_that_is_meant_passes(lint: ModuleType, tmp_path: Path) -> None:
    accepted = 'accepted = {"ban-drop-column": "unused since 1.4.0"}\n'
    assert lint.main(project(tmp_path, 'op.drop_column("parcels", "note")', accepted)) == 0


def upgrade() -> "subprocess.Popen[str]":
    arguments = (sys.executable, "-m", "alembic", "upgrade", "head")
    environment = {**os.environ, "PYTHONPATH": "src", "LOG_FORMAT": "json"}
    return subprocess.Popen(  # noqa: S603 the command is this file's own
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


@only_postgres
def test_of_two_that_migrate_at_once_one_waits_and_finds_nothing_to_do(fresh: Engine) -> None:
    lock = sa.text("SELECT pg_advisory_lock(hashtextextended(:name, 0))")
    all_here = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    with fresh.connect() as connection:
        connection.execute(lock, {"name": f"migrations of {PROJECT.name}"})
        both = [upgrade(), upgrade()]
        wait_until(lambda: connection.scalar(all_here) == 3)
        time.sleep(1)
        assert names(fresh) == set()
    fresh.dispose()
    outputs = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(output.count("Running upgrade") for output in outputs) == [0, len(REVISIONS)]


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

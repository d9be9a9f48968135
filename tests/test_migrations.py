"""The commands of a service that change its tables, and its last release on the newest ones."""

import subprocess
from pathlib import Path

import pytest

from hooks import post_gen_project as hook
from tests.conftest import Bake
from tests.conftest import commit
from tests.conftest import installed
from tests.conftest import make
from tests.conftest import make_passes

pytestmark = pytest.mark.slow

MIGRATION = '''"""Tried."""

import sqlalchemy as sa
from alembic import op

revision = "{name}"
down_revision = "0002"
{more}

def upgrade() -> None:
    {change}


def downgrade() -> None:
    raise NotImplementedError
'''
ADD = 'op.add_column("orders", sa.Column("x", sa.Integer(){}))'
DROP = 'op.drop_column("orders", "note")'


FIRST = '''"""Bookings: the first table."""

import sqlalchemy as sa

from service.chassis.data.types import metadata

TABLE = sa.Table(
    "bookings",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
)
'''


@pytest.fixture
def service(bake: Bake, service_python: Path, tmp_path: Path) -> Path:
    """A service with a database, committed, whose tools are installed."""
    return installed(bake(database="postgresql"), service_python, tmp_path)


@pytest.fixture
def empty(bake: Bake, service_python: Path, tmp_path: Path) -> Path:
    """The same without the sample."""
    return installed(bake(database="postgresql", sample="no"), service_python, tmp_path)


def add(service: Path, change: str, more: str = "", name: str = "tried") -> None:
    path = service / "migrations" / "versions" / f"{name}.py"
    path.write_text(MIGRATION.format(change=change, more=more, name=name), encoding="utf-8")


def previous(service: Path) -> tuple[int, str]:
    return make(service, "test-previous", "ARGS=-q tests/api/test_orders.py")


def test_before_the_first_release_there_is_nothing_to_compare_with(service: Path) -> None:
    assert previous(service) == (0, "no release has a tag yet\n")


def test_a_clone_without_the_tags_is_not_taken_for_one_before_the_first_release(
    service: Path, tmp_path: Path
) -> None:
    hook.git(service, "tag", "v1.0.0")
    shallow = tmp_path / "shallow"
    hook.git(tmp_path, "clone", "--quiet", "--depth=1", "--no-tags", service.as_uri(), str(shallow))
    (shallow / ".venv").symlink_to(service / ".venv")
    code, output = previous(shallow)
    assert (code, "git fetch --unshallow" in output) == (2, True)


def test_the_first_release_with_a_database_has_nothing_to_compare_with(service: Path) -> None:
    hook.git(service, "rm", "-r", "--quiet", "--cached", "migrations")
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    hook.git(service, *author, "commit", "--quiet", "-m", "None")
    hook.git(service, "tag", "v1.0.0")
    assert previous(service) == (0, "v1.0.0 has no database\n")


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (ADD.format(""), True),
        (ADD.format(", nullable=False, server_default='1'"), True),
        (DROP, False),
    ],
    ids=["a new column", "a new column with a default", "a column less"],
)
def test_what_the_last_release_cannot_work_with_fails(
    service: Path, change: str, passes: bool
) -> None:
    hook.git(service, "tag", "v1.0.0")
    add(service, change)
    code, output = previous(service)
    assert "The tests of v1.0.0 on the newest tables:" in output
    assert (code == 0) is passes, output


def test_a_table_that_changed_becomes_a_migration_that_passes_the_checks(service: Path) -> None:
    table = service / "src" / "service" / "storage" / "orders.py"
    text = table.read_text(encoding="utf-8")
    column = '    sa.Column("seen", UtcDateTime),\n'
    table.write_text(text.replace("    sa.CheckC", f"{column}    sa.CheckC"), encoding="utf-8")
    make_passes(service, "migration", "m=see orders")
    written = next((service / "migrations" / "versions").glob("*_see_orders.py"))
    added = 'add_column(sa.Column("seen", sa.DateTime(timezone=True), nullable=True))'
    assert added in written.read_text("utf-8")
    make_passes(service, "lint")
    make_passes(service, "migrate")


def test_two_branches_are_joined_by_the_line_that_refuses_their_two_heads(service: Path) -> None:
    add(service, ADD.format(""), name="here")
    make_passes(service, "migrate")
    add(service, ADD.replace('"x"', '"y"').format(""), name="there")
    for target in ("migrate", "lint-migrations"):
        code, output = make(service, target)
        assert (code, "2 heads, here and there: join them by" in output) == (2, True), output
    told = output.partition("`")[2].partition("`")[0]
    assert told in (service / "database" / "README.md").read_text("utf-8")
    subprocess.run(told.split(), cwd=service, check=True, capture_output=True)
    make_passes(service, "lint")
    make_passes(service, "migrate")


def test_a_migration_needs_a_word_on_what_it_does(service: Path) -> None:
    code, output = make(service, "migration")
    assert (code, 'make migration m="' in output) == (2, True)


def test_a_dangerous_migration_fails_the_lint_and_says_the_safe_way(service: Path) -> None:
    add(service, DROP)
    code, output = make(service, "lint-migrations")
    assert code == 2
    assert "tried.py: ban-drop-column: ALTER TABLE orders DROP COLUMN note;" in output
    assert "instead: " in output
    add(service, DROP, 'accepted = {"ban-drop-column": "unused since 1.0.0"}\n')
    make_passes(service, "lint-migrations")


def test_seeds_can_be_stored_again_and_again(service: Path) -> None:
    told = [make(service, "seed")[1].splitlines()[-1] for _ in range(2)]
    assert told == [f"{count} orders stored in sqlite:///.data/service.db" for count in (3, 0)]


def test_without_the_sample_every_command_works_and_the_first_table_gets_its_migration(
    empty: Path,
) -> None:
    tests = "ARGS=-q tests/test_migrations.py tests/test_database_files.py"
    make_passes(empty, "migrate", "lint", "test", tests)
    (empty / "src" / "service" / "storage" / "bookings.py").write_text(FIRST, encoding="utf-8")
    make_passes(empty, "migration", "m=first")
    written = next((empty / "migrations" / "versions").glob("*_first.py")).read_text("utf-8")
    assert written.count("op.create_table(") == 1
    assert 'down_revision: str | Sequence[str] | None = "0001"' in written
    make_passes(empty, "migrate", "lint", "test", tests)
    commit(empty)
    hook.git(empty, "tag", "v1.0.0")
    make_passes(empty, "test-previous", "ARGS=-q tests/chassis/resources")

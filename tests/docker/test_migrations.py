"""A release that changes the tables of a running service: the release before it works on."""

import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.load import Load
from tests.docker.project import Project
from tests.docker.project import deployed

pytestmark = pytest.mark.docker

TEA = {"reference": "PO-1", "sku": "tea", "quantity": 2}
ROWS = 20_000
FILL = f"""
INSERT INTO orders (reference, sku, quantity, status, amount_cents, id, created_at, version)
SELECT 'OLD-' || n, 'tea', 1, 'open', 425, gen_random_uuid(), now() - n * interval '1 second', 1
FROM generate_series(1, {ROWS}) AS n
"""
# The next release: expanded first, filled in small transactions, then held by a constraint.
EXPAND = """
    op.add_column("orders", sa.Column("priority", sa.Integer(), nullable=True))
    op.alter_column("orders", "priority", server_default="1")
"""
BACKFILL = """
    some = "SELECT id FROM orders WHERE priority IS NULL LIMIT 500"
    batch = f"UPDATE orders SET priority = 1 WHERE id IN ({some})"
    with op.get_context().autocommit_block():
        while op.get_bind().exec_driver_sql(batch).rowcount:
            pass
        op.create_index("ix_orders_priority", "orders", ["priority"], postgresql_concurrently=True)
        # So that the other job has to wait, for as long as the test holds this.
        held = "NOT pg_try_advisory_lock(1) LOOP PERFORM pg_sleep(0.1)"
        op.execute(f"DO $$ BEGIN WHILE {held}; END LOOP; END $$")
"""
CONSTRAIN = """
    check = "CONSTRAINT ck_orders_priority CHECK (priority IS NOT NULL) NOT VALID"
    op.execute(f"ALTER TABLE orders ADD {check}")
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE orders VALIDATE CONSTRAINT ck_orders_priority")
"""
MIGRATION = '''"""A step of the next release."""

import sqlalchemy as sa
from alembic import op

revision = "{number:04}"
down_revision = "{before:04}"


def upgrade() -> None:{steps}
'''


@pytest.fixture(scope="module")
def project(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The service of `make up` with many rows, and the image of the next release."""
    with deployed(bake, tmp_path_factory.mktemp("migrations"), database="postgresql") as project:
        # On a busy machine, requests may wait longer; migrations give up in half of it.
        project.environment["DATABASE_TIMEOUT"] = "30"
        project.make("up")
        project.sql(FILL)
        folder = project.service / "migrations" / "versions"
        for number, steps in enumerate((EXPAND, BACKFILL, CONSTRAIN), 3):
            text = MIGRATION.format(number=number, before=number - 1, steps=steps)
            (folder / f"{number:04}_next.py").write_text(text)
        project.make("image", IMAGE=next_image(project))
        yield project
        docker("rmi", "--force", next_image(project))


def next_image(project: Project) -> str:
    """The name of the next release's image."""
    return f"{project.service.name}:next"


def start_migration(project: Project) -> subprocess.Popen[str]:
    """Start the job of the next release."""
    job = ("run", "--rm", "--no-deps", "-T", f"{project.service.name}-migrate")
    environment = project.environment | {"IMAGE": next_image(project)}
    return subprocess.Popen(
        ("docker", "compose", *job),
        cwd=project.service,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def version(project: Project) -> str:
    """The revision that the database is at."""
    return project.sql("SELECT version_num FROM alembic_version")


def live(client: Client) -> Answer:
    """Take an order through its life; return the first answer that is no success, else the last."""
    made = client("POST", "/v1/orders", TEA | {"reference": uuid.uuid4().hex})
    if made.status != 201:
        return made
    location = made.location
    replaced = TEA | {"reference": uuid.uuid4().hex}
    for method, body in (("GET", None), ("PUT", replaced), ("PATCH", {"quantity": 3})):
        headers = {} if body is None else {"If-Match": "*"}
        answer = client(method, location, body, **headers)
        if answer.status != 200:
            return answer
    return client("DELETE", location, If_Match="*")


def read_list(client: Client) -> Answer:
    """Read the newest orders."""
    return client("GET", "/v1/orders?sort=-created_at&limit=50")


@dataclass
class Migrated:
    """What two jobs at once and clients of the running release saw of the next one's migrations."""

    load: Load
    statuses: list[int]
    outputs: list[str]
    waited: bool


@pytest.fixture(scope="module")
def blocked(project: Project) -> tuple[Load, int, float, str]:
    """Let the job find a lock that somebody holds.

    Return the clients' load, the job's exit status and seconds, and the revision after it.
    """
    with (
        project.holding("LOCK TABLE orders IN ACCESS SHARE MODE"),
        Load(project.port(), live, read_list) as load,
    ):
        started = time.monotonic()
        job = start_migration(project)
        job.communicate(timeout=180)
    return load, job.returncode, time.monotonic() - started, version(project)


@pytest.fixture(scope="module")
def migrated(project: Project, blocked: tuple[Load, int, float, str]) -> Migrated:
    """Run the next release's job twice at once, while the release before it serves."""
    assert blocked[3] == "0002"
    holders = "SELECT count(*) FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock' AND granted"
    holders += " AND relation = 'alembic_version'::regclass"
    jobs_connected = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'owner'"
    with Load(project.port(), live, live, read_list) as load:
        with project.holding("SELECT pg_advisory_lock(1)"):
            jobs = [start_migration(project), start_migration(project)]
            eventually(lambda: project.sql(jobs_connected) == "4", "both jobs are connected")
            waited = project.sql(holders) == "1" and all(job.poll() is None for job in jobs)
        outputs = [job.communicate(timeout=180)[0] for job in jobs]
    return Migrated(load, [job.returncode for job in jobs], outputs, waited)


def failed(load: Load) -> list[Answer]:
    """Answers that are none of success."""
    return [answer for answer in load.answers if answer.status not in (200, 204)]


def test_the_service_itself_cannot_migrate(project: Project) -> None:
    downgrade = ("exec", "-T", project.service.name, "alembic", "downgrade", "base")
    done = project.run("docker", "compose", *downgrade)
    assert done.returncode != 0
    assert "permission denied for table alembic_version" in done.stdout
    assert version(project) == "0002"


@pytest.mark.parametrize("mode", ["SHARE UPDATE EXCLUSIVE", "SHARE", "ACCESS EXCLUSIVE"])
def test_the_service_cannot_take_the_lock_of_migrations(project: Project, mode: str) -> None:
    with pytest.raises(AssertionError, match="permission denied for table alembic_version"):
        project.sql(f"SET ROLE application; BEGIN; LOCK TABLE alembic_version IN {mode} MODE")


def test_a_migration_that_finds_a_lock_gives_up(blocked: tuple[Load, int, float, str]) -> None:
    _, code, seconds, at = blocked
    assert (code != 0, at) == (True, "0002")
    assert seconds < 60  # a statement's own limit is 15 minutes


def test_no_request_fails_behind_a_migration_that_waits_for_a_lock(
    blocked: tuple[Load, int, float, str],
) -> None:
    load = blocked[0]
    assert (load.failures, failed(load)) == ([], [])
    assert len(load.answers) > 20


def test_of_two_jobs_at_once_one_migrates_and_one_waits_and_finds_nothing_to_do(
    project: Project, migrated: Migrated
) -> None:
    assert (migrated.statuses, migrated.waited) == ([0, 0], True), migrated.outputs
    assert "held by process" in "".join(migrated.outputs)
    assert version(project) == "0005"


def test_no_request_fails_while_the_tables_change(migrated: Migrated) -> None:
    assert (migrated.load.failures, failed(migrated.load)) == ([], [])
    assert len(migrated.load.answers) > 100


@pytest.mark.usefixtures("migrated")
def test_every_row_is_filled_and_the_index_is_valid(project: Project) -> None:
    assert project.sql("SELECT count(*) FROM orders WHERE priority IS NULL") == "0"
    assert int(project.sql("SELECT count(*) FROM orders")) >= ROWS
    index = "indexrelid = 'ix_orders_priority'::regclass"
    assert project.sql(f"SELECT indisvalid FROM pg_index WHERE {index}") == "t"


@pytest.mark.usefixtures("migrated")
def test_the_release_before_works_on_the_new_tables(project: Project) -> None:
    with project.replica() as port, closing(Client(port)) as client:
        eventually(lambda: status(port, "/readyz") == 200, "the replica is ready")
        assert [live(client).status, read_list(client).status] == [204, 200]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine ()",
        "CREATE TEMPORARY TABLE mine ()",
        "CREATE SCHEMA mine",
        "CREATE INDEX ON orders (note)",
        "ALTER TABLE orders ADD COLUMN mine integer",
        "DROP TABLE orders",
        "TRUNCATE orders",
        "SELECT lo_create(0)",
        "\\connect postgres",
        "\\connect template1",
        "SET ROLE owner",
        "UPDATE alembic_version SET version_num = '0000'",
    ],
)
def test_the_application_s_role_changes_no_tables(project: Project, statement: str) -> None:
    with pytest.raises(AssertionError, match=r"(ERROR|FATAL):  (permission denied|must be owner)"):
        project.sql(statement, user="application")


def test_a_migration_can_create_a_trusted_extension(project: Project) -> None:
    project.sql("BEGIN; CREATE EXTENSION btree_gist; ROLLBACK", user="owner")


def test_roles_with_other_passwords_are_repaired_by_make_roles(project: Project) -> None:
    project.sql("ALTER ROLE owner PASSWORD 'of another clone'")
    assert "password authentication failed" in start_migration(project).communicate(timeout=60)[0]
    project.make("roles")
    job = start_migration(project)
    output = job.communicate(timeout=60)[0]
    assert job.returncode == 0, output

"""Facts about the database that stand in more than one file."""

import re
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient
from sqlalchemy import make_url
from support import ROOT
from support import found
from support import mentioned
from support import missing_files
from support import named_numbers
from support import text
from test_consistency import default
from test_consistency import makefiles

from service.chassis.data import engine
from service.chassis.project import PROJECT
from service.chassis.server.settings import CONCURRENCY
from service.settings import Settings

CI = [
    name for name in (".gitlab-ci.yml", ".github/workflows/database.yml") if (ROOT / name).exists()
]
COMPOSE: dict[str, Any] = yaml.safe_load(text("compose.database.yaml"))
SERVICES = COMPOSE["services"] | yaml.safe_load(text("compose.yaml"))["services"]
SERVER = SERVICES[f"{PROJECT.name}-db"]
POSTGRES = SERVER["image"].partition("@")[0].rpartition("/")[2]  # without registry and digest
MIGRATE = SERVICES[f"{PROJECT.name}-migrate"]
SERVICE = SERVICES[PROJECT.name]
VARIABLES = dict(pair.split("=", 1) for pair in SERVICE["environment"] if "=" in pair)
ROLES_FILE = text("database/roles.sh")
ROLES = set(re.findall(r"^ALTER ROLE (\w+) LOGIN ", ROLES_FILE, re.MULTILINE))
README = "database/README.md"
CONNECTIONS = 100  # that a PostgreSQL server allows by default


def test_compose_and_ci_run_one_postgresql() -> None:
    for name in CI:
        assert mentioned(r"\bpostgres:\d+", name) <= {POSTGRES}


def test_migrations_are_linted_for_the_postgresql_that_runs() -> None:
    assert found(r"--pg-version=(\d+)", "migrations/lint.py") == POSTGRES.partition(":")[2]


@pytest.mark.parametrize(
    ("environment", "role"),
    [(MIGRATE["environment"], "owner"), (VARIABLES, "application")],
    ids=["migrate", "service"],
)
def test_each_job_signs_in_as_its_own_role(environment: dict[str, str], role: str) -> None:
    url = make_url(environment["DATABASE_URL"])
    assert url.username == role
    assert role in ROLES
    assert url.host == f"{PROJECT.name}-db"
    assert url.database == SERVER["environment"]["POSTGRES_DB"]
    assert environment["DATABASE_PASSWORD_FILE"] == f"/run/secrets/database-{role}"


def test_each_job_gets_its_own_secrets_alone() -> None:
    names = [
        [secret["source"] for secret in service["secrets"]]
        for service in (SERVER, MIGRATE, SERVICE)
    ]
    owner, application = (f"{PROJECT.name}-database-{role}" for role in ("owner", "application"))
    assert names == [list(COMPOSE["secrets"]), [owner], [application]]


def test_a_secret_has_one_name_in_every_container_and_the_slug_outside() -> None:
    mounted = [
        secret for service in (SERVER, MIGRATE, SERVICE) for secret in service.get("secrets", [])
    ]
    assert {secret["source"] for secret in mounted} == {
        f"{PROJECT.name}-{secret['target']}" for secret in mounted
    }


def test_every_name_that_include_brings_together_has_the_slug() -> None:
    names = [*SERVICES, *COMPOSE["volumes"], *COMPOSE["secrets"]]
    assert [name for name in names if not name.startswith(PROJECT.name)] == []


def test_make_writes_the_secrets_that_compose_mounts() -> None:
    names = found(r"^SECRETS := \$\(addprefix \.secrets/,(.+)\)$", "database.mk").split()
    assert {f".secrets/{name}" for name in names} == {
        secret["file"] for secret in COMPOSE["secrets"].values()
    }


def test_every_file_names_the_database_alike() -> None:
    name = SERVER["environment"]["POSTGRES_DB"]
    users = ROLES_FILE + text("database.mk") + text("compose.database.yaml")
    assert set(re.findall(r"--dbname[ =](\w+)", users)) == {name}
    assert set(re.findall(r" ON DATABASE (\w+)", ROLES_FILE)) == {name}
    assert found(r"--format custom (\w+)", "database.mk") == name


def test_make_and_the_readme_name_the_services_of_compose() -> None:
    assert PROJECT.name + found(r"exec -T \$\(NAME\)(\S+)$", "database.mk") in SERVICES
    named = mentioned(r"docker compose (?:exec|start|stop) ([\w-]+)", README)
    named |= mentioned(rf"`({PROJECT.name}-[\w-]+)`", README)
    assert named <= SERVICES.keys()


def test_the_migrations_run_in_the_services_image_with_its_time_limit() -> None:
    assert MIGRATE["image"] == SERVICE["image"]
    limit = MIGRATE["environment"]["DATABASE_TIMEOUT"]
    assert limit == f"${{DATABASE_TIMEOUT:-{default('database_timeout')}}}"


def test_the_readme_names_the_roles() -> None:
    for roles in mentioned(r"\| the roles: (.*) \|$", README):
        assert set(re.findall(r"`(\w+)`", roles)) == ROLES


def test_the_roles_read_the_secrets_that_compose_mounts() -> None:
    read = set(re.findall(r"/run/secrets/([\w-]+)", ROLES_FILE))
    assert read | {SERVER["environment"]["POSTGRES_PASSWORD_FILE"].rpartition("/")[2]} == {
        secret["target"] for secret in SERVER["secrets"]
    }


def test_the_service_waits_for_the_migrations_and_they_for_the_database() -> None:
    assert SERVICE["depends_on"] == {
        f"{PROJECT.name}-migrate": {"condition": "service_completed_successfully"}
    }
    assert MIGRATE["depends_on"] == {f"{PROJECT.name}-db": {"condition": "service_healthy"}}


def test_the_application_s_role_has_the_limits_that_the_service_sets() -> None:
    role = re.findall(r"^ALTER ROLE application SET (\w+) = '?(\w+)", ROLES_FILE, re.MULTILINE)
    assert dict(role) == engine.session_parameters(Settings())


def test_a_statement_ends_before_a_request_has_to() -> None:
    longest = engine.POOL_TIMEOUT + default("database_timeout") + engine.READ_TIMEOUT_MARGIN
    assert longest < min(default("request_timeout"), default("shutdown_grace"))


def test_the_image_has_the_migrations_and_not_the_secrets() -> None:
    kept = mentioned(r"^!([^/\s]+)", ".dockerignore")
    assert "migrations" in kept
    assert not any(name.startswith(".") or name == "database" for name in kept)


@pytest.mark.parametrize("folder", [".data/", ".secrets/", "backups/"])
def test_git_ignores_data_and_secrets(folder: str) -> None:
    assert folder in text(".gitignore").splitlines()


def test_the_connections_last_for_as_many_replicas_as_the_readme_says() -> None:
    for numbers in mentioned(r"(\d+ replicas of \d+) connections", README):
        replicas, connections = numbers.split(" replicas of ")
        assert int(connections) == CONCURRENCY + 1  # one for readiness
        assert int(replicas) * int(connections) < CONNECTIONS


def test_a_limit_that_the_readme_names_is_that_of_the_code() -> None:
    named = named_numbers(README)
    limits = {
        "DATABASE_TIMEOUT": default("database_timeout"),
        "LOCK_TIMEOUT_RATIO": engine.LOCK_TIMEOUT_RATIO,
        "READ_TIMEOUT_MARGIN": engine.READ_TIMEOUT_MARGIN,
        "POOL_TIMEOUT": engine.POOL_TIMEOUT,
    }
    assert {name: limits[name] for name in named} == named


def test_every_metric_that_the_readme_names_is_scraped(client: FlaskClient) -> None:
    scraped = client.get("/metrics").text
    names = mentioned(r"`(db_\w+)`", README)
    assert [name for name in names if f"# TYPE {name} " not in scraped] == []


@pytest.mark.parametrize(
    "name", ["compose.database.yaml", "database.mk", "database/roles.sh", README]
)
def test_every_file_that_a_file_names_exists(name: str) -> None:
    assert missing_files(name) == set()


def test_the_readme_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", makefiles(), re.MULTILINE))
    assert mentioned(r"`make ([a-z-]+)", README) <= targets

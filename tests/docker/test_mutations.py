"""A baked service whose files disagree in one fact fails the consistency test for this fact."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docker.containers import Bake

pytestmark = pytest.mark.slow  # together: each starts an interpreter

SERVER = "src/service/chassis/server"
# The file, the fact, what is written instead, and the test that notices.
MUTATIONS = [
    ("Dockerfile", "EXPOSE 5000", "EXPOSE 8000", "the_port_is"),
    ("Dockerfile", "b'PORT', 5000", "b'PORT', 5001", "the_port_is"),
    ("Dockerfile", "b'PORT'", "b'HTTP_PORT'", "every_environment_name"),
    ("Dockerfile", "GET /livez", "GET /healthz", "every_path"),
    ("Dockerfile", "USER 10001:10001", "USER 0:0", "the_image_runs_as_a_number"),
    ("Dockerfile", "USER 10001:10001", "USER nobody:nogroup", "the_image_runs_as_a_number"),
    ("Dockerfile", "USER 10001:10001", "USER 10001:10002", "the_image_runs_as_a_number"),
    ("Dockerfile", "PATH=/opt/venv/bin", "PATH=/opt/env/bin", "the_image_finds_its_packages"),
    (
        "Dockerfile",
        "src PYTHONPYCACHEPREFIX=/opt/bytecode",
        "src PYTHONPYCACHEPREFIX=/opt/cache",
        "the_image_finds_its_packages",
    ),
    ("service.yaml", "BUCKETS in", "BOUNDS in", "the_manifest_names_the_constant"),
    ("service.yaml", "telemetry/metrics.py", "telemetry/bounds.py", "every_file_that_a_file"),
    ("service.yaml", "`make rules`", "`make alerts`", "every_make_target"),
    ("compose.yaml", "README.md lists", "CONFIG.md lists", "every_file_that_a_file"),
    ("Makefile", "<scripts/smoke.py", "<scripts/probe.py", "every_file_that_a_file"),
    ("Dockerfile", "settimeout(4)", "settimeout(9)", "the_health_check_gives_up"),
    ("Dockerfile", "python:3.14-slim", "python:3.13-slim", "the_python_version"),
    ("Dockerfile", 'title="flask-microservice"', 'title="other"', "the_name_is"),
    ("Dockerfile", "PYTHONPATH=/app/src", "PYTHONPATH=/srv/src", "the_image_finds_the_source"),
    ("Dockerfile", "secret,id=ca", "secret,id=cert", "make_and_the_readme_give_the_build"),
    ("Dockerfile", "TMPDIR=/dev/shm", "TMPDIR=/tmp", "the_image_keeps_uploads"),
    (
        "Dockerfile",
        'CMD ["python", "-m", "service"]',
        'CMD ["flask", "run"]',
        "the_image_starts_what",
    ),
    (".dockerignore", "!pyproject.toml\n", "", "what_the_dockerfile_takes"),
    (".dockerignore", "!src/**/*.py", "!src/**/*.pyi", "the_image_gets_every_kind"),
    (".python-version", "3.14", "3.12", "the_python_version"),
    ("compose.override.yaml", "PORT:-5000", "PORT:-8000", "the_port_is"),
    ("compose.override.yaml", "target: 5000", "target: 8000", "the_port_is"),
    ("compose.override.yaml", "${BIND_", "${HOST_", "every_environment_name"),
    (
        "compose.yaml",
        "stop_grace_period: 30s",
        "stop_grace_period: 20s",
        "compose_waits_for_the_drain",
    ),
    ("compose.yaml", "- LOG_LEVEL", "- LOGLEVEL", "every_environment_name"),
    ("compose.yaml", "mem_limit: 384m", "mem_limit: 95m", "compose_gives_memory"),
    ("compose.yaml", "pids_limit: 200", "pids_limit: 20", "compose_gives_processes"),
    (
        "compose.yaml",
        "image: ${IMAGE:-flask-microservice}",
        "image: ${IMAGE:-service}",
        "the_name_is",
    ),
    ("Makefile", "$${PORT:-5000}", "$${PORT:-5001}", "the_port_is"),
    ("scripts/smoke.py", "localhost:5000", "localhost:5001", "the_port_is"),
    ("scripts/smoke.py", '"/readyz"', '"/ready"', "every_path"),
    ("Makefile", "smoke: ##", "probe: ##", "every_make_target"),
    ("Makefile", "--python-version 3.11", "--python-version 3.12", "the_oldest_python"),
    (".gitlab-ci.yml", "python:3.14-slim", "python:3.13-slim", "the_python_version"),
    (".github/workflows/ci.yml", "run: make smoke", "run: make probe", "every_make_target"),
    ("README.md", "localhost:5000/v1", "localhost:5001/v1", "the_readme_names_no_other_port"),
    (
        "README.md",
        "docker build -t flask-",
        "docker build -t my-",
        "the_readme_names_no_other_image",
    ),
    ("README.md", "/v1/products/tea", "/v1/items/tea", "every_path"),
    ("README.md", "| `PORT` | `5000` |", "| `PORT` | `8000` |", "the_settings_in_the_readme"),
    ("README.md", "`http_server_active_requests`", "`http_server_requests_active`", "every_metric"),
    (
        "README.md",
        "closed after 60 s (`K",
        "closed after 75 s (`K",
        "a_number_that_the_readme_names",
    ),
    (
        "README.md",
        "compose.yaml allows 30 s",
        "compose.yaml allows 3 s",
        "a_number_that_the_readme_names",
    ),
    ("README.md", "`make openapi`", "`make contract`", "every_make_target"),
    ("requirements.txt", "flask==3", "flask==2", "the_lock_pins"),
    ("requirements.txt", "granian==2", "granian==3", "the_tests_run_with_the_versions"),
    (
        "pyproject.toml",
        'requires-python = ">=3.11"',
        'requires-python = ">=3.12"',
        "the_oldest_python",
    ),
    ("pyproject.toml", '"orjson>=3.13,<4",', '"orjson>=3.13,<4", "redis>=5",', "the_lock_pins"),
    (f"{SERVER}/settings.py", "Field(5000,", "Field(8000,", "the_port_is"),
    (
        f"{SERVER}/settings.py",
        "20, ge=1, le=3600",
        "25, ge=1, le=3600",
        "compose_waits_for_the_drain",
    ),
    (f"{SERVER}/settings.py", "= 65_536", "= 9_900_000", "compose_gives_memory"),
    (
        f"{SERVER}/granian.py",
        "KEEP_ALIVE = 60_000",
        "KEEP_ALIVE = 30_000",
        "a_number_that_the_readme",
    ),
    ("src/service/chassis/http/probes.py", '"/readyz"', '"/ready"', "every_path"),
]


# The same of a service with a database.
DATABASE_MUTATIONS = [
    ("compose.yaml", "- compose.database.yaml", "- compose.db.yaml", "every_file_that_a_file"),
    ("compose.database.yaml", "TIMEOUT:-5}", "TIMEOUT:-9}", "the_migrations_run_in"),
    ("compose.database.yaml", "${IMAGE:-flask", "${IMAGE:-other", "the_migrations_run_in"),
    ("compose.database.yaml", "dbname=service", "dbname=other", "every_file_names_the_database"),
    ("compose.database.yaml", "./database/roles.sh", "./database/role.sh", "every_file_that_a"),
    ("database.mk", "$(NAME)-db", "$(NAME)-database", "make_and_the_readme_name"),
    ("database.mk", "database/roles\\.sh", "database/role\\.sh", "every_file_that_a_file"),
    ("database/README.md", "migrations/versions", "migrations/version", "every_file_that_a_file"),
    ("database/README.md", "chassis/resources", "chassis/resource", "every_file_that_a_file"),
    ("database/README.md", "microservice-migrate`", "microservice-job`", "make_and_the_readme"),
    ("database/README.md", "compose stop flask", "compose stop my", "make_and_the_readme_name"),
    ("database/README.md", "`owner` changes", "`admin` changes", "the_readme_names_the_roles"),
    (".github/workflows/ci.yml", "/database.yml", "/db.yml", "every_file_that_a_file"),
    (".github/workflows/database.yml", "test-postgres", "test-postgresql", "every_make_target"),
]


def consistency(python: Path, service: Path, test: str = "") -> str:
    """Run the service's consistency tests of that name and return what pytest reports."""
    options = ("-p", "no:cacheprovider", "-q", "--tb=no", "-k", test)
    names = ("test_consistency.py", "test_database_files.py")
    files = [path for name in names if (path := service / "tests" / name).exists()]
    command = (str(python), "-m", "pytest", *options, *map(str, files))
    environment = {"PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=service, env=environment, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize("ci", ["github", "gitlab", "none"])
def test_a_service_as_baked_agrees_with_itself(
    bake: Bake, service_python: Path, tmp_path: Path, ci: str
) -> None:
    report = consistency(service_python, shutil.copytree(bake(ci=ci), tmp_path / "service"))
    assert (" passed" in report, "failed" in report) == (True, False), report


@pytest.mark.parametrize(("name", "fact", "instead", "test"), MUTATIONS)
def test_a_disagreement_is_noticed(
    bake: Bake, service_python: Path, tmp_path: Path, name: str, fact: str, instead: str, test: str
) -> None:
    service = bake(ci="gitlab") if name == ".gitlab-ci.yml" else bake()
    report = consistency(service_python, mutated(service, tmp_path, name, fact, instead), test)
    assert f"test_{test}" in report, report


@pytest.mark.parametrize(("name", "fact", "instead", "test"), DATABASE_MUTATIONS)
def test_a_disagreement_about_the_database_is_noticed(
    bake: Bake, service_python: Path, tmp_path: Path, name: str, fact: str, instead: str, test: str
) -> None:
    service = bake(database="postgresql")
    report = consistency(service_python, mutated(service, tmp_path, name, fact, instead), test)
    assert f"test_{test}" in report, report


def mutated(service: Path, folder: Path, name: str, fact: str, instead: str) -> Path:
    """Return a copy of the service in which one file says something else."""
    copy = shutil.copytree(service, folder / "service")
    text = (copy / name).read_text("utf-8")
    assert fact in text, f"{name} has no {fact!r} any more: mutate another fact"
    (copy / name).write_text(text.replace(fact, instead, 1), "utf-8")
    return copy

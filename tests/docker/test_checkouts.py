"""A service in the checkouts that people have: umasks, line endings of Windows, used volumes."""

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import commit
from tests.docker.containers import Bake
from tests.docker.containers import eventually
from tests.docker.containers import status
from tests.docker.containers import told
from tests.docker.project import Project
from tests.docker.project import copied
from tests.docker.project import removed

pytestmark = pytest.mark.docker

UMASKS = (0o000, 0o002, 0o022, 0o077)


def clone(source: Path, target: Path, umask: int) -> Path:
    """Clone as Git for Windows does by default, under a umask; return the clone."""
    command = ("git", "-c", "core.autocrlf=true", "clone", "--quiet", str(source), str(target))
    subprocess.run(command, check=True, umask=umask)
    return target


def test_every_checkout_gives_the_same_bytes_by_the_command_of_the_readme(
    bake: Bake, tmp_path: Path
) -> None:
    source = commit(copied(bake, tmp_path, database="postgresql"))
    readme = (source / "README.md").read_text("utf-8")
    (line,) = re.findall(r"`(SOURCE_DATE_EPOCH=0 docker .+type=tar,dest=(?:\S+) \.)`", readme)
    digests = set()
    clones = [clone(source, tmp_path / f"{umask:03o}", umask) for umask in UMASKS]
    for folder in (source, *clones):
        subprocess.run(line, shell=True, cwd=folder, check=True, capture_output=True)
        digests.add(hashlib.sha256((folder / "image.tar").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.fixture(scope="module")
def project(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The service of `make up` in a clone with CRLF configured, which nobody else may read."""
    folder = tmp_path_factory.mktemp("checkouts")
    source = commit(copied(bake, folder, database="postgresql"))
    service = clone(source, folder / "clone" / source.name, 0o077)
    project = Project(service, f"{source.name}:test", umask=0o077)
    with removed(project):
        project.make("up")
        yield project


def test_a_private_checkout_with_line_endings_of_windows_serves_its_database(
    project: Project,
) -> None:
    eventually(lambda: status(project.port(), "/v1/orders") == 200, "orders are listed")


def test_a_database_without_its_roles_is_not_healthy(project: Project) -> None:
    def health() -> str:
        found: str = project.container(project.database)["State"]["Health"]["Status"]
        return found

    assert health() == "healthy"
    project.sql("ALTER ROLE application RENAME TO lost")
    eventually(lambda: health() == "unhealthy", "unhealthy")
    project.sql("ALTER ROLE lost RENAME TO application")
    eventually(lambda: health() == "healthy", "healthy again")


def test_the_volume_of_another_clone_ends_a_migration_in_one_line_that_says_what_to_do(
    project: Project,
) -> None:
    project.compose("down")
    for secret in (project.service / ".secrets").iterdir():
        secret.unlink()
    assert project.run("make", "up").returncode != 0
    log = told(("docker", "logs", project.container(f"{project.service.name}-migrate")["Id"]))
    (line,) = log.splitlines()
    assert 'password authentication failed for user "owner"' in line
    assert "database/README.md" in line

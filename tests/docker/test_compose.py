"""A baked service as compose and the service's own make targets run it."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.containers import KILL_WORKERS
from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status

pytestmark = pytest.mark.docker


class Project:
    """A copy of a service under a name of its own, so that nothing of the machine's is touched."""

    def __init__(self, service: Path, image: str) -> None:
        """Know the image; start nothing."""
        self.service = service
        self.environment = {**os.environ, "IMAGE": image, "PORT": "0"}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's folder, both outputs in one."""
        merged = {**self.environment, **environment}
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run(command, cwd=self.service, env=merged, **streams)

    def make(self, *arguments: str, **environment: str) -> str:
        """Run make, which must succeed."""
        done = self.run("make", *arguments, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def container(self) -> dict[str, Any]:
        """What Docker knows of the one container."""
        found = self.run("docker", "compose", "ps", "--all", "--quiet").stdout.strip()
        inspected: list[dict[str, Any]] = json.loads(docker("inspect", found))
        return inspected[0]


@pytest.fixture(scope="module")
def project(bake: Bake, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The service under a slug that no other project has, its image built."""
    slug = f"compose-{uuid.uuid4().hex[:8]}"
    service = shutil.copytree(bake(service_slug=slug), tmp_path_factory.mktemp("compose") / slug)
    project = Project(service, f"{image}:compose")
    project.make("image")
    yield project
    project.run("docker", "compose", "down", "--timeout", "0")


@pytest.fixture(scope="module")
def up(project: Project) -> Iterator[dict[str, Any]]:
    """The running container of `make up`."""
    project.make("up")
    yield project.container()
    project.make("down")


def test_compose_accepts_the_file(project: Project) -> None:
    done = project.run("docker", "compose", "config", "--quiet")
    assert (done.returncode, done.stdout) == (0, "")


def test_make_up_waits_until_it_is_healthy(up: dict[str, Any]) -> None:
    assert up["State"]["Health"]["Status"] == "healthy"


def test_make_up_serves_on_the_published_port(up: dict[str, Any]) -> None:
    port = int(up["NetworkSettings"]["Ports"]["5000/tcp"][0]["HostPort"])
    assert status(port, "/v1/products") == 200


def test_the_container_is_hardened(up: dict[str, Any]) -> None:
    host = up["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (True, ["ALL"], ["no-new-privileges:true"])


def test_the_container_is_limited(up: dict[str, Any]) -> None:
    host = up["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (256 * 1024 * 1024, 1_000_000_000, 100)


def test_the_log_of_the_container_is_limited(up: dict[str, Any]) -> None:
    assert up["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


def test_a_setting_of_the_shell_reaches_the_service(project: Project) -> None:
    shown = project.run("docker", "compose", "run", "--rm", project.service.name, "python", "-m", "service", "config")
    assert "LOG_LEVEL=INFO" in shown.stdout.splitlines()
    command = ("docker", "compose", "run", "--rm", project.service.name, "python", "-m", "service", "config")
    assert "LOG_LEVEL=DEBUG" in project.run(*command, LOG_LEVEL="DEBUG").stdout.splitlines()


def test_compose_stops_it_without_a_kill(project: Project) -> None:
    project.make("up")
    project.run("docker", "compose", "stop")
    assert project.container()["State"]["ExitCode"] == 0


def test_a_crash_is_followed_by_a_restart(project: Project) -> None:
    project.make("up")
    project.run("docker", "compose", "exec", "-T", project.service.name, "python", "-c", KILL_WORKERS)
    eventually(lambda: project.container()["RestartCount"] > 0, "restarted")


def test_make_smoke_passes_and_leaves_nothing(project: Project) -> None:
    assert "exit code after SIGTERM: 0" in project.make("smoke")
    assert docker("ps", "--all", "--quiet", "--filter", f"name={project.service.name}-smoke") == ""


def test_make_smoke_fails_for_an_image_that_does_not_start(project: Project) -> None:
    (project.service / "Dockerfile.broken").write_text(f'FROM {project.environment["IMAGE"]}\nCMD ["false"]\n')
    broken = f"{project.environment['IMAGE']}-broken"
    docker(
        "build", "--quiet", "--tag", broken, "--file", str(project.service / "Dockerfile.broken"), str(project.service)
    )
    assert project.run("make", "smoke", IMAGE=broken).returncode != 0
    docker("rmi", broken)


def test_make_image_labels_the_project_s_version(project: Project) -> None:
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", project.environment["IMAGE"]))
    assert labels["org.opencontainers.image.version"] == "0.1.0"

"""A baked service as compose and the service's own make targets run it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import kill_worker
from tests.docker.containers import status
from tests.docker.project import Project
from tests.docker.project import deployed

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def project(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The service under a slug that no other project has, its image built."""
    with deployed(bake, tmp_path_factory.mktemp("compose")) as project:
        yield project


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


@pytest.mark.usefixtures("up")
def test_make_up_serves_on_the_published_port(project: Project) -> None:
    assert status(project.port(), "/v1/products") == 200


def test_only_this_machine_reaches_the_published_port(up: dict[str, Any]) -> None:
    published = up["NetworkSettings"]["Ports"]["5000/tcp"]
    assert {binding["HostIp"] for binding in published} == {"127.0.0.1"}


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_others_reach_the_published_port_where_that_is_asked_for(
    project: Project, address: str
) -> None:
    command = ("docker", "compose", "config", "--format", "json")
    document = json.loads(project.run(*command, BIND_ADDRESS=address).stdout)
    (port,) = document["services"][project.service.name]["ports"]
    assert port["host_ip"] == address


def test_the_container_is_hardened(up: dict[str, Any]) -> None:
    host = up["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])


def test_the_container_is_limited(up: dict[str, Any]) -> None:
    host = up["HostConfig"]
    assert (host["Memory"], host["ShmSize"]) == (384 * 1024 * 1024, 32 * 1024 * 1024)
    assert (host["NanoCpus"], host["PidsLimit"]) == (1_000_000_000, 200)


def test_the_log_of_the_container_is_limited(up: dict[str, Any]) -> None:
    assert up["HostConfig"]["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


def test_a_setting_of_the_shell_reaches_the_service(project: Project) -> None:
    config = ("python", "-m", "service", "config")
    command = ("docker", "compose", "run", "--rm", project.service.name, *config)
    assert "LOG_LEVEL=INFO" in project.run(*command).stdout.splitlines()
    assert "LOG_LEVEL=DEBUG" in project.run(*command, LOG_LEVEL="DEBUG").stdout.splitlines()


def test_compose_stops_it_without_a_kill(project: Project) -> None:
    project.make("up")
    project.run("docker", "compose", "stop")
    assert project.container()["State"]["ExitCode"] == 0


def test_a_crash_is_followed_by_a_restart(project: Project) -> None:
    project.make("up")
    kill_worker(project.container()["Id"])
    eventually(lambda: project.container()["RestartCount"] > 0, "restarted")


def left_of_smoke(project: Project) -> list[str]:
    """Return what Docker still has of the project of `make smoke`."""
    label = f"label=com.docker.compose.project={project.service.name}-smoke"
    kinds = {"container": ("--all",), "network": (), "volume": ()}
    left = (docker(kind, "ls", "-q", *all_, "--filter", label) for kind, all_ in kinds.items())
    return [name for names in left for name in names.split()]


def test_make_smoke_passes_and_leaves_nothing(project: Project) -> None:
    assert "exit code after SIGTERM: 0" in project.make("smoke")
    assert left_of_smoke(project) == []


def test_make_smoke_leaves_nothing_of_a_database(bake: Bake, tmp_path: Path) -> None:
    with deployed(bake, tmp_path, database="postgresql") as project:
        project.make("smoke")
        assert left_of_smoke(project) == []


def test_make_smoke_fails_for_an_image_that_does_not_start(project: Project) -> None:
    dockerfile = project.service / "Dockerfile.broken"
    dockerfile.write_text(f'FROM {project.image}\nCMD ["false"]\n')
    broken = f"{project.image}-broken"
    options = ("--quiet", "--tag", broken, "--file", str(dockerfile))
    docker("build", *options, str(project.service))
    assert project.run("make", "smoke", IMAGE=broken).returncode != 0
    docker("rmi", broken)


def test_make_image_labels_the_project_s_version(project: Project) -> None:
    labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", project.image))
    assert labels["org.opencontainers.image.version"] == "0.1.0"


def test_a_service_without_the_sample_is_probed_and_served_alike(
    bake: Bake, tmp_path: Path
) -> None:
    with deployed(bake, tmp_path, database="postgresql", sample="no") as project:
        assert "exit code after SIGTERM: 0" in project.make("smoke")
        project.make("up")
        eventually(lambda: status(project.port(), "/readyz") == 200, "it is ready")

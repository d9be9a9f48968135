"""`make pin`, with a registry of the tests' own in the place of the public ones."""

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status
from tests.docker.project import Project

pytestmark = pytest.mark.docker

FILES = ("Dockerfile", "compose.database.yaml")
PLACE = re.compile(r"(?:FROM|image:) (?:ghcr\.io/astral-sh/)?((?:uv|python|postgres):[\w.-]+)")
CONTENT = "ghcr.io/astral-sh/uv:0.13.9"  # what all images of the registry hold: it is small


@pytest.fixture
def registry() -> Iterator[str]:
    """The address of an empty registry."""
    container = docker("run", "--detach", "--publish", "127.0.0.1::5000", "registry:2")
    try:
        port = int(docker("port", container, "5000").rpartition(":")[2])
        eventually(lambda: status(port, "/v2/") == 200, "the registry answers")
        yield f"127.0.0.1:{port}"
    finally:
        docker("rm", "--force", "--volumes", container)


@pytest.fixture
def project(bake: Bake, registry: str, tmp_path: Path) -> Project:
    """A service whose base images are in that registry."""
    service = shutil.copytree(bake(database="postgresql"), tmp_path / "service")
    for name in FILES:
        text = (service / name).read_text("utf-8")
        for image in PLACE.findall(text):
            push(CONTENT, f"{registry}/{image}")
        text = PLACE.sub(lambda match: match[0].split()[0] + f" {registry}/{match[1]}", text)
        (service / name).write_text(text, "utf-8")
    return Project(service, "none")


def push(content: str, name: str) -> None:
    """Push a local image under another name."""
    docker("tag", content, name)
    docker("push", "--quiet", name)
    docker("rmi", name)


def pins(project: Project) -> dict[str, str]:
    """Pin the base images; return their digests by their names."""
    project.make("pin")
    texts = "".join((project.service / name).read_text("utf-8") for name in FILES)
    pinned = r"^(?:FROM|    image:) [^/ ]+/([^ @$]+)@(sha256:[0-9a-f]{64})(?: AS \w+)?$"
    return dict(re.findall(pinned, texts, re.MULTILINE))


def test_make_pin_pins_every_base_image_and_renews_the_pins(
    project: Project, registry: str
) -> None:
    first = pins(project)
    assert sorted(first) == ["postgres:18", "python:3.14-slim", "uv:0.13.9"]
    assert pins(project) == first
    docker("build", "--quiet", "--target", "base", str(project.service))
    changed = f"{registry}/postgres:18"
    docker(
        "build", "--quiet", "--tag", changed, "-", stdin=f"FROM {CONTENT}\nLABEL new={uuid.uuid4()}"
    )
    push(changed, changed)
    assert {name for name, digest in pins(project).items() if digest != first[name]} == {
        "postgres:18"
    }


def test_a_service_with_pins_agrees_with_itself(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    service = shutil.copytree(bake(database="postgresql"), tmp_path / "service")
    for name in FILES:
        text = (service / name).read_text("utf-8")
        pinned = PLACE.sub(rf"\g<0>@sha256:{'0' * 64}", text)
        assert pinned != text
        (service / name).write_text(pinned, "utf-8")
    options = ("-p", "no:cacheprovider", "-q", "tests/test_consistency.py")
    command = (service_python, "-m", "pytest", *options, "tests/test_database_files.py")
    environment = {"PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=service, env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
    variables = (
        Project(service, "none").run("make", "--print-data-base", "--question", "help").stdout
    )
    assert f"\nPOSTGRES := postgres:18@sha256:{'0' * 64}\n" in variables

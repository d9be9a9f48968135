"""The fixtures of this folder: one image for all tests, and containers that end with a test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.containers import Bake
from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import build
from tests.docker.containers import docker


@pytest.fixture(scope="session")
def service(bake: Bake) -> Path:
    """The service as baked by default; not to be changed."""
    return bake()


@pytest.fixture(scope="session")
def image(service: Path) -> Iterator[str]:
    """The name of its image."""
    tag = f"template-test-{uuid.uuid4().hex[:12]}"
    build(service, tag, "--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc")
    yield tag
    docker("rmi", "--force", *docker("images", "--format", "{{.Repository}}:{{.Tag}}", tag).split())


@pytest.fixture
def run(image: str) -> Iterator[Run]:
    """Return `run(*options, image=...)`, which starts a hardened container on a free port."""
    started: list[Container] = []

    def start(*options: str, image: str = image) -> Container:
        publish = () if "--network" in options else ("--publish", "127.0.0.1::5000")
        started.append(Container(image, *publish, *options))
        return started[-1]

    yield start
    for container in started:
        container.remove()

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
from tests.docker.project import copied
from tests.docker.system import Shop
from tests.docker.system import built
from tests.docker.system import system

# What tests ask the service behind the gateway for: what reached it, and an answer that takes time.
VIEWS = """

def add_views(app: Application) -> None:
    import socket
    import time

    from flask import jsonify, request

    def echo() -> object:
        length = len(request.get_data())
        name = socket.gethostname()
        return jsonify({"host": name, "headers": dict(request.headers), "length": length})

    def slow() -> object:
        time.sleep(float(request.args["seconds"]))
        return jsonify({})

    for view in (echo, slow):
        path = f"/v1/{view.__name__}"
        app.add_url_rule(path, view.__name__, view, methods=["GET", "POST"])


def with_views() -> Application:
    app = made()
    add_views(app)
    return app


made = create_app
create_app = with_views
"""


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


@pytest.fixture(scope="session")
def shop(
    bake: Bake, bake_platform: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A platform with two replicas of a service behind its gateway; tests leave it as it was."""
    folder = tmp_path_factory.mktemp("shop") / "a shop"
    folder.mkdir()
    service = copied(bake, folder, database="postgresql")
    with built(service, VIEWS), system(bake_platform, folder) as platform:
        platform.list_service(service)
        platform.up("--scale", f"{service.name}=2")
        made = Shop(platform, service.name)
        platform.reaches(f"/{service.name}/v1/products/tea")
        yield made

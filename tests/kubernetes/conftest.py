"""A cluster to roll out on: one node on this machine, whose containerd takes images from Docker.

It has Kubernetes's programs beside the file that KUBECONFIG names, and no registry, cluster DNS,
metrics server, operator or enforcement of network policies: nothing is claimed from it about
these. Its API is v1.20, so an overlay for the tests alone gives the older forms of what is newer.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.conftest import install
from tests.docker.containers import build
from tests.docker.containers import docker
from tests.docker.project import copied
from tests.kubernetes.cluster import HOME
from tests.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with a namespace of the tests' own."""
    if not (HOME / "bin" / "kubelet").exists():
        pytest.fail(f"KUBECONFIG names no cluster of this machine's own: see {__file__}")
    cluster = Cluster(f"test-{uuid.uuid4().hex[:8]}")
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="session")
def service(
    bake: Bake, service_python: Path, tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> Path:
    """A service with a database and events, and an overlay that fits the cluster."""
    folder = tmp_path_factory.mktemp("kubernetes")
    answers = {"database": "postgresql", "messaging": "rabbitmq", "kubernetes": "yes"}
    service = copied(bake, folder, **answers)
    install(service, service_python)
    cluster.adopt(service)
    return service


# Releases beside the first: what is added to its image.
ADDITIONS = {
    "two": "LABEL release=two",
    "broken": 'CMD ["python", "-m", "service", "no-such-command"]',
    "unmigrated": "COPY migration.py migrations/versions/9999_broken.py",
    "failing": "COPY app.py src/service/app.py",
}
MIGRATION = """
revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    raise RuntimeError("a migration that fails")
"""
FAILING = """
made = create_app


def create_app(settings: Settings | None = None) -> Application:
    app = made(settings)
    app.before_request(lambda: 1 / 0)
    return app
"""


@pytest.fixture(scope="session")
def images(service: Path, cluster: Cluster) -> Iterator[dict[str, str]]:
    """The names of the images of some releases."""
    name = f"docker.io/library/{service.name}"
    made = {release: f"{name}:{release}" for release in ("one", *ADDITIONS)}
    folder = service.parent / "releases"
    folder.mkdir()
    versions = (service / "migrations" / "versions").glob("*.py")
    head = max(path.stem.split("_")[0] for path in versions)
    (folder / "migration.py").write_text(MIGRATION.format(head=head))
    app = (service / "src" / "service" / "app.py").read_text("utf-8")
    (folder / "app.py").write_text(app + FAILING)
    try:
        build(service, made["one"])
        for release, line in ADDITIONS.items():
            (folder / "Dockerfile").write_text(f"FROM {made['one']}\n{line}\n")
            build(folder, made[release])
        cluster.load(*made.values())
        yield made
    finally:
        cluster.unload(*made.values())
        docker("rmi", "--force", *made.values())


@pytest.fixture(scope="module")
def deployed(cluster: Cluster, images: dict[str, str]) -> Cluster:
    """The cluster with the first release rolled out."""
    cluster.passes("deploy", IMAGE=images["one"])
    cluster.settle(2)
    return cluster

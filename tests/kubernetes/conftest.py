"""A cluster to roll out on: one node on this machine, whose containerd takes images from Docker.

It has Kubernetes's programs in HOME, and no registry, cluster DNS, metrics server, operator or
enforcement of network policies: nothing is claimed from it about these. Its API is v1.20, so
an overlay for the tests alone gives the older forms of what is newer.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.docker.containers import build
from tests.docker.containers import docker
from tests.docker.project import copied
from tests.kubernetes.cluster import HOME
from tests.kubernetes.cluster import Cluster

os.environ.setdefault("KUBECONFIG", str(HOME / "kubeconfig"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with a namespace of the tests' own."""
    if not (HOME / "bin" / "kubelet").exists():
        pytest.fail(f"these tests need a cluster of this machine's own in {HOME}: see {__file__}")
    cluster = Cluster(f"test-{uuid.uuid4().hex[:8]}")
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="session")
def service(bake: Bake, tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Path:
    """A service with a database, and an overlay that fits the cluster."""
    folder = tmp_path_factory.mktemp("kubernetes")
    service = copied(bake, folder, database="postgresql", kubernetes="yes")
    cluster.adopt(service)
    return service


@pytest.fixture(scope="session")
def images(service: Path, cluster: Cluster) -> Iterator[dict[str, str]]:
    """Releases by name: two that work, one that does not start, one whose migration fails."""
    name = f"docker.io/library/{service.name}"
    made = {release: f"{name}:{release}" for release in ("one", "two", "broken", "unmigrated")}
    build(service, made["one"])
    additions = {
        "two": "LABEL release=two",
        "broken": 'CMD ["python", "-m", "service", "no-such-command"]',
        "unmigrated": "COPY broken.py migrations/versions/9999_broken.py",
    }
    versions = service / "migrations" / "versions"
    head = max(path.stem.split("_")[0] for path in versions.glob("*.py"))
    try:
        for release, line in additions.items():
            folder = service.parent / release
            folder.mkdir()
            (folder / "Dockerfile").write_text(f"FROM {made['one']}\n{line}\n")
            (folder / "broken.py").write_text(
                f'revision = "9999"\ndown_revision = "{head}"\n\n\n'
                'def upgrade() -> None:\n    raise RuntimeError("a migration that fails")\n'
            )
            build(folder, made[release])
        cluster.load(*made.values())
        yield made
    finally:
        cluster.unload(*made.values())
        docker("rmi", "--force", *made.values())

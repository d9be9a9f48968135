"""Two services with databases that one compose file brings together by `include`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.project import Project
from tests.docker.project import copied

pytestmark = pytest.mark.docker

CALL = """
import sys, urllib.request
headers = {"Content-Type": "application/json", "Idempotency-Key": "1"}
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode() or None, headers)
print(urllib.request.urlopen(request).read().decode())
"""
ORDER = {"reference": "PO-1", "sku": "tea", "quantity": 2}


class System(Project):
    """The project that joins services."""

    def __init__(self, folder: Path, *services: Path) -> None:
        """Write its compose file into the folder that holds the services."""
        super().__init__(folder, "")
        self.names = [service.name for service in services]
        for name in ("IMAGE", "PORT"):
            del self.environment[name]
        files = [f"./{name}/compose.yaml" for name in self.names]
        content = {"name": f"system-{self.names[0]}", "include": files}
        (folder / "compose.yaml").write_text(json.dumps(content), "utf-8")

    def call(self, caller: str, called: str, order: dict[str, Any] | None = None) -> Any:
        """Ask for the called service's orders from the caller's container, or store one."""
        address = f"http://{called}:5000/v1/orders"
        command = ("exec", "-T", caller, "python", "-c", CALL, address)
        return json.loads(self.compose(*command, json.dumps(order) if order else ""))


@pytest.fixture(scope="module")
def system(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two services under a path with a space, built and running."""
    folder = tmp_path_factory.mktemp("joined") / "a system"
    services = [copied(bake, folder, database="postgresql") for _ in range(2)]
    system = System(folder, *services)
    try:
        system.compose("build", "--quiet")
        system.compose("up", "--no-build", "--detach", "--wait")
        yield system
    finally:
        print(system.run("docker", "compose", "logs", "--no-color", "--tail", "50").stdout)
        system.run("docker", "compose", "down", "--volumes", "--timeout", "0")
        docker("rmi", "--force", *system.names)


def test_two_joined_services_reach_each_other_and_share_no_row(system: System) -> None:
    one, other = system.names
    system.call(other, one, ORDER)
    assert [len(system.call(one, name)["items"]) for name in (one, other)] == [1, 0]


def test_two_joined_services_have_volumes_and_secrets_of_their_own(system: System) -> None:
    document = json.loads(system.compose("config", "--format", "json"))
    for kind, count in (("volumes", 1), ("secrets", 3)):
        owners = [name for name in system.names for key in document[kind] if name in key]
        assert sorted(owners) == sorted(system.names * count), kind
    files = {secret["file"] for secret in document["secrets"].values()}
    assert len(files) == len(document["secrets"])


def test_two_joined_services_publish_no_port(system: System) -> None:
    document = json.loads(system.compose("config", "--format", "json"))
    assert [name for name, service in document["services"].items() if "ports" in service] == []

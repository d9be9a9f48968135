"""A baked platform and services behind its gateway, under names of their own."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from typing import NamedTuple

import yaml

from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import fetch
from tests.docker.containers import status

GATEWAY = "gateway"


class System:
    """A platform in a folder of its own, whose containers end with it."""

    def __init__(self, root: Path) -> None:
        """Know its folder; start nothing."""
        self.root = root
        self.port = 0
        self.environment = {**os.environ, "PORT": "0", "PYTHONPATH": str(root / "src")}

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the platform's folder, both outputs in one."""
        merged = {**self.environment, **environment}
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(command, cwd=self.root, env=merged, text=True, **streams)

    def compose(self, *arguments: str) -> str:
        """Run compose, which must succeed."""
        done = self.run("docker", "compose", *arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def fleet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the platform's commands, as make does."""
        return self.run(sys.executable, "-B", "-m", "fleet", *arguments)

    def apply(self) -> None:
        """Let the gateway take its files, which must be good."""
        done = self.fleet("gateway")
        assert done.returncode == 0, done.stdout

    def up(self, *options: str) -> None:
        """Start what is not running, and wait until it is healthy."""
        self.apply()
        self.compose("up", "--no-build", "--detach", "--wait", *options)
        self.find_port()

    def find_port(self) -> None:
        """Learn the port of 127.0.0.1 that leads to the gateway; another start gives another."""
        self.port = int(self.compose("port", GATEWAY, "8080").rpartition(":")[2])

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's replicas."""
        return self.compose("ps", "--quiet", service).split()

    def inside(self, path: str) -> str:
        """Return what the gateway answers on its internal port, asked from within."""
        ask = f"GET {path} HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n"
        script = f'exec 3<>/dev/tcp/127.0.0.1/8081; printf "{ask}" >&3; cat <&3'
        return self.compose("exec", "-T", GATEWAY, "bash", "-c", script)

    def log(self) -> list[dict[str, Any]]:
        """Return the gateway's lines of requests; all of its lines must be JSON."""
        (container,) = self.containers(GATEWAY)
        done = subprocess.run(("docker", "logs", container), capture_output=True, text=True)
        lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
        return [line for line in lines if line["logger"] == "gateway.access"]

    def list_service(self, service: Path) -> None:
        """Write what joining writes: the service's line and its route."""
        document = yaml.safe_load((self.root / "services.yaml").read_text("utf-8"))
        included = [*(document["include"] or []), f"../{service.name}/compose.yaml"]
        (self.root / "services.yaml").write_text(yaml.safe_dump({"include": included}), "utf-8")
        route = service / "deploy/gateway/route.yaml"
        shutil.copy(route, self.root / "routes" / f"{service.name}.yaml")

    @contextmanager
    def changed(self, name: str, change: Callable[[str], str]) -> Iterator[None]:
        """Change one file for a while, and let the gateway take it before and after."""
        path = self.root / name
        before = path.read_text("utf-8") if path.exists() else ""
        path.parent.mkdir(exist_ok=True)
        path.write_text(change(before), "utf-8")
        assert path.read_text("utf-8") != before
        try:
            self.apply()
            yield
        finally:
            path.write_text(before, "utf-8")
            self.apply()

    def reaches(self, path: str) -> None:
        """Wait until the gateway has taken a path."""
        try:
            eventually(lambda: status(self.port, path) == 200, f"{path} is reached")
        except AssertionError:
            print(fetch(self.port, path), self.inside("/metrics"))
            raise

    def services(self) -> Any:
        """Return what the gateway lists."""
        return json.loads(fetch(self.port, "/")[2])["services"]


class Shop(NamedTuple):
    """A running platform with one service."""

    platform: System
    service: str

    @property
    def port(self) -> int:
        """The gateway's port."""
        return self.platform.port

    def path(self, rest: str) -> str:
        """Return a path of the service as the gateway has it."""
        return f"/{self.service}{rest}"


@contextmanager
def system(bake_platform: Bake, folder: Path) -> Iterator[System]:
    """Yield a copy of a baked platform in `folder`; in the end remove what it left in Docker."""
    slug = f"platform-{uuid.uuid4().hex[:8]}"
    made = System(Path(shutil.copytree(bake_platform(platform_slug=slug), folder / slug)))
    try:
        yield made
    finally:
        print(made.run("docker", "compose", "logs", "--no-color", "--tail", "50").stdout)
        made.run("docker", "compose", "down", "--volumes", "--timeout", "0", "--remove-orphans")


@contextmanager
def built(service: Path, appended: str = "") -> Iterator[str]:
    """Build a service's image, with lines appended to its app.py; remove it in the end."""
    app = service / "src/service/app.py"
    app.write_text(app.read_text("utf-8") + appended, "utf-8")
    done = subprocess.run(
        ("docker", "build", "--quiet", "--tag", service.name, str(service)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    try:
        yield service.name
    finally:
        docker("rmi", "--force", service.name)

"""A baked service as compose runs it, under a name of its own, and its database."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import without_fsync


class Project:
    """A copy of a service under a name of its own, so that nothing of the machine's is touched."""

    def __init__(self, service: Path, image: str, umask: int = -1) -> None:
        """Know the image and the umask of commands, by default ours; start nothing."""
        self.service = service
        self.image = image
        self.umask = umask
        self.environment = {**os.environ, "IMAGE": image, "PORT": "0"}

    @property
    def database(self) -> str:
        """Compose's name of the database."""
        return f"{self.service.name}-db"

    def run(
        self, *command: str, stdin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the service's folder, both outputs in one."""
        merged = {**self.environment, **environment}
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        options = {"cwd": self.service, "env": merged, "input": stdin, "text": True, **streams}
        return subprocess.run(command, umask=self.umask, **options)

    def compose(self, *arguments: str, stdin: str | None = None) -> str:
        """Run compose, which must succeed."""
        done = self.run("docker", "compose", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def make(self, *arguments: str, **environment: str) -> str:
        """Run make, which must succeed."""
        done = self.run("make", "--no-print-directory", *arguments, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def container(self, name: str | None = None) -> dict[str, Any]:
        """What Docker knows of the container of compose's service, by default our own."""
        (found,) = self._containers(service=name or self.service.name, oneoff="False")
        inspected: list[dict[str, Any]] = json.loads(docker("inspect", found))
        return inspected[0]

    def told(self) -> str:
        """All that Docker tells of the project's containers: their logs, and what inspect shows."""
        commands = [(what, one) for one in self._containers() for what in ("logs", "inspect")]
        return "".join(self.run("docker", *command).stdout for command in commands)

    def _containers(self, **labels: str) -> list[str]:
        filters = {"project": self.service.name, **labels}.items()
        options = (f"--filter=label=com.docker.compose.{name}={value}" for name, value in filters)
        return docker("ps", "--all", "--quiet", *options).split()

    def port(self) -> int:
        """The port of 127.0.0.1 that leads to the service."""
        return int(self.container()["NetworkSettings"]["Ports"]["5000/tcp"][0]["HostPort"])

    @contextmanager
    def replica(self, *options: str) -> Iterator[int]:
        """Run one more container, with `docker compose run`'s options; yield its port."""
        run = ("run", "--detach", "--no-deps", "--publish", "127.0.0.1::5000", *options)
        container = self.compose(*run, self.service.name).split()[-1]
        try:
            yield int(docker("port", container, "5000").rpartition(":")[2])
        finally:
            docker("rm", "--force", container)

    def sql(self, statement: str, user: str = "postgres") -> str:
        """Run SQL in the database; return rows as lines with `|` between values.

        Fail where PostgreSQL refuses.
        """
        plain = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
        psql = ("psql", *plain, f"--username={user}", "--dbname=service")
        return self.compose("exec", "-T", self.database, *psql, stdin=statement).strip()

    @contextmanager
    def holding(self, statement: str) -> Iterator[None]:
        """Hold what the statement locks, in a transaction that stays open."""
        psql = ("psql", "--username=postgres", "--dbname=service")
        command = ("docker", "compose", "exec", "-T", self.database, *psql)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=self.service, env=self.environment, **pipes) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write(f"BEGIN;\n{statement};\nSELECT 'held';\n")
            holder.stdin.flush()
            while "held" not in (line := holder.stdout.readline()):
                assert line, "psql has ended"
            try:
                yield
            finally:
                holder.communicate()


def copied(bake: Bake, folder: Path, **answers: str) -> Path:
    """Return a copy in `folder` of a service with these answers and a name of its own."""
    slug = f"deployed-{uuid.uuid4().hex[:8]}"
    return without_fsync(shutil.copytree(bake(service_slug=slug, **answers), folder / slug))


@contextmanager
def deployed(bake: Bake, folder: Path, **answers: str) -> Iterator[Project]:
    """Build the image of a service with these answers; in the end remove what it left in Docker."""
    service = copied(bake, folder, **answers)
    with removed(Project(service, f"{service.name}:test")) as project:
        project.make("image")
        yield project


@contextmanager
def removed(project: Project) -> Iterator[Project]:
    """Yield the project; in the end remove what it left in Docker."""
    try:
        yield project
    finally:
        print(project.run("docker", "compose", "logs", "--no-color", "--tail", "50").stdout)
        project.run("docker", "compose", "down", "--volumes", "--timeout", "0")
        docker("rmi", "--force", project.image)

"""A platform and three services in one folder, whose commands run as a person types them."""

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import commit
from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import without_fsync

NAMES = ("orders", "invoices", "shipping")
DATABASES = {"orders": "postgresql"}
LABEL = "com.docker.compose"
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Ana"), ("EMAIL", "ana@example.org"))
}


class Town:
    """The platform and its services under names that nobody else has, below a path with a space."""

    def __init__(self, folder: Path, bake_platform: Bake, bake: Bake, python: Path) -> None:
        """Bake and commit them; start nothing."""
        self.suffix = uuid.uuid4().hex[:6]
        self.names = {name: f"{name}-{self.suffix}" for name in NAMES}
        self.platform = folder / f"town-{self.suffix}"
        shutil.copytree(bake_platform(platform_slug=self.platform.name), self.platform)
        for name, slug in self.names.items():
            database = DATABASES.get(name, "none")
            baked = bake(service_slug=slug, database=database)
            commit(without_fsync(shutil.copytree(baked, folder / slug)))
        _link_environment(self.platform, python)
        commit(self.platform)
        self.ran: set[str] = set()

    def folder(self, name: str) -> Path:
        """Return the folder of a service."""
        return self.platform.parent / self.names[name]

    def run(self, line: str, name: str = "") -> subprocess.CompletedProcess[str]:
        """Run a line as the README has it, in the platform's folder or a service's."""
        self.ran.add(line)
        began = time.monotonic()
        own = re.sub(rf"\b({'|'.join(NAMES)})(?![\w-])", lambda m: self.names[m[1]], line)
        if "curl" in own:
            own = own.replace("8080", str(self.port))
        done = subprocess.run(
            own,
            shell=True,
            cwd=self.folder(name) if name else self.platform,
            env={**os.environ, **IDENTITY, "PORT": "0", "LOG_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0o077,
        )
        last = done.stdout.splitlines()[-1:]
        print(f"{name or self.platform.name}$ {line}  # {time.monotonic() - began:.1f} s", *last)
        return done

    def does(self, line: str, name: str = "") -> str:
        """Run a line, which must succeed; return what it prints."""
        done = self.run(line, name)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def refuses(self, line: str, name: str = "") -> str:
        """Run a line, which must be refused; return what was said, without make's own lines."""
        done = self.run(line, name)
        assert done.returncode != 0, done.stdout
        lines = done.stdout.splitlines()
        return "\n".join(said for said in lines if not re.match(r"make(\[\d+\])?: ", said))

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that leads to the gateway."""
        (gateway,) = self.containers("gateway")
        return int(docker("port", gateway, "8080").rpartition(":")[2])

    def containers(self, *names: str, project: str = "") -> list[str]:
        """Return the ids of the running containers of services, or of all, the oldest first."""
        filters = [f"--filter=label={LABEL}.project={project or self.platform.name}"]
        found = docker("ps", "--quiet", "--no-trunc", *filters).split()
        states = json.loads(docker("inspect", *found)) if found else []
        slugs = {self.names.get(name, name) for name in names}
        return [
            one["Id"]
            for one in sorted(states, key=lambda one: str(one["Created"]))
            if not slugs or one["Config"]["Labels"][f"{LABEL}.service"] in slugs
        ]

    def started(self, *ids: str) -> dict[str, str]:
        """Return when each container started."""
        template = "{{.Id}} {{.State.StartedAt}}"
        lines = docker("inspect", "--format", template, *ids).splitlines()
        times: dict[str, str] = dict(line.split() for line in lines)
        return times

    def images(self, name: str) -> set[str]:
        """Return the names of the images that a service's replicas run."""
        template = "{{.Config.Image}}"
        found = self.containers(name)
        return set(docker("inspect", "--format", template, *found).split()) if found else set()

    def changes(self) -> list[str]:
        """Return the platform's files that differ from what is committed."""
        command = (
            "git",
            "-C",
            str(self.platform),
            "status",
            "--porcelain",
            "--untracked-files=all",
        )
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return sorted(line[3:] for line in done.stdout.splitlines())

    def fleet(self) -> dict[str, dict[str, Any]]:
        """Return what `make fleet` tells programs, by the names of the README."""
        rows = json.loads(self.does("make -s fleet ARGS=--json"))
        return {row["service"].removesuffix(f"-{self.suffix}"): row for row in rows}

    def remove(self) -> None:
        """Remove all that it left in Docker."""
        projects = (self.platform.name, *self.names.values())
        for project in projects:
            label = f"--filter=label={LABEL}.project={project}"
            for kind, options in (("container", ("--all",)), ("volume", ()), ("network", ())):
                if found := docker(kind, "ls", "--quiet", *options, label).split():
                    force = ("--force",) if kind != "network" else ()
                    docker(kind, "rm", *force, *found)
        names = [f"--filter=reference={slug}" for slug in self.names.values()]
        images = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", *names).split()
        if images:
            docker("rmi", "--force", *images)


def _link_environment(platform: Path, python: Path) -> None:
    """Give the platform an environment whose packages are installed, and that finds its source."""
    (environment := platform / ".venv").mkdir()
    (environment / "bin").mkdir()
    start = f'#!/bin/sh\nPYTHONPATH="{platform}/src" exec "{python}" -B "$@"\n'
    (environment / "bin/python").write_text(start, "utf-8")
    (environment / "bin/python").chmod(0o755)
    (environment / "run").touch()


@contextmanager
def town(folder: Path, bake_platform: Bake, bake: Bake, python: Path) -> Iterator[Town]:
    """Yield a platform and its services; in the end remove what they left in Docker."""
    made = Town(folder / "a town", bake_platform, bake, python)
    try:
        yield made
    finally:
        made.remove()

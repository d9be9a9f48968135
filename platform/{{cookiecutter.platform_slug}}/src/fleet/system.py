"""The platform's compose project: what each service is to run, beyond what its own files say."""

import json
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fleet.containers import LABEL
from fleet.engine import docker
from fleet.project import Project
from fleet.project import Refusal
from fleet.services import Service
from fleet.state import State
from fleet.state import locked


@dataclass(frozen=True)
class Parts:
    """The names of a service's own parts in compose, besides the service itself."""

    jobs: tuple[str, ...]  # they end, before the service starts
    workers: tuple[str, ...]  # further processes of the same image
    others: tuple[str, ...]  # a database, a broker

    @property
    def all(self) -> tuple[str, ...]:
        """Every part."""
        return self.jobs + self.workers + self.others


def model(service: Service) -> dict[str, Any]:
    """Return what compose reads from a service's compose.yaml."""
    place = ("--project-directory", str(service.folder), "-f", str(service.folder / "compose.yaml"))
    found: dict[str, Any] = json.loads(docker("compose", *place, "config", "--format", "json"))
    if service.slug not in found["services"]:
        raise Refusal(f"{service.folder / 'compose.yaml'}: it has no service {service.slug}")
    return found


def parts_of(service: Service) -> Parts:
    """Return the parts of a service, told apart by their image and restart policy."""
    services = model(service)["services"]
    image = services.pop(service.slug)["image"]
    same = {name: one for name, one in services.items() if one.get("image") == image}
    jobs = tuple(name for name, one in same.items() if one.get("restart") == "no")
    workers = tuple(name for name in same if name not in jobs)
    return Parts(jobs, workers, tuple(name for name in services if name not in same))


@contextmanager
def changing(project: Project) -> Iterator[None]:
    """Let one command at a time change what runs, if it is this platform's."""
    with locked(project):
        template = f'{{{{.Label "{LABEL}.project.working_dir"}}}}'
        label = f"--filter=label={LABEL}.project={project.name}"
        for folder in docker("ps", "--all", "--format", template, label).splitlines():
            if Path(folder).resolve() != project.root.resolve():
                remedy = f"run make down there, or change `name` in {project.root}/compose.yaml"
                raise Refusal(f"{project.name}: {folder} runs under this name: {remedy}")
        yield


class System:
    """The platform's compose project, with the states that its services are to have."""

    def __init__(
        self, project: Project, services: Iterable[Service], states: Mapping[str, State]
    ) -> None:
        """Take the services that joined, and the states of those that are to be started."""
        self.project = project
        self.states = dict(states)
        found = list(services)
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(parts_of, found))
        self.parts = {service.slug: one for service, one in zip(found, parts, strict=True)}

    def _override(self) -> str:
        """Return what compose has to know beyond the services' own files."""
        services: dict[str, Any] = {}
        for slug, state in self.states.items():
            services |= {job: {"image": state.migrated} for job in self.parts[slug].jobs}
            folder = self.project.root / ".fleet" / "config" / state.configuration
            mount = {"type": "bind", "source": str(folder).replace("$", "$$"), "target": "/config"}
            running = {
                "image": state.image,
                "environment": {"CONFIG_DIR": "/config"},
                "volumes": [{**mount, "read_only": True, "bind": {"create_host_path": False}}],
            }
            services |= dict.fromkeys(self.parts[slug].workers, running)
            services[slug] = {**running, "scale": state.scale}
        return json.dumps({"services": services})

    def compose(self, *arguments: str) -> str:
        """Run compose for all of the platform."""
        root = self.project.root
        place = ("--project-directory", str(root), "-f", str(root / "compose.yaml"), "-f", "-")
        command = ("compose", "--progress", "quiet", *place, *arguments)
        return docker(*command, stdin=self._override())

    def start(self, *names: str, scale: str = "", is_alone: bool = True) -> None:
        """Start what does not run, and change nothing that does."""
        alone = ("--no-deps",) if is_alone else ()
        scaled = ("--scale", scale) if scale else ()
        options = ("--detach", "--no-build", "--no-recreate", *alone, *scaled)
        self.compose("up", *options, *names)

    @cached_property
    def wanted(self) -> dict[str, str]:
        """Compose's hash of the configuration that each of its services is to have."""
        lines = self.compose("config", "--hash", "*").splitlines()
        hashes: dict[str, str] = dict(line.split() for line in lines)
        return hashes

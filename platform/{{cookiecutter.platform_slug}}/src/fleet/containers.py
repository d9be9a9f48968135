"""Docker as the platform uses it: compose with what each service is to run, and its replicas."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.project import Project
from fleet.project import Refusal
from fleet.services import Service
from fleet.state import State

# A setting in the shell, such as LOG_LEVEL, must not reach every service past its configuration.
PASSED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TERM|TMPDIR|TZ|PORT|BIND_ADDRESS|XDG_\w+|SSH_\w+|"
    r"(DOCKER|BUILDX|BUILDKIT|COMPOSE|UV|PIP)_\w+|NETRC|SSL_CERT_FILE|PYTHON|CI|\w+_proxy|\w+_PROXY"
)
ASK = """
import sys
from _socket import socket
s = socket()
s.settimeout(4)
s.connect(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
sys.exit(s.recv(12)[9:] != b"200")
"""
LABEL = "com.docker.compose"


def environment() -> dict[str, str]:
    """Return the part of the caller's environment that other programs get."""
    return {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}


def attempt(*command: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end."""
    try:
        return subprocess.run(
            command, input=stdin, env=environment(), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Refusal(f"{command[0]}: {error.strerror}; install it") from None


def docker(*arguments: str, stdin: str | None = None) -> str:
    """Return what docker prints; refuse with the last line of its complaint."""
    done = attempt("docker", *arguments, stdin=stdin)
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip() or "it failed").splitlines()
        raise Refusal(f"docker {arguments[0]}: {complaint[-1].strip()}")
    return done.stdout.strip()


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


class System:
    """The platform's compose project, with the states that its services are to have."""

    def __init__(
        self, project: Project, services: Iterable[Service], states: Mapping[str, State]
    ) -> None:
        """Take the services that joined, and the states of those that are to be started."""
        self.project = project
        self.states = dict(states)
        self.parts = {service.slug: parts_of(service) for service in services}

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

    def wanted(self) -> dict[str, str]:
        """Return compose's hash of the configuration that each of its services is to have."""
        lines = self.compose("config", "--hash", "*").splitlines()
        hashes: dict[str, str] = dict(line.split() for line in lines)
        return hashes


@dataclass(frozen=True)
class Replica:
    """One container of a compose service."""

    id: str
    name: str
    status: str
    restarts: int
    address: str
    hash: str  # compose's, of its configuration
    image: str
    image_id: str

    @property
    def runs(self) -> bool:
        """Whether its process runs."""
        return self.status == "running"


def replicas(project: Project, name: str) -> list[Replica]:
    """Return the containers of one compose service of the platform, the oldest first."""
    labels = (f"project={project.name}", f"service={name}", "oneoff=False")
    filters = [f"--filter=label={LABEL}.{label}" for label in labels]
    ids = docker("ps", "--all", "--quiet", "--no-trunc", *filters).split()
    if not ids:
        return []
    # One that has gone meanwhile is a failure to docker, and none to us.
    found = json.loads(attempt("docker", "inspect", *ids).stdout or "[]")
    return [_replica(one) for one in sorted(found, key=lambda one: str(one["Created"]))]


def _replica(one: Mapping[str, Any]) -> Replica:
    networks = one["NetworkSettings"]["Networks"].values()
    addresses = [network["IPAddress"] for network in networks if network["IPAddress"]]
    return Replica(
        id=one["Id"],
        name=one["Name"].removeprefix("/"),
        status=one["State"]["Status"],
        restarts=one["RestartCount"],
        address=addresses[0] if addresses else "",
        hash=one["Config"]["Labels"][f"{LABEL}.config-hash"],
        image=one["Config"]["Image"],
        image_id=one["Image"],
    )


def has_image(image: str) -> bool:
    """Return whether this machine has an image."""
    return attempt("docker", "image", "inspect", image).returncode == 0


def is_ready(replica: Replica, port: int) -> bool:
    """Ask a replica of a service, in its own container, whether it takes requests."""
    command = ("exec", replica.id, "python", "-IS", "-c", ASK, str(port))
    return attempt("docker", *command).returncode == 0


def last_line(replica: Replica) -> str:
    """Return the last line that a container wrote."""
    done = attempt("docker", "logs", "--tail", "1", replica.id)
    return (done.stdout + done.stderr).strip()[:300] or "it wrote no line"


def remove(found: Iterable[Replica]) -> None:
    """Remove containers at once."""
    if ids := [one.id for one in found]:
        docker("rm", "--force", "--volumes", *ids)


def retire(found: Iterable[Replica]) -> None:
    """Let containers finish what they do, and remove them; each has its own time for that."""
    if ids := [one.id for one in found]:
        docker("stop", *ids)
        docker("rm", "--volumes", *ids)


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition comes to hold within some seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True

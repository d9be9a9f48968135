"""The containers of one compose service: what is known of each, and how they end."""

import json
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.engine import attempt
from fleet.engine import docker
from fleet.project import Project

LABEL = "com.docker.compose"
ASK = """
import sys
from _socket import socket
s = socket()
s.settimeout(4)
s.connect(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /readyz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
sys.exit(s.recv(12)[9:] != b"200")
"""


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


def is_ready(replica: Replica, port: int) -> bool:
    """Ask a replica of a service, in its own container, whether it takes requests."""
    command = ("exec", replica.id, "python", "-IS", "-c", ASK, str(port))
    return attempt("docker", *command).returncode == 0


def last_error(replica: Replica) -> str:
    """Return the last error that a container logged, or else its last line."""
    done = attempt("docker", "logs", "--tail", "100", replica.id)
    return error_of((done.stdout + done.stderr).splitlines())


def error_of(lines: list[str]) -> str:
    """Return the message of the last line of JSON that is an error, or else the last line."""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("ERROR", "CRITICAL"):
            stack = str(entry.get("exception.stacktrace", "")).strip().splitlines()
            return ": ".join((str(entry.get("message")), *stack[-1:]))[:300]
    return lines[-1].strip()[:300] if lines else "it wrote no line"


def remove(found: Iterable[Replica]) -> None:
    """Remove containers at once."""
    if ids := [one.id for one in found]:
        docker("rm", "--force", "--volumes", *ids)


def retire(found: Iterable[Replica]) -> None:
    """Let containers finish what they do, and remove them; each has its own time for that."""
    if ids := [one.id for one in found]:
        docker("stop", *ids)
        docker("rm", "--volumes", *ids)

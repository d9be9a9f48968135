"""What runs: one row for each service, for people as a table and for programs as JSON."""

import argparse
import json
import math
import os
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

from fleet.containers import Replica
from fleet.containers import is_ready
from fleet.containers import replicas
from fleet.engine import attempt
from fleet.lock import LOCK
from fleet.lock import parse_lock
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_text
from fleet.services import Service
from fleet.services import joined
from fleet.state import states_of
from fleet.system import System

NONE = "-"
REQUESTS = "http_server_request_duration_seconds_count"
SERVED = """
import json, sys, urllib.request
address = f"http://127.0.0.1:{sys.argv[1]}/openapi.json"
print(json.dumps(json.load(urllib.request.urlopen(address, timeout=5)), sort_keys=True))
"""


@dataclass(frozen=True)
class Row:
    """What is known of one service."""

    service: str
    template: str  # the commit of the template that it was made of or updated to
    image: str
    ready: int
    replicas: int  # as many as there should be
    slo: str  # its objectives
    availability: float | None  # per cent of the last 30 days, where PROMETHEUS_URL is set
    contract: str
    drift: list[str]

    def cells(self) -> list[str]:
        """Return the row as a table shows it."""
        ready = f"{self.ready}/{self.replicas}"
        drift = ", ".join(self.drift) or "none"
        slo = self.slo
        if self.availability is not None:
            slo = f"{self.availability:.3f}% of {slo}"
        return [self.service, self.template, self.image, ready, slo, self.contract, drift]


HEAD = ["SERVICE", "TEMPLATE", "IMAGE", "READY", "SLO", "CONTRACT", "DRIFT"]


def show(project: Project, arguments: argparse.Namespace) -> None:
    """Print the rows."""
    services = joined(project)
    system = System(project, services, states_of(project, services))
    wanted = system.wanted
    path = project.root / LOCK
    lock = parse_lock(read_text(path)) if path.exists() else {}
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda one: _row(system, one, wanted[one.slug], lock), services))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(table([HEAD, *(row.cells() for row in rows)]))
    if not rows:
        print(f"No service has joined {project.name} yet: make join in a service's folder.")


def table(rows: list[list[str]]) -> str:
    """Return lines whose cells stand below each other; the first one is bold on a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if sys.stdout.isatty():
        lines[0] = f"\033[1m{lines[0]}\033[0m"
    return "\n".join(lines)


def _row(system: System, service: Service, wanted: str, lock: Any) -> Row:
    found = replicas(system.project, service.slug)
    ready = [one for one in found if one.runs and is_ready(one, service.port)]
    state = system.states.get(service.slug)
    drift = _drift(system.project, service, found, wanted, lock.get(service.slug))
    return Row(
        service=service.slug,
        template=_template(service),
        image=state.image.partition(":")[2] if state else NONE,
        ready=len(ready),
        replicas=state.scale if state else 0,
        slo=_objectives(service),
        availability=_availability(service, os.environ.get("PROMETHEUS_URL", "")),
        contract=_contract(service, ready),
        drift=drift + [f"{name} not ready" for name in _waiting(system, service)],
    )


def _waiting(system: System, service: Service) -> list[str]:
    """Return which other processes, such as a relay, should run and have no container ready."""
    names = system.parts[service.slug].workers if service.slug in system.states else ()
    found = {name: replicas(system.project, name) for name in names}
    return [
        name
        for name, containers in found.items()
        if not any(one.runs and is_ready(one, service.port) for one in containers)
    ]


def _template(service: Service) -> str:
    path = service.folder / ".cruft.json"
    if not path.exists():
        return NONE
    known = json.loads(read_text(path))
    return str(known.get("checkout") or known["commit"][:7])


def _objectives(service: Service) -> str:
    slo = service.manifest.get("slo")
    if not isinstance(slo, dict):
        return NONE
    times = f"{slo.get('latency_percent')}% < {slo.get('latency_seconds')} s"
    return f"{slo.get('availability_percent')}%, {times}"


def _availability(service: Service, address: str) -> float | None:
    """Ask Prometheus, whose job has the service's name; None where it knows of no request."""
    if not address:
        return None
    job = f'job="{service.slug}"'
    failed = f'(sum(rate({REQUESTS}{{{job},http_response_status_code=~"5.."}}[30d])) or vector(0))'
    query = f"100 * (1 - {failed} / sum(rate({REQUESTS}{{{job}}}[30d])))"
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            result = json.load(reply)["data"]["result"]
    except (urllib.error.URLError, ValueError, OSError) as error:
        raise Refusal(f"PROMETHEUS_URL: {address} does not answer as Prometheus: {error}") from None
    value = float(result[0]["value"][1]) if result else float("nan")
    return None if math.isnan(value) else value


def _contract(service: Service, ready: list[Replica]) -> str:
    """Return the version of the folder's contract, and whether what runs serves just that."""
    path = service.folder / "openapi.json"
    if not path.exists():
        return NONE
    document = json.loads(read_text(path))
    if not ready:
        return str(document["info"]["version"])
    command = ("docker", "exec", ready[0].id, "python", "-c", SERVED, str(service.port))
    return compared(document, attempt(*command).stdout)


def compared(document: Any, served: str) -> str:
    """Return the version of a contract, and whether it is what a service says that it serves."""
    version = str(document["info"]["version"])
    is_same = served.strip() == json.dumps(document, sort_keys=True)
    return version if is_same else f"{version} (openapi.json is not what runs)"


def _drift(
    project: Project, service: Service, found: list[Replica], wanted: str, locked: Any
) -> list[str]:
    """Return in what the service differs from its files, the lock and the template."""
    drift = []
    if any(one.hash != wanted for one in found):
        drift.append("compose")
    kept = project.routes / f"{service.slug}.yaml"
    if not kept.exists() or read_text(kept) != service.route:
        drift.append("route")
    if locked and any(one.image_id != locked["id"] for one in found):
        drift.append("lock")
    if shutil.which("cruft") and (service.folder / ".cruft.json").exists():
        done = attempt("make", "--no-print-directory", "-C", str(service.folder), "drift")
        edits = [line for line in done.stdout.splitlines() if line != "no edits"]
        if done.returncode:
            drift.append("template unknown")
        elif edits:
            drift.append(f"template: {len(edits)} files")
    return drift


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `status`."""
    command = commands.add_parser("status", help="show what runs")
    command.add_argument("--json", action="store_true", help="as JSON, for programs")
    command.set_defaults(run=show)

"""What the gateway reads: rendered, validated by Envoy itself, and only then put into place."""

import argparse
import json
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.clusters import clusters
from fleet.entry import certificate
from fleet.entry import listener
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_yaml
from fleet.project import run
from fleet.project import write
from fleet.resources import FOLDER
from fleet.resources import Resource
from fleet.routes import read_routes
from fleet.settings import read_settings
from fleet.table import table

# In the order in which a gateway that runs should see them: no route before its cluster.
ORDER = ("bootstrap", "certificate", "clusters", "listeners", "routes")


@dataclass(frozen=True)
class Prepared:
    """Files for the gateway, by their names, that Envoy found valid."""

    project: Project
    files: Mapping[str, str]

    def write(self) -> bool:
        """Put what differs into place, each file by renaming; return whether anything did."""
        folder = self.project.rendered
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        changed = False
        for name, text in self.files.items():
            path = folder / name
            if not path.exists() or path.read_text("utf-8") != text:
                write(path, text)
                changed = True
        return changed


def prepare(project: Project, instead: Mapping[str, str | None] | None = None) -> Prepared:
    """Render all that the gateway reads and let Envoy validate it; change nothing.

    `instead` maps names in routes/ to the text that they would have, None for one removed.
    """
    resources = _render(project, instead)
    _validate(project, resources)
    files = {}
    for name in ORDER:
        content = resources[name]
        if name != "bootstrap":
            content = {"resources": content}
        files[f"{name}.json"] = json.dumps(content, indent=1) + "\n"
    return Prepared(project, files)


def _render(project: Project, instead: Mapping[str, str | None] | None) -> dict[str, Any]:
    found = read_routes(project.routes, instead)
    settings = read_settings(project)
    folder = project.gateway
    bootstrap, entry, cluster = (
        read_yaml(folder / f"{name}.yaml") for name in ("bootstrap", "entry", "cluster")
    )
    name = f"{project.name}-gateway"
    return {
        "bootstrap": bootstrap,
        "certificate": [certificate()] if settings.has_certificate else [],
        "clusters": clusters(found, cluster, settings),
        "listeners": [listener(entry, settings, name)],
        "routes": [table(found, settings)],
    }


def _static(resources: Mapping[str, Any]) -> Resource:
    """Return one bootstrap that holds all resources, as Envoy validates no watched file."""
    bootstrap: Resource = deepcopy(resources["bootstrap"])
    del bootstrap["dynamic_resources"]
    static = bootstrap["static_resources"]
    static["clusters"] += _untyped(resources["clusters"])
    static["listeners"] += _untyped(resources["listeners"])
    for chain in static["listeners"][-1]["filter_chains"]:
        _hold(chain, resources["routes"])
    static["secrets"] = _untyped(resources["certificate"])
    return bootstrap


def _hold(chain: Resource, tables: list[Resource]) -> None:
    """Let a chain of filters hold the routes and the certificate that it names."""
    manager = chain["filters"][0]["typed_config"]
    del manager["rds"]
    (manager["route_config"],) = _untyped(tables)
    if tls := chain.get("transport_socket"):
        context = tls["typed_config"]["common_tls_context"]
        for config in context["tls_certificate_sds_secret_configs"]:
            del config["sds_config"]


def _untyped(resources: list[Resource]) -> list[Resource]:
    copies = deepcopy(resources)
    for resource in copies:
        del resource["@type"]
    return copies


def _validate(project: Project, resources: Mapping[str, Any]) -> None:
    """Refuse what Envoy, in the image and as the user that will run it, does not accept."""
    service = read_yaml(project.root / "compose.yaml")["services"]["gateway"]
    with tempfile.TemporaryDirectory(prefix=".validated-", dir=project.gateway) as name:
        folder = Path(name)
        folder.chmod(0o755)
        write(folder / "all.json", json.dumps(_static(resources)))
        mounts = {folder: FOLDER, project.gateway / "tls": "/etc/tls"}
        options = [
            f"--mount=type=bind,source={here},target={there},readonly"
            for here, there in mounts.items()
        ]
        command = ("--mode", "validate", "--config-path", f"{FOLDER}/all.json")
        hardening = ("--rm", "--network=none", "--read-only", f"--user={service['user']}")
        try:
            run("docker", "run", *hardening, *options, service["image"], *command)
        except Refusal as refusal:
            raise Refusal(f"Envoy refuses the gateway's configuration: {refusal}") from None


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `gateway`."""
    help_text = "check the gateway's routes and settings, and let a running one take them"
    commands.add_parser("gateway", help=help_text).set_defaults(run=gateway)


def gateway(project: Project, _arguments: argparse.Namespace) -> None:
    """Render, validate and put into place."""
    changed = prepare(project).write()
    print("The gateway's files are", "renewed." if changed else "as they were.")

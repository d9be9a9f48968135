"""Prometheus and Alertmanager as containers, with what the service itself ships, and promtool."""

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.docker.containers import docker
from tests.docker.containers import fetch
from tests.docker.containers import status

PROMETHEUS = "prom/prometheus:v3"
ALERTMANAGER = "prom/alertmanager:v0"


def mount(path: Path, target: str) -> tuple[str, str]:
    """Return the option that shows a file to a container's user, whoever that is."""
    path.chmod(0o644)
    return "--volume", f"{path}:{target}:ro"


class Server:
    """A container in a network, one of its ports published on 127.0.0.1."""

    def __init__(self, network: str, alias: str, port: int, *options: str) -> None:
        """Start it; the last of `docker run`'s options are the image and its arguments."""
        places = ("--network", network, "--network-alias", alias, "--publish", f"127.0.0.1::{port}")
        self.id = docker("run", "--detach", *places, *options)
        self.port = int(docker("port", self.id).splitlines()[0].rpartition(":")[2])

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON of an answer; None where there is none, or not yet."""
        path += f"?{urlencode(query)}" if query else ""
        return json.loads(fetch(self.port, path)[2]) if status(self.port, path) == 200 else None

    def remove(self) -> None:
        """End it at once."""
        docker("rm", "--force", "--volumes", self.id)


class Prometheus(Server):
    """Scrapes `service` and evaluates its rules every second; tells `alertmanager`."""

    def __init__(self, network: str, service: Path, folder: Path) -> None:
        """Write its configuration into `folder` and start it."""
        config = mount(configuration(service, folder), "/etc/prometheus/prometheus.yml")
        rules = mount(service / "rules.yaml", "/etc/prometheus/rules.yaml")
        arguments = (
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            "--enable-feature=exemplar-storage",
        )
        super().__init__(network, "prometheus", 9090, *config, *rules, PROMETHEUS, *arguments)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now."""
        answer = self.get("/api/v1/query", query=expression)
        return list(answer["data"]["result"]) if answer else []

    def rules(self) -> list[dict[str, Any]]:
        """Return its rules with their state and health."""
        answer = self.get("/api/v1/rules")
        groups = answer["data"]["groups"] if answer else []
        return [rule for group in groups for rule in group["rules"]]


def configuration(service: Path, folder: Path) -> Path:
    """Write a configuration whose one job bears the service's name; return its path."""
    job = {"job_name": service.name, "static_configs": [{"targets": ["service:5000"]}]}
    document = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]},
        "scrape_configs": [job],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(document))
    return path


class Alertmanager(Server):
    """Takes alerts and tells nobody."""

    def __init__(self, network: str, folder: Path) -> None:
        """Write its configuration into `folder` and start it."""
        config = folder / "alertmanager.yml"
        nobody = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
        config.write_text(json.dumps(nobody))
        options = mount(config, "/etc/alertmanager/alertmanager.yml")
        super().__init__(network, "alertmanager", 9093, *options, ALERTMANAGER)

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Return what it was told, by the alert's name."""
        return {alert["labels"]["alertname"]: alert for alert in self.get("/api/v2/alerts") or ()}


def promtool(
    *arguments: str, files: tuple[Path, ...] = (), stdin: str | None = None
) -> tuple[int, str]:
    """Return the status and what promtool says; it finds the files in its working folder."""
    mounts = [part for file in files for part in mount(file, f"/mounted/{file.name}")]
    options = ("--rm", "--interactive", "--workdir=/mounted", "--entrypoint=promtool", *mounts)
    command = ("docker", "run", *options, PROMETHEUS, *arguments)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr

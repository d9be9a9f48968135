"""A canary on a real cluster, watched by a real Prometheus that finds its pods by the API.

The cluster has no Gateway API: what is asked of the HTTPRoute, kubectl does to a file instead,
and the clients share their requests as that file says.
"""

import json
import os
import random
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.load import Load
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.test_rollout import PATHS
from tests.kubernetes.test_rollout import image

KUBECTL = """\
#!/bin/sh
# The HTTPRoute is a file; {real} does the rest.
for word in "$@"; do last=$word; done
case "$*" in
*"patch httproute "*)
    {real} patch --local --filename {route} --type json --patch "$last" --output json >{route}.new
    cat {route}.new >>{route}.log
    mv {route}.new {route}
    ;;
*) exec {real} "$@" ;;
esac
"""
PROMETHEUS = """\
global: {{scrape_interval: 2s}}
scrape_configs:
  - job_name: pods
    kubernetes_sd_configs:
      - role: pod
        namespaces: {{names: [{namespace}]}}
        api_server: {server}
        authorization: {{credentials: {token}}}
        tls_config: {{insecure_skip_verify: true}}
    relabel_configs:
      - {{source_labels: [__meta_kubernetes_pod_container_port_name], regex: http, action: keep}}
      - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}
"""


class Route:
    """The HTTPRoute, and the requests that were shared by it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        """Put the service's own into a file, and a kubectl that knows it onto a path."""
        self.cluster = cluster
        self.file = folder / "route.json"
        source = cluster.service / "deploy" / "gateway" / "route.yaml"
        self.own = yaml.safe_load(source.read_text("utf-8"))
        self.file.write_text(json.dumps(self.own))
        program = folder / "kubectl"
        program.write_text(KUBECTL.format(real=shutil.which("kubectl"), route=self.file))
        program.chmod(0o755)
        self.path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self.sent: list[tuple[str, int]] = []

    def backends(self) -> dict[str, int]:
        """The weights of the backends."""
        backends = json.loads(self.file.read_text())["spec"]["rules"][0]["backendRefs"]
        return {one["name"]: one.get("weight", 1) for one in backends}

    def ask(self, _: Client) -> Answer:
        """Ask one of the backends, by their weights."""
        weights = self.backends()
        (name,) = random.choices(list(weights), list(weights.values()))
        client = Client(5000, self.cluster.address(name))
        try:
            answer = client("GET", PATHS[0])
        finally:
            client.close()
        self.sent.append((name, answer.status))
        return answer


@pytest.fixture
def route(deployed: Cluster, tmp_path: Path) -> Route:
    """The route of the service, whose backend is the release alone."""
    return Route(deployed, tmp_path)


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that scrapes the pods of the namespace."""
    view = json.loads(cluster("config", "view", "--raw", "--output=json"))
    told = {
        "namespace": cluster.namespace,
        "server": view["clusters"][0]["cluster"]["server"],
        "token": view["users"][0]["user"]["token"],
    }
    file = tmp_path_factory.mktemp("prometheus") / "prometheus.yml"
    file.write_text(PROMETHEUS.format(**told))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name = f"{cluster.namespace}-prometheus"
    mounted = f"--volume={file}:/etc/prometheus/prometheus.yml:ro"
    arguments = ("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/data")
    listen = f"--web.listen-address=127.0.0.1:{port}"
    run = ("run", "--detach", "--name", name, "--network=host", mounted, "prom/prometheus:v3")
    try:
        docker(*run, *arguments, listen)
        eventually(lambda: status(port, "/-/ready") == 200, "Prometheus is ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "--force", "--volumes", name)


def left(cluster: Cluster) -> list[str]:
    """The names of what there still is of a canary."""
    kinds = "deployments,services,configmaps"
    labels = "--selector=app.kubernetes.io/component=canary"
    return cluster("get", kinds, labels, "--output=name").split()


def test_a_canary_that_keeps_the_objectives_is_shared_and_taken_away(
    deployed: Cluster, images: dict[str, str], route: Route, prometheus: str
) -> None:
    name = deployed.service.name
    own = {"PATH": route.path, "PROMETHEUS_URL": prometheus}
    with Load(0, *[route.ask] * 4, pause=0.1) as load:
        arguments = ("canary-kubernetes", "WEIGHT=40", "MINUTES=0.5")
        told = deployed.passes(*arguments, IMAGE=images["two"], **own)
    assert "the canary kept the objectives" in told
    assert (load.failures, {status for _, status in route.sent}) == ([], {200})
    assert {backend for backend, _ in route.sent} == {name, f"{name}-canary"}
    assert '"weight": 60' in route.file.with_suffix(".json.log").read_text()
    assert route.backends() == {name: 1}
    assert left(deployed) == []
    assert image(deployed) == images["one"]


def test_a_canary_that_breaks_an_objective_is_backed_out(
    deployed: Cluster, images: dict[str, str], route: Route, prometheus: str
) -> None:
    name = deployed.service.name
    own = {"PATH": route.path, "PROMETHEUS_URL": prometheus}
    with Load(0, *[route.ask] * 4, pause=0.1) as load:
        arguments = ("canary-kubernetes", "WEIGHT=40", "MINUTES=10")
        failed = deployed.make(*arguments, IMAGE=images["failing"], **own)
    told = [line for line in failed.stderr.splitlines() if not line.startswith("make")]
    assert failed.returncode != 0
    assert told[0].startswith("availability: 100.00% of the canary's requests")
    assert told[1:] == [f"{name}: the canary is removed"]
    assert load.failures == []
    assert {status for backend, status in route.sent if backend == name} == {200}
    assert route.backends() == {name: 1}
    assert left(deployed) == []


def test_a_canary_that_does_not_start_gets_no_request(
    deployed: Cluster, images: dict[str, str], route: Route, prometheus: str
) -> None:
    own = {"PATH": route.path, "PROMETHEUS_URL": prometheus}
    failed = deployed.make("canary-kubernetes", IMAGE=images["broken"], **own)
    assert failed.returncode != 0
    assert "did not become ready" in failed.stderr
    assert not route.file.with_suffix(".json.log").read_text().count("-canary")
    assert left(deployed) == []

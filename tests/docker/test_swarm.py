"""A service on Docker Swarm, the smallest engine for several machines: rolled without a loss.

The engine is one node of a swarm only while these tests run.
"""

import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deployment import commands
from tests.docker.containers import Bake
from tests.docker.containers import build
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.load import Load

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SECONDS = 240.0  # for what a busy machine does at last
PRODUCT = "/v1/products/tea"
GATEWAY = """\
services:
  gateway:
    image: envoyproxy/envoy:v1.40.0
    command: [-c, /envoy.yaml, --concurrency, "1"]
    configs: [{source: envoy, target: /envoy.yaml}]
    ports: [{target: 8080, published: PORT, mode: host}]
    deploy: {endpoint_mode: dnsrr}
configs:
  envoy: {file: ./envoy.yaml}
"""
# What a gateway does besides that of the platform, whose file for a service's replicas it takes.
ENVOY = """\
static_resources:
  listeners:
    - address: {socket_address: {address: 0.0.0.0, port_value: 8080}}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": "type.googleapis.com/envoy.extensions.filters.network.\\
                  http_connection_manager.v3.HttpConnectionManager"
                stat_prefix: entry
                http_filters:
                  - name: router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: {prefix: /}
                          route:
                            cluster: service
                            retry_policy:
                              retry_on: connect-failure,refused-stream,reset-before-request
                              num_retries: 3
                              retry_host_predicate:
                                - name: envoy.retry_host_predicates.previous_hosts
                                  typed_config:
                                    "@type": "type.googleapis.com/envoy.extensions.retry.\\
                                      host.previous_hosts.v3.PreviousHostsPredicate"
                              host_selection_retry_max_attempts: 3
"""
CLUSTER = ROOT / "platform" / "{{cookiecutter.platform_slug}}" / "gateway" / "cluster.yaml"


def envoy(service: str) -> str:
    """Return the configuration of a gateway for the replicas that a name leads to."""
    address = {"socket_address": {"address": service, "port_value": 5000}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    cluster = yaml.safe_load(CLUSTER.read_text("utf-8"))
    cluster["name"] = "service"
    cluster["load_assignment"] = {"cluster_name": "service", "endpoints": endpoints}
    content = yaml.safe_load(ENVOY)
    content["static_resources"]["clusters"] = [cluster]
    return json.dumps(content)


class Stack:
    """The service's stack with a gateway of its own, and the images of its releases."""

    def __init__(self, service: Path) -> None:
        """Add the gateway's files to the service's folder."""
        self.service = service
        self.name = service.name
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        (service / "gateway.yaml").write_text(GATEWAY.replace("PORT", str(self.port)))
        (service / "envoy.yaml").write_text(envoy(self.name))

    def deploy(self, release: str) -> None:
        """Deploy a release; the roll-out goes on in the background."""
        (written,) = commands("On Docker Swarm")
        *command, name = written.split()
        assert name == "flask-microservice"
        # The images are this engine's alone, and a gateway is needed to see a roll-out.
        command += ["--resolve-image=never", "--compose-file=gateway.yaml", self.name]
        environment = os.environ | {"IMAGE": f"{self.name}:{release}"}
        done = subprocess.run(
            command, cwd=self.service, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def inspect(self) -> dict[str, Any]:
        """What the swarm knows of the service."""
        found: list[dict[str, Any]] = json.loads(
            docker("service", "inspect", f"{self.name}_{self.name}")
        )
        return found[0]

    def wait_for(self, release: str, state: str) -> None:
        """Wait until an update has ended so, and two replicas of the release alone run."""

        def is_there() -> bool:
            ended = self.inspect().get("UpdateStatus", {}).get("State", "")
            return ended == state and self.running() == [f"{self.name}:{release}"] * 2

        eventually(is_there, f"{release}: {state}", SECONDS)

    def running(self) -> list[str]:
        """The images of the service's tasks that run."""
        shown = ("--format", "{{.CurrentState}} {{.Image}}")
        lines = docker("service", "ps", *shown, f"{self.name}_{self.name}").splitlines()
        return [line.rpartition(" ")[2] for line in lines if line.startswith("Running")]

    def load(self) -> Load:
        """Some clients of the gateway, of whom each keeps a connection."""
        return Load(self.port, *[ask] * 6, pause=0.03)


def ask(client: Client) -> Answer:
    """Ask for what the sample has."""
    return client("GET", PRODUCT)


def complete(load: Load) -> int:
    """Return how many requests were answered; all must have been, and well."""
    assert load.failures == []
    refused = [answer.body.decode() for answer in load.answers if answer.status != 200]
    assert refused == []
    return len(load.answers)


@pytest.fixture(scope="module")
def stack(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of two replicas on a swarm of this engine alone, which it leaves in the end."""
    slug = f"swarm-{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("swarm")
    service = Path(shutil.copytree(bake(service_slug=slug), folder / slug))
    stack = Stack(service)
    releases = {"one": "LABEL release=one", "two": "LABEL release=two", "broken": 'CMD ["false"]'}
    build(service, f"{slug}:source")
    for release, line in releases.items():
        (folder / "Dockerfile").write_text(f"FROM {slug}:source\n{line}\n")
        docker("build", "--quiet", "--tag", f"{slug}:{release}", str(folder))
    docker("swarm", "init", "--advertise-addr=127.0.0.1", "--listen-addr=127.0.0.1:2377")
    try:
        stack.deploy("one")
        eventually(lambda: stack.running() == [f"{slug}:one"] * 2, "two replicas", SECONDS)
        eventually(lambda: status(stack.port, PRODUCT) == 200, "the gateway answers", SECONDS)
        yield stack
    finally:
        docker("stack", "rm", slug)
        docker("swarm", "leave", "--force")
        names = [f"{slug}:{release}" for release in ("source", *releases)]
        eventually(lambda: not docker("ps", "-q", f"--filter=name={slug}"), "they end", SECONDS)
        docker("rmi", "--force", *names)


@pytest.mark.parametrize("messaging", ["none", "rabbitmq"])
def test_swarm_reads_the_service_and_its_workers(bake: Bake, messaging: str) -> None:
    service = bake(database="postgresql", messaging=messaging)
    file = str(service / "compose.swarm.yaml")
    read = yaml.safe_load(docker("stack", "config", "--compose-file", file))["services"]
    workers = {f"{service.name}-relay", f"{service.name}-consumer"}
    assert read.keys() == {service.name} | (workers if messaging == "rabbitmq" else set())


def test_a_replica_is_hardened_and_limited(stack: Stack) -> None:
    task = stack.inspect()["Spec"]["TaskTemplate"]
    container = task["ContainerSpec"]
    limits = task["Resources"]["Limits"]
    assert container["ReadOnly"]
    assert container["CapabilityDrop"] == ["ALL"]
    assert (limits["MemoryBytes"], limits["Pids"]) == (384 * 1024 * 1024, 200)


def test_a_release_rolls_out_without_a_failed_request(stack: Stack) -> None:
    with stack.load() as load:
        stack.deploy("two")
        stack.wait_for("two", "completed")
    assert complete(load) > 500


def test_a_release_that_does_not_start_is_taken_back_without_a_failed_request(
    stack: Stack,
) -> None:
    with stack.load() as load:
        stack.deploy("broken")
        stack.wait_for("two", "rollback_completed")
    complete(load)

"""Facts of the Kubernetes manifests about events, compared with compose, settings and rules."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import text
from test_kubernetes import EVERYTHING
from test_kubernetes import SHARED
from test_kubernetes import container
from test_kubernetes import only
from test_kubernetes import pod_template

from service.chassis.project import PROJECT
from service.settings import Settings

COMPOSE: dict[str, Any] = yaml.safe_load(text("compose.messaging.yaml"))["services"]
WORKERS = ("relay", "consumer")
PORTS = {"amqp": 5672, "amqps": 5671}  # by the protocol's registration


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_runs_what_compose_runs_and_has_its_memory(name: str) -> None:
    worker = COMPOSE[f"{PROJECT.name}-{name}"]
    assert container(f"base/{name}.yaml")["args"] == worker["command"]
    limit = container("pod/pod.yaml")["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) >= int(worker["mem_limit"].removesuffix("m"))


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_finds_the_broker_s_address_where_its_secret_is_mounted(name: str) -> None:
    worker = container(f"base/{name}.yaml")
    (variable,) = worker["env"]
    (mounted,) = worker["volumeMounts"]
    (volume,) = pod_template(f"base/{name}.yaml")["volumes"]
    (external,) = (
        one
        for one in EVERYTHING
        if one["kind"] == "ExternalSecret" and "-broker-" in one["metadata"]["name"]
    )
    path = Path(variable["value"])
    assert variable["name"].removesuffix("_FILE").lower() in Settings.model_fields
    assert (mounted["name"], mounted["mountPath"]) == (volume["name"], str(path.parent))
    assert volume["secret"]["secretName"] == external["metadata"]["name"]
    assert [one["secretKey"] for one in external["spec"]["data"]] == [path.name]


def test_a_worker_s_job_has_the_name_that_the_rules_expect() -> None:
    (endpoint,) = only("PodMonitor")["spec"]["podMetricsEndpoints"]
    (relabeling,) = endpoint["relabelings"]
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in EVERYTHING
        if one["kind"] == "Deployment" and one not in SHARED
    }
    jobs = set()
    for pod in labels.values():
        component = pod["app.kubernetes.io/component"]
        match = re.fullmatch(relabeling["regex"], component)
        replaced = relabeling["replacement"].replace("$1", component)
        jobs.add(replaced if match else pod["app.kubernetes.io/name"])
    assert jobs == labels.keys()
    assert set(re.findall(r"job='(.+?)'", text("rules.yaml"))) == jobs


def test_the_broker_may_be_reached_on_its_ports() -> None:
    egress = only("NetworkPolicy")["spec"]["egress"]
    anywhere = [{port["port"] for port in one["ports"]} for one in egress if "to" not in one]
    assert set(PORTS.values()) in anywhere

"""A service on a real cluster: rolled, scaled, emptied and rolled back, under load."""

import contextlib
import json
import uuid
from pathlib import Path

import pytest

from tests.docker.containers import eventually
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.load import Load
from tests.kubernetes.cluster import SECONDS
from tests.kubernetes.cluster import Cluster

PATHS = ("/v1/products/tea", "/v1/orders")


def keeps(client: Client) -> Answer:
    """Ask on a connection that is kept."""
    return client("GET", PATHS[0])


def opens(client: Client) -> Answer:
    """Ask on a connection of its own."""
    try:
        return client("GET", PATHS[1])
    finally:
        client.close()


@pytest.fixture
def first(deployed: Cluster, images: dict[str, str]) -> Cluster:
    """The same, whatever a test before left behind."""
    deployed.passes("deploy", IMAGE=images["one"])
    deployed.settle(2)
    return deployed


def loaded(cluster: Cluster) -> Load:
    """Clients of the Service, some hundred requests a second at most."""
    host = cluster.address(cluster.service.name)
    return Load(5000, *(keeps, opens) * 4, pause=0.05, host=host)


def complete(load: Load) -> int:
    """Return how many requests were answered; all must have been, and well."""
    assert load.failures == []
    refused = [answer.body.decode() for answer in load.answers if answer.status != 200]
    assert refused == []
    return len(load.answers)


def image(cluster: Cluster) -> str:
    """The image that the Deployment asks for."""
    (container,) = cluster.deployment()["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


def test_a_release_migrates_becomes_ready_and_answers(deployed: Cluster) -> None:
    (job,) = deployed.found("jobs")["items"]
    assert job["status"]["succeeded"] == 1
    assert job["metadata"]["name"].startswith(f"{deployed.service.name}-migrate-")
    host = deployed.address(deployed.service.name)
    with contextlib.closing(Client(5000, host)) as client:
        assert [client("GET", path).status for path in PATHS] == [200, 200]


def test_the_same_release_again_changes_nothing(deployed: Cluster, images: dict[str, str]) -> None:
    names = [pod["metadata"]["name"] for pod in deployed.pods()]
    told = deployed.passes("deploy", IMAGE=images["one"])
    assert {line.rpartition(" ")[2] for line in told.splitlines()} <= {"unchanged", "configured"}
    assert [pod["metadata"]["name"] for pod in deployed.pods()] == names
    assert len(deployed.found("jobs")["items"]) == 1


def test_a_pod_can_write_its_files_in_memory_alone(deployed: Cluster) -> None:
    code = """
import json, os, tempfile
def writable(folder):
    try:
        tempfile.NamedTemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "writable": [f for f in ("/", "/app", "/opt", "/tmp", "/dev/shm", "/run") if writable(f)],
    "uid": os.getuid(),
    "capabilities": status["CapEff"],
    "no_new_privileges": status["NoNewPrivs"],
    "seccomp": status["Seccomp"],
    "files": tempfile.gettempdir(),
    "variables": sorted(name for name in os.environ if name.endswith("_SERVICE_HOST")),
}))
"""
    name = deployed.pods()[0]["metadata"]["name"]
    told = json.loads(deployed.run(name, "python", "-c", code))
    assert told.pop("variables") in ([], ["KUBERNETES_SERVICE_HOST"])
    assert told == {
        "writable": ["/tmp", "/dev/shm"],
        "uid": 10001,
        "capabilities": "0000000000000000",
        "no_new_privileges": "1",
        "seccomp": "2",
        "files": "/dev/shm",
    }


def test_a_release_rolls_out_and_back_without_a_failed_request(
    first: Cluster, images: dict[str, str]
) -> None:
    with loaded(first) as load:
        first.passes("deploy", IMAGE=images["two"])
        first.settle(2)
        assert image(first) == images["two"]
        first.passes("rollback")
        first.settle(2)
        assert image(first) == images["one"]
    assert complete(load) > 500


def test_a_changed_setting_rolls_the_pods_without_a_failed_request(
    first: Cluster, images: dict[str, str], tmp_path: Path
) -> None:
    shared = tmp_path / "common.env"
    own = tmp_path / "own.env"
    shared.write_text("# of all services\nLOG_LEVEL=ERROR\nSLOW_REQUEST=3\n")
    own.write_text("LOG_LEVEL=WARNING\n")
    with loaded(first) as load:
        first.passes("deploy", f"CONFIG={shared} {own}", IMAGE=images["one"])
        first.settle(2)
    complete(load)
    command = ("python", "-m", "service", "config")
    for pod in first.pods():
        told = first.run(pod["metadata"]["name"], *command).splitlines()
        assert {"LOG_LEVEL=WARNING", "SLOW_REQUEST=3.0", "DRAIN_DELAY=5.0"} <= set(told)


def test_pods_come_and_go_without_a_failed_request(first: Cluster) -> None:
    scale = ("scale", f"deployment/{first.service.name}")
    with loaded(first) as load:
        first(*scale, "--replicas=3")
        first.settle(3)
        first(*scale, "--replicas=2")
        first.settle(2)
        # Until the one that goes has drained.
        eventually(
            lambda: (
                len(first.found("pods", "--selector=app.kubernetes.io/component=api")["items"]) == 2
            ),
            "it is gone",
            SECONDS,
        )
    complete(load)


def evict(cluster: Cluster, pod: str) -> str:
    """Ask for the eviction of a pod, as `kubectl drain` does; return what is answered."""
    body = {
        "apiVersion": "policy/v1beta1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": cluster.namespace},
    }
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/eviction"
    try:
        return cluster("create", f"--raw={path}", "--filename=-", stdin=json.dumps(body))
    except AssertionError as refused:
        return str(refused)


def test_one_pod_at_a_time_may_be_evicted_without_a_failed_request(first: Cluster) -> None:
    def may_one_go() -> bool:
        status = first.found("pdb", first.service.name)["status"]
        return bool(status.get("disruptionsAllowed") == 1 and status["currentHealthy"] == 2)

    with loaded(first) as load:
        for _ in range(2):
            eventually(may_one_go, "one may go", SECONDS)
            one, other = (pod["metadata"]["name"] for pod in first.pods())
            assert '"Success"' in evict(first, one)
            assert "disruption budget" in evict(first, other)
            first.settle(2)
    complete(load)


def test_a_release_that_does_not_start_stops_and_the_old_one_serves(
    first: Cluster, images: dict[str, str]
) -> None:
    with loaded(first) as load:
        failed = first.make("deploy", IMAGE=images["broken"])
        told = [line for line in failed.stderr.splitlines() if not line.startswith("make")]
        assert failed.returncode != 0
        (line,) = told
        assert "did not become ready" in line
        assert "make rollback TARGET=kubernetes" in line
        ready = first.deployment()["status"]["readyReplicas"]
        assert ready == 2
        first.passes("rollback")
        first.settle(2)
    assert image(first) == images["one"]
    complete(load)


def test_a_migration_that_fails_stops_the_release_before_any_pod_is_replaced(
    first: Cluster, images: dict[str, str]
) -> None:
    names = [pod["metadata"]["name"] for pod in first.pods()]
    with loaded(first) as load:
        failed = first.make("deploy", IMAGE=images["unmigrated"])
    told = [line for line in failed.stderr.splitlines() if not line.startswith("make")]
    assert failed.returncode != 0
    (line,) = told
    assert "its migrations failed, and nothing was rolled out" in line
    assert image(first) == images["one"]
    assert [pod["metadata"]["name"] for pod in first.pods()] == names
    assert "a migration that fails" in first.logs()
    complete(load)


def test_an_event_goes_by_the_relay_and_the_broker_to_the_consumer(deployed: Cluster) -> None:
    host = deployed.address(deployed.service.name)
    order = {"reference": uuid.uuid4().hex, "sku": "tea", "quantity": 3}
    with contextlib.closing(Client(5000, host)) as client:
        assert client("POST", "/v1/orders", order, Idempotency_Key="1").status == 201
        eventually(
            lambda: any(one["sku"] == "tea" for one in client("GET", "/v1/sales").json()["items"]),
            "it is sold",
            SECONDS,
        )


def test_the_relay_and_the_consumer_are_rolled_with_the_service(
    first: Cluster, images: dict[str, str]
) -> None:
    first.passes("deploy", IMAGE=images["two"])
    name = first.service.name
    for worker in (f"{name}-relay", f"{name}-consumer"):
        spec = first.found("deployment", worker)["spec"]["template"]["spec"]
        assert [one["image"] for one in spec["containers"]] == [images["two"]]

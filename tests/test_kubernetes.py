"""The Kubernetes manifests of every combination: they build, fit their schemas and are restricted.

`make test-kubernetes` rolls them out on a cluster.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import CHOICES
from tests.conftest import Bake

VERSIONS = ("1.35", "1.36", "1.37")  # the newest, and the two before
LINES = 300  # of manifests, without comments, empty lines and what `make rules` writes
SLUG = "orders"
# Kinds of operators, of which no schema is at hand: all fields that ours may have.
FIELDS = {
    ("external-secrets.io/v1", "ExternalSecret"): {
        "spec.secretStoreRef.kind",
        "spec.secretStoreRef.name",
        "spec.data.secretKey",
        "spec.data.remoteRef.key",
    },
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {
        "spec.parentRefs.name",
        "spec.parentRefs.namespace",
        "spec.rules.name",
        "spec.rules.matches.path.type",
        "spec.rules.matches.path.value",
        "spec.rules.filters.type",
        "spec.rules.filters.urlRewrite.path.type",
        "spec.rules.filters.urlRewrite.path.replacePrefixMatch",
        "spec.rules.timeouts.request",
        "spec.rules.timeouts.backendRequest",
        "spec.rules.backendRefs.name",
        "spec.rules.backendRefs.port",
        "spec.rules.backendRefs.weight",
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "spec.jobLabel",
        "spec.selector.matchLabels",
        "spec.podMetricsEndpoints.port",
        "spec.podMetricsEndpoints.path",
        "spec.podMetricsEndpoints.relabelings.sourceLabels",
        "spec.podMetricsEndpoints.relabelings.regex",
        "spec.podMetricsEndpoints.relabelings.targetLabel",
        "spec.podMetricsEndpoints.relabelings.replacement",
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "spec.groups.name",
        "spec.groups.rules.record",
        "spec.groups.rules.alert",
        "spec.groups.rules.expr",
        "spec.groups.rules.for",
        "spec.groups.rules.labels",
        "spec.groups.rules.annotations",
    },
}
MAPS = ("labels", "annotations", "matchLabels")

Object = dict[str, Any]
Built = dict[str, list[Object]]


def combinations() -> Iterator[dict[str, str]]:
    """Yield all answers that decide on what the manifests hold."""
    for database in CHOICES["database"]:
        for messaging in CHOICES.get("messaging", ["none"]):
            if messaging == "none":
                yield {"database": database}
            elif database != "none":
                yield {"database": database, "messaging": messaging}


def label(answers: dict[str, str]) -> str:
    return "-".join(answers.values())


@pytest.fixture(scope="module", params=combinations(), ids=label)
def service(request: pytest.FixtureRequest, bake: Bake) -> Path:
    """A service with manifests, one for each combination."""
    return bake(kubernetes="yes", service_slug=SLUG, **request.param)


def kustomize(folder: Path) -> list[Object]:
    """Build a folder's manifests, as `kubectl apply -k` does."""
    if not shutil.which("kubectl"):
        pytest.fail("kubectl is not on the PATH: https://kubernetes.io/docs/tasks/tools/")
    command = ("kubectl", "kustomize", str(folder))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.fixture(scope="module")
def built(service: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return what each folder of the service gives, and the canary of production."""
    folder = service / "deploy" / "kubernetes"
    made = {
        name: kustomize(folder / name)
        for name in ("overlays/production", "overlays/staging", "migrate")
        if (folder / name).exists()
    }
    around = tmp_path_factory.mktemp("canary")
    (around / "deploy").symlink_to(service / "deploy")
    content = {
        "resources": ["./deploy/kubernetes/overlays/production"],
        "components": ["./deploy/kubernetes/canary"],
    }
    (around / "kustomization.yaml").write_text(json.dumps(content), "utf-8")
    return {**made, "canary": kustomize(around)}


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of each field that holds a value, without the places in lists."""
    if isinstance(value, dict) and path.rpartition(".")[2] not in MAPS:
        for name, inner in value.items():
            yield from fields(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for one in value:
            yield from fields(one, path)
    elif path:
        yield path


def faults_of_schema(thing: Object) -> list[str]:
    """Return what keeps an object from fitting its schema, strictly, in each version."""
    own = FIELDS.get((thing["apiVersion"], thing["kind"]))
    if own is not None:
        return sorted(set(fields({"spec": thing["spec"]})) - own)
    found = []
    for version in VERSIONS:
        try:
            used = kubernetes_validate.validate(thing, version, strict=True)
            assert used == version
        except kubernetes_validate.ValidationError as error:
            found.append(f"{version}: {error.message}")
    return found


@pytest.mark.slow
def test_every_object_fits_its_schema_in_three_versions(built: Built) -> None:
    faults = {
        f"{name}: {one['kind']} {one['metadata']['name']}": faults_of_schema(one)
        for name, objects in built.items()
        for one in objects
    }
    assert {name: fault for name, fault in faults.items() if fault} == {}


@pytest.mark.parametrize(
    ("kind", "version", "spec"),
    [("Service", "v1", {"port": []}), ("HTTPRoute", "gateway.networking.k8s.io/v1", {"host": "x"})],
)
def test_a_misspelt_field_is_found(kind: str, version: str, spec: Object) -> None:
    thing = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    assert faults_of_schema(thing)


def pods(objects: list[Object]) -> dict[str, Object]:
    """Return the pods that objects make, by the objects' names."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in objects
        if "template" in one.get("spec", {})
    }


def faults_of_security(pod: Object) -> list[str]:
    """Return what the Pod Security Standard `restricted` refuses, and what of ours is not there.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    whole = pod.get("securityContext", {})
    kinds = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
    checks = {
        "hostNetwork, hostPID, hostIPC": not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"},
        "volumes": all(set(one) - {"name"} <= kinds for one in pod.get("volumes", [])),
        "runAsNonRoot": whole.get("runAsNonRoot") is True and whole.get("runAsUser", 0) > 0,
        "seccompProfile": whole.get("seccompProfile") == {"type": "RuntimeDefault"},
        "token": pod.get("automountServiceAccountToken") is False,
        "service links": pod.get("enableServiceLinks") is False,
    }
    for container in pod["containers"] + pod.get("initContainers", []):
        own = container.get("securityContext", {})
        allowed = {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
        checks |= {
            "nothing else": own.keys() <= allowed,
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
            "memory": "memory" in container["resources"]["limits"],
        }
    return [name for name, is_good in checks.items() if not is_good]


def test_every_pod_is_restricted(built: Built) -> None:
    for name, objects in built.items():
        found = pods(objects)
        assert found, name
        assert {pod: faults_of_security(found[pod]) for pod in found} == {pod: [] for pod in found}


def test_what_restricted_refuses_is_found() -> None:
    assert set(faults_of_security({"containers": [{"resources": {"limits": {}}}]})) >= {
        "runAsNonRoot",
        "seccompProfile",
        "allowPrivilegeEscalation",
        "capabilities",
        "memory",
    }


def test_every_name_that_a_pod_uses_is_there(built: Built) -> None:
    for name, objects in built.items():
        there = {(one["kind"], one["metadata"]["name"]) for one in objects}
        for pod in pods(objects).values():
            for container in pod["containers"]:
                for source in container["envFrom"]:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in there
            account = pod.get("serviceAccountName")
            assert name == "canary" or account is None or ("ServiceAccount", account) in there


def test_a_changed_setting_gives_the_pods_another_name_of_their_settings(
    service: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(service / "deploy", tmp_path / "deploy")
    folder = copy / "kubernetes" / "overlays" / "production"
    before = pods(kustomize(folder))
    with (folder / "config.env").open("a") as file:
        file.write("SLOW_REQUEST=7\n")
    assert pods(kustomize(folder)) != before


def test_the_environments_have_namespaces_of_their_own(built: Built) -> None:
    for environment in ("production", "staging"):
        spaces = {one["metadata"]["namespace"] for one in built[f"overlays/{environment}"]}
        assert spaces == {environment}


def test_a_canary_is_one_deployment_with_its_own_service_and_settings(
    built: Built,
) -> None:
    kinds = {one["kind"]: one for one in built["canary"]}
    assert sorted(one["kind"] for one in built["canary"]) == ["ConfigMap", "Deployment", "Service"]
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Deployment"]["spec"]["replicas"] == 1
    assert {kinds[kind]["metadata"]["name"] for kind in ("Deployment", "Service")} == {
        f"{SLUG}-canary"
    }
    assert kinds["Service"]["spec"]["selector"].items() <= labels.items()
    (stable,) = (one for one in built["overlays/production"] if one["kind"] == "Service")
    assert not stable["spec"]["selector"].items() <= labels.items()
    (policy,) = (one for one in built["overlays/production"] if one["kind"] == "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_manifests_are_small(service: Path) -> None:
    files = [
        path
        for path in (service / "deploy" / "kubernetes").rglob("*")
        if path.suffix in (".yaml", ".env") and path.parts[-2:] != ("monitoring", "rules.yaml")
    ]
    lines = [line.strip() for path in files for line in path.read_text("utf-8").splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= LINES


def job(service: Path) -> Object:
    """The CronJob of the recipes."""
    text = (service / "RECIPES.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(apiVersion: batch/v1\n.*?)```", text, re.DOTALL)
    made: Object = yaml.safe_load(block)
    return made


def test_the_job_of_the_recipes_is_restricted_and_gets_the_settings(
    service: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(service / "deploy", tmp_path / "deploy")
    base = copy / "kubernetes" / "base"
    (base / "inventory.yaml").write_text(json.dumps(job(service)))
    kustomization = base / "kustomization.yaml"
    content = yaml.safe_load(kustomization.read_text("utf-8"))
    content["resources"].append("inventory.yaml")
    kustomization.write_text(json.dumps(content), "utf-8")
    objects = kustomize(copy / "kubernetes" / "overlays" / "production")
    (made,) = (one for one in objects if one["kind"] == "CronJob")
    assert faults_of_schema(made) == []
    pod = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert faults_of_security(pod) == []
    (settings,) = (one for one in objects if one["kind"] == "ConfigMap")
    (source,) = pod["containers"][0]["envFrom"]
    assert source["configMapRef"]["name"] == settings["metadata"]["name"]


def run(service: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run make in the service with no cluster to ask."""
    command = ("make", "--no-print-directory", "TARGET=kubernetes", *arguments)
    nowhere = {"KUBECONFIG": "/dev/null", **environment}
    merged = os.environ | nowhere
    return subprocess.run(command, cwd=service, env=merged, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("deploy", "OVERLAY=moon"), "OVERLAY=moon: there is no deploy/kubernetes/overlays/moon"),
        (("deploy", "CONFIG=no.env"), "CONFIG: there is no no.env"),
    ],
)
def test_a_wrong_word_ends_in_one_line(bake: Bake, arguments: tuple[str, ...], told: str) -> None:
    done = run(bake(kubernetes="yes", service_slug=SLUG), *arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert (done.returncode != 0, lines) == (True, [told])


def test_a_machine_without_kubectl_is_told_so(bake: Bake, tmp_path: Path) -> None:
    for tool in ("make", "sh", "sed", "env"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = run(bake(kubernetes="yes", service_slug=SLUG), "deploy", PATH=str(tmp_path))
    assert "kubectl is not on the PATH" in done.stderr


def test_a_chart_wraps_the_manifests_as_the_readme_says(service: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(service, tmp_path / "service")
    (copy / "chart" / "templates").mkdir(parents=True)
    text = (service / "deploy" / "kubernetes" / "README.md").read_text("utf-8")
    (command,) = re.findall(r"^kubectl kustomize .*\| sed .*$", text, re.MULTILINE)
    subprocess.run(("sh", "-ec", command), cwd=copy, check=True)
    chart = (copy / "chart" / "templates" / "all.yaml").read_text("utf-8")
    images = re.findall(r"image: (.*)", chart)
    assert images
    assert set(images) == {"{{ .Values.image | quote }}"}

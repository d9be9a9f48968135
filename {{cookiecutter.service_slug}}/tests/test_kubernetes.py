"""Facts of the Kubernetes manifests, compared with the service, its image and compose."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient
from support import ROOT
from support import found
from support import mentioned
from support import missing_files
from support import text
from test_consistency import MIB
from test_consistency import compose
from test_consistency import default
from test_consistency import makefiles
from test_consistency import manifest

from service.app import create_app
from service.chassis.project import PROJECT
from service.chassis.server.settings import BASE_MEMORY
from service.settings import Settings

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
ROUTE = "deploy/gateway/route.yaml"
SCRIPT = "scripts/kubernetes.sh"
LABEL = "app.kubernetes.io/name"


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text("utf-8")) if one]


EVERYTHING = [one for path in FILES for one in documents(path)]


def only(kind: str) -> dict[str, Any]:
    (one,) = (one for one in EVERYTHING if one["kind"] == kind)
    return one


def loaded(name: str) -> dict[str, Any]:
    (one,) = documents(ROOT / name)
    return one


def pod_template(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = loaded(f"deploy/kubernetes/{name}")["spec"]["template"]["spec"]
    return pod


def container(name: str) -> dict[str, Any]:
    (one,) = pod_template(name)["containers"]
    return dict(one)


def environment(*names: str) -> dict[str, str]:
    """Return the variables of files, of which a later one wins."""
    lines = [line for name in names for line in (FOLDER / name).read_text("utf-8").splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def labels(workload: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


API = loaded("deploy/kubernetes/base/deployment.yaml")
SHARED = [loaded(f"deploy/kubernetes/{name}") for name in ("base/process.yaml", "pod/pod.yaml")]
WORKLOADS = [one for one in EVERYTHING if "template" in one.get("spec", {}) and one not in SHARED]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def test_the_port_is_the_settings_default() -> None:
    (port,) = container("base/process.yaml")["ports"]
    (published,) = only("Service")["spec"]["ports"]
    (rule,) = loaded(ROUTE)["spec"]["rules"]
    ports = [port["containerPort"], published["port"], rule["backendRefs"][0]["port"]]
    ports += [int(number) for number in re.findall(r'"port": (\d+)', text(SCRIPT))]
    assert ports == [default("port")] * 4


def test_whatever_asks_a_pod_names_its_port() -> None:
    process = container("base/process.yaml")
    (port,) = process["ports"]
    (ingress,) = only("NetworkPolicy")["spec"]["ingress"]
    (scraped,) = only("PodMonitor")["spec"]["podMetricsEndpoints"]
    named = [process[probe]["httpGet"]["port"] for probe in PROBES]
    named += [only("Service")["spec"]["ports"][0]["targetPort"], scraped["port"]]
    named += [one["port"] for one in ingress["ports"]]
    assert set(named) == {port["name"]}


def test_every_path_that_a_pod_is_asked_for_answers(client: FlaskClient) -> None:
    process = container("base/process.yaml")
    paths = [process[probe]["httpGet"]["path"] for probe in PROBES]
    paths.append(only("PodMonitor")["spec"]["podMetricsEndpoints"][0]["path"])
    assert {path: client.get(path).status_code for path in paths} == dict.fromkeys(paths, 200)


def test_a_pod_that_drains_is_alive_and_not_ready() -> None:
    app = create_app(Settings())
    app.readiness.drain()
    process = container("base/process.yaml")
    client = app.test_client()
    answers = [client.get(process[probe]["httpGet"]["path"]).status_code for probe in PROBES]
    assert answers == [200, 200, 503]


def test_a_pod_has_as_long_to_start_as_the_image_gives_it() -> None:
    startup = container("base/process.yaml")["startupProbe"]
    seconds = startup["periodSeconds"] * startup["failureThreshold"]
    assert seconds == int(found(r"--start-period=(\d+)s", "Dockerfile"))
    assert startup["httpGet"]["path"] == found(r"GET (/\S+) HTTP", "Dockerfile")


def test_a_pod_runs_as_the_user_of_the_image() -> None:
    security = pod_template("pod/pod.yaml")["securityContext"]
    user = f"{security['runAsUser']}:{security['runAsGroup']}"
    assert user == found(r"^USER (.+)$", "Dockerfile")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_the_time_to_drain_before_it_is_killed(overlay: str) -> None:
    settings = environment("pod/config.env", f"overlays/{overlay}/config.env")
    drain = float(settings["DRAIN_DELAY"])
    grace = float(settings.get("SHUTDOWN_GRACE", default("shutdown_grace")))
    assert pod_template("base/process.yaml")["terminationGracePeriodSeconds"] == drain + grace + 5
    for advised in mentioned(r"On Kubernetes, set `DRAIN_DELAY` to (\d+)", "README.md"):
        assert drain == float(advised)


def test_a_pod_has_the_memory_of_compose_and_asks_for_what_was_measured() -> None:
    resources = container("pod/pod.yaml")["resources"]
    files = pod_template("pod/pod.yaml")["volumes"][0]["emptyDir"]["sizeLimit"]
    memory = {name: int(resources[name]["memory"].removesuffix("Mi")) for name in resources}
    shared = int(files.removesuffix("Mi"))
    assert f"{memory['limits']}m" == compose()["mem_limit"]
    assert f"{shared}m" == compose()["shm_size"]
    assert memory["requests"] * MIB >= BASE_MEMORY + shared * MIB
    assert "cpu" not in resources["limits"]


def test_uploads_find_room_where_the_image_keeps_them_and_where_programs_expect_it() -> None:
    mounts = container("pod/pod.yaml")["volumeMounts"]
    writable = {one["mountPath"] for one in mounts if one["name"] == "files"}
    assert writable == {found(r"TMPDIR=(\S+)", "Dockerfile"), "/tmp"}  # noqa: S108 in a pod


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting_that_takes_its_value(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment("pod/config.env", f"overlays/{overlay}/config.env")
    settings = {setting.upper() for setting in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in given} <= settings
    for name, value in given.items():
        if not name.endswith("_FILE"):
            monkeypatch.setenv(name, value)
    Settings.load()


def test_every_name_is_that_of_the_project() -> None:
    name = PROJECT.name
    things = [*EVERYTHING, loaded(ROUTE)]
    names = {one["metadata"]["name"] for one in things} - {"any"}
    assert {one for one in names if one != name and not one.startswith(f"{name}-")} == set()
    (rule,) = loaded(ROUTE)["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": name, "port": default("port")}]
    assert [match["path"]["value"] for match in rule["matches"]] == [f"/{name}"]
    pod = pod_template("pod/pod.yaml")
    settings = container("pod/pod.yaml")["envFrom"]
    assert (pod["containers"][0]["image"], settings) == (name, [{"configMapRef": {"name": name}}])
    generated = [
        one["name"]
        for path in KUSTOMIZATIONS
        for document in documents(path)
        for one in document.get("configMapGenerator", [])
    ]
    assert set(generated) == {name}


def test_every_selector_selects_the_pods_that_it_is_for() -> None:
    selected = [
        API["spec"]["selector"]["matchLabels"],
        only("Service")["spec"]["selector"],
        only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in API["spec"]["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert selected == [labels(API)] * len(selected)
    for kind in ("NetworkPolicy", "PodMonitor"):
        spec = only(kind)["spec"]
        matched = spec.get("podSelector", spec.get("selector"))["matchLabels"]
        assert [one for one in WORKLOADS if not matched.items() <= labels(one).items()] == []
    assert only("PodMonitor")["spec"]["jobLabel"] in labels(API)


def test_every_pod_gets_what_all_share() -> None:
    (patch,) = loaded("deploy/kubernetes/pod/kustomization.yaml")["patches"]
    kinds = {one["kind"] for one in WORKLOADS}
    assert kinds <= set(patch["target"]["kind"].split("|"))
    bases = {path.parent for path in FILES for one in documents(path) if one in WORKLOADS}
    for base in bases:
        assert "../pod" in documents(base / "kustomization.yaml")[0]["components"]


def test_the_account_is_the_pods_and_gets_no_token() -> None:
    account = only("ServiceAccount")
    assert pod_template("base/process.yaml")["serviceAccountName"] == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert pod_template("pod/pod.yaml")["automountServiceAccountToken"] is False


def test_the_collector_may_be_reached_where_the_settings_expect_it() -> None:
    advised = {int(port) for port in mentioned(r"http://collector:(\d+)", "README.md")}
    allowed = {
        port["port"] for one in only("NetworkPolicy")["spec"]["egress"] for port in one["ports"]
    }
    assert advised <= allowed


def test_the_operators_rules_are_those_of_prometheus() -> None:
    script = ROOT / "scripts" / "prometheus_rule.py"
    command = (sys.executable, str(script))
    made = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 ours
    written = text("deploy/kubernetes/monitoring/rules.yaml")
    without_conditions = re.sub(r"  # only-[i]f: .*$", "", written, flags=re.MULTILINE)
    assert without_conditions == made.stdout, "run make rules"


def test_a_canary_is_judged_as_the_alerts_judge_the_service() -> None:
    rate = re.findall(r'^    \("page", ([\d.]+), "1h"', text("scripts/rules.py"), re.MULTILINE)
    assert [found(r"^BURN_RATE = ([\d.]+)", "scripts/canary.py")] == rate
    metric = r'^DURATION = "(\w+)"$'
    assert found(metric, "scripts/canary.py") == found(metric, "scripts/rules.py")
    assert manifest()["slo"].keys() >= {"availability_percent", "latency_percent"}


def test_the_makefile_and_its_script_name_commands_and_files_that_exist() -> None:
    functions = set(re.findall(r"^(\w+)\(\) \{", text(SCRIPT), re.MULTILINE))
    assert mentioned(r"\$\(ON_KUBERNETES\) (\w+)", "kubernetes.mk") <= functions
    assert mentioned(r"sh (scripts/[\w.]+)", "kubernetes.mk") == {SCRIPT}
    targets = set(re.findall(r"^([a-z-]+):", makefiles(), re.MULTILINE))
    assert mentioned(r"\bmake ([a-z-]+) TARGET=", SCRIPT) <= targets
    # What the script makes or finds, and Helm's.
    others = {"overlay/kustomization.yaml", "work/kustomization.yaml"}
    others |= {"chart/templates/all.yaml", "helm.sh"}
    for name in ("kubernetes.mk", SCRIPT, "scripts/canary.py", "deploy/kubernetes/README.md"):
        assert missing_files(name) <= others

"""Facts that stand in more than one file, compared with each other and with the running service.

Of the README only commands and tables are compared, where they are; its text is yours.
"""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient
from packaging.requirements import Requirement
from packaging.version import Version
from pydantic import HttpUrl
from pydantic.fields import FieldInfo
from support import ROOT
from support import found
from support import mentioned
from support import missing_files
from support import named_numbers
from support import text

from service.app import create_app
from service.chassis.client import calls
from service.chassis.client import limits
from service.chassis.client import transport
from service.chassis.client.failures import CallFailed
from service.chassis.client.settings import CalleeUrl
from service.chassis.project import PROJECT
from service.chassis.server import granian
from service.chassis.server.settings import BODY_FACTOR
from service.chassis.server.settings import CONCURRENCY
from service.chassis.server.settings import default_concurrency
from service.chassis.telemetry import metrics
from service.settings import Settings

WORKFLOWS = [*ROOT.glob(".github/workflows/*.yml"), *ROOT.glob(".gitlab-ci.yml")]
# Environment names that are no settings: the two ways to give one, and the builder's own.
NO_SETTINGS = {"CONFIG_DIR", "KEEP_ALIVE", "NAME_FILE", "SOURCE_DATE_EPOCH"}
MIB = 1024 * 1024


def makefiles() -> str:
    return "".join(text(path.name) for path in (ROOT / "Makefile", *sorted(ROOT.glob("*.mk"))))


def default(setting: str) -> Any:
    return Settings.model_fields[setting].default


def compose() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(text("compose.yaml"))["services"][PROJECT.name]
    return service


def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads(text("pyproject.toml"))
    return document


def pins(name: str) -> dict[str, Version]:
    return {
        match[1]: Version(match[2])
        for match in re.finditer(r"^([\w.-]+)==([\w.]+)", text(name), re.MULTILINE)
    }


def requirements(group: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in group]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Dockerfile", r"^EXPOSE (\d+)$"),
        ("Dockerfile", r"environ\.get\(b'PORT', (\d+)\)"),
        ("compose.override.yaml", r"published: \$\{PORT:-(\d+)\}"),
        ("compose.override.yaml", r"target: (\d+)$"),
        ("Makefile", r"--port \$\$\{PORT:-(\d+)\}"),
        ("Makefile", r"on port (\d+)"),
        ("scripts/smoke.py", r"http://localhost:(\d+)"),
    ],
)
def test_the_port_is_the_settings_default(name: str, pattern: str) -> None:
    assert int(found(pattern, name)) == default("port")


@pytest.mark.parametrize(
    "pattern", [r"^docker .*-p \d+:(\d+)", r"^docker .*-p (\d+):", r"^curl .*localhost:(\d+)"]
)
def test_the_readme_names_no_other_port(pattern: str) -> None:
    assert {int(port) for port in mentioned(pattern, "README.md")} <= {default("port")}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Dockerfile", r"GET (/\S+) HTTP"),
        ("scripts/smoke.py", r'"(/(?!no/)[\w./-]+)"'),
        ("README.md", r"^\| `(/(?!v1/)[\w./-]+)`"),
        ("README.md", r"^curl .*localhost:\d+(/[\w/-]+/?)"),
    ],
)
def test_every_path_that_a_file_names_answers(name: str, pattern: str, client: FlaskClient) -> None:
    paths = mentioned(pattern, name)
    assert paths or name == "README.md"
    answers = {path: client.get(path).status_code for path in paths}
    assert answers == dict.fromkeys(paths, 200)


def test_only_their_own_tests_import_what_stands_on_the_chassis() -> None:
    owners = ("api", "domain", "events", "storage")
    imported = rf"^ *(?:from|import) service(?:\.| import )(?:{'|'.join(owners)})\b"
    tests = (path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))
    others = [str(path) for path in tests if path.parts[1] not in owners]
    assert {name: mentioned(imported, name) for name in others} == {name: set() for name in others}


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    user, group = found(r"^USER (.+)$", "Dockerfile").split(":")
    assert (int(user) > 0, group) == (True, user)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("compose.yaml", r"^      - ([A-Z_]+)$"),
        ("compose.yaml", r"\b([A-Z]+_[A-Z]+)\b"),
        ("compose.override.yaml", r"\$\{([A-Z_]+):"),
        ("Dockerfile", r"environ\.get\(b'(\w+)'"),
        ("README.md", r"^\| `([A-Z_]+)` \|"),
    ],
)
def test_every_environment_name_that_a_file_uses_is_a_setting(name: str, pattern: str) -> None:
    names = mentioned(pattern, name)
    assert names or name == "README.md"
    assert names - {setting.upper() for setting in Settings.model_fields} <= NO_SETTINGS


def test_make_and_compose_serve_this_machine_alone_where_nothing_else_is_asked() -> None:
    for name in ("Makefile", "compose.override.yaml"):
        assert found(r"\$\{BIND_ADDRESS:-(.+?)\}", name) == "127.0.0.1"


def settings_rows() -> list[str]:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    fields: dict[str, FieldInfo] = {}
    for base in Settings.__bases__:
        fields |= getattr(base, "model_fields", {})
    fields |= Settings.model_fields
    for name, field in sorted(fields.items(), key=lambda item: item[0].startswith("otel_")):
        value = "" if field.default is None else f"`{field.default}`"
        if field.default_factory:
            value = "from the container's limits"
        rows.append(f"| `{name.upper()}` | {value} | {field.description} |")
    return rows


def test_the_settings_in_the_readme_are_those_of_the_class() -> None:
    rows = settings_rows()
    for table in mentioned(r"<!-- settings.*-->\n((?:.*\n)*)<!-- /settings -->", "README.md"):
        written = [row.rpartition("|")[0] + "|" for row in table.splitlines()]
        assert written == rows, "\n".join(["README.md needs:", *rows])


def test_compose_waits_for_the_drain_and_the_grace_before_it_kills() -> None:
    least = default("drain_delay") + default("shutdown_grace") + 5
    assert int(compose()["stop_grace_period"].removesuffix("s")) >= least


def test_a_number_that_the_readme_names_is_that_of_the_code() -> None:
    named = named_numbers("README.md")
    numbers = {
        "BODY_FACTOR": BODY_FACTOR,
        "KEEP_ALIVE": granian.KEEP_ALIVE / 1000,
        "MAX_AGE": transport.MAX_AGE,
        "MAX_CONNECTIONS": granian.MAX_CONNECTIONS,
        "MAX_HEAD": granian.MAX_HEAD,
        "MAX_RETRIES": calls.MAX_RETRIES,
        "MIN_RESULTS": limits.MIN_RESULTS,
        "PAUSE": limits.PAUSE,
        "RETRY_RATIO": limits.RETRY_RATIO * 100,
        "WINDOW": limits.WINDOW,
        "stop_grace_period": float(compose()["stop_grace_period"].removesuffix("s")),
    }
    assert {name: numbers[name] for name in named} == named


def test_the_limit_of_a_body_that_the_readme_names_is_that_of_the_settings() -> None:
    limits = mentioned(r"^\| a body has at most (\d+) KiB", "README.md")
    assert {int(limit) * 1024 for limit in limits} <= {default("max_body_size")}


def test_the_health_check_gives_up_before_docker_does() -> None:
    assert int(found(r"settimeout\((\d+)\)", "Dockerfile")) < int(
        found(r"--timeout=(\d+)s", "Dockerfile")
    )


@pytest.mark.parametrize(
    "name", ["Dockerfile", *(path.name for path in WORKFLOWS if path.name == ".gitlab-ci.yml")]
)
def test_the_python_version_is_that_of_the_version_file(name: str) -> None:
    assert found(r"python:(\S.*)-slim", name) == text(".python-version").strip()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Makefile", r"--python-version (3\.\d+)"),
        ("Makefile", r"Python (3\.\d+) or newer"),
    ],
)
def test_the_oldest_python_is_that_of_the_project(name: str, pattern: str) -> None:
    assert f">={found(pattern, name)}" == project()["project"]["requires-python"]


def test_the_makefile_accepts_the_python_that_the_project_needs() -> None:
    assert (
        found(r"sys\.version_info >= \((.+?)\)", "Makefile").replace(", ", ".")
        in project()["project"]["requires-python"]
    )


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "AGENTS.md",
        "rules.yaml",
        "service.yaml",
        *(str(path.relative_to(ROOT)) for path in WORKFLOWS),
    ],
)
def test_every_make_target_that_a_file_names_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", makefiles(), re.MULTILINE))
    lines = text(name).splitlines()
    if name == "README.md":
        lines = [line for line in lines if line.startswith("| `make ")]
    words = re.findall(r"(?:`|run: |- )make ((?:[a-z-]++(?!=) ?)+)", "\n".join(lines))
    named = {target for several in words for target in several.split()}
    assert named or name.endswith(".md")
    assert named <= targets


def test_every_make_target_is_phony_and_explained() -> None:
    targets = set(re.findall(r"^([a-z-]+):", makefiles(), re.MULTILINE))
    assert (
        set(" ".join(re.findall(r"^\.PHONY: (.+)$", makefiles(), re.MULTILINE)).split()) == targets
    )
    assert set(re.findall(r"^([a-z-]+):.* ## \w", makefiles(), re.MULTILINE)) == targets


def test_every_metric_that_the_readme_names_is_scraped(client: FlaskClient) -> None:
    client.get("/openapi.json")
    scraped = client.get("/metrics").text
    names = mentioned(r"`(http_server_\w+)`", "README.md")
    assert [name for name in names if f"# TYPE {name} " not in scraped] == []


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("Dockerfile", r'image\.title="(.+?)"'),
        ("Makefile", r"^NAME := (.+)$"),
        ("compose.yaml", r'^name: "(.+)"$'),
        ("compose.yaml", r'^  "(.+)":$'),
        ("compose.override.yaml", r'^  "(.+)":$'),
        ("compose.yaml", r"image: \$\{IMAGE:-(.+)\}$"),
        ("compose.swarm.yaml", r'^services:\n  "(.+)":$'),
    ],
)
def test_the_name_is_that_of_the_project(name: str, pattern: str) -> None:
    assert found(pattern, name) == PROJECT.name


@pytest.mark.parametrize("pattern", [r"docker build -t (.+) \.$", r"-p \S+ (.+)$"])
def test_the_readme_names_no_other_image(pattern: str) -> None:
    assert mentioned(pattern, "README.md") <= {PROJECT.name}


def test_the_makefile_reads_the_version_of_the_project() -> None:
    assert found(r'^version = "(.*)"$', "pyproject.toml") == PROJECT.version


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "scripts/contracts/requirements.txt"]
)
def test_the_lock_pins_every_dependency_within_its_range(name: str) -> None:
    locked = pins(name)
    groups = project()["dependency-groups"]
    runtime = project()["project"]["dependencies"]
    wanted = groups["generator"] if "contracts" in name else runtime
    wanted += groups["dev"] if "dev" in name else []
    unfit = [
        str(need)
        for need in requirements(wanted)
        if locked.get(need.name, Version("0")) not in need.specifier
    ]
    assert unfit == [], "run make lock"


def test_the_tests_run_with_the_versions_of_the_image() -> None:
    tested = pins("requirements-dev.txt")
    assert {name: tested.get(name) for name in pins("requirements.txt")} == pins("requirements.txt")


def test_what_the_dockerfile_takes_passes_the_dockerignore() -> None:
    copied = re.findall(r"^COPY (?!--)(\S+) ", text("Dockerfile"), re.MULTILINE)
    mounted = re.findall(r"type=bind,source=(\S+?),", text("Dockerfile"))
    kept = mentioned(r"^!([^/\n]+)", ".dockerignore")
    assert kept == {*copied, *mounted}


def test_the_image_gets_every_kind_of_file_that_lies_in_the_source() -> None:
    kinds = mentioned(r"^!src/\*\*/\*(\.\w+)$", ".dockerignore") | {".pyc"}
    files = [path for path in (ROOT / "src").rglob("*") if path.is_file()]
    left_out = [
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix not in kinds and not path.name.startswith(".")
    ]
    assert left_out == [], "name their kind in .dockerignore, or move them out of src"


def test_make_and_the_readme_give_the_build_what_the_dockerfile_takes() -> None:
    arguments = mentioned(r"^ARG (\w+)", "Dockerfile")
    secrets = mentioned(r"--mount=type=secret,id=(\w+)", "Dockerfile")
    assert mentioned(r"--build-arg (\w+)", "Makefile") == arguments
    assert mentioned(r'--secret "id=(\w+),', "Makefile") == secrets
    assert mentioned(r"--build-arg (\w+)", "README.md") <= arguments
    assert mentioned(r"--secret id=(\w+),", "README.md") <= secrets


def test_the_image_finds_the_source_where_it_is_copied() -> None:
    workdir = re.findall(r"^WORKDIR (.+)$", text("Dockerfile"), re.MULTILINE)[-1]
    assert found(r"PYTHONPATH=(\S+)", "Dockerfile") == f"{workdir}/src"


def test_the_image_keeps_uploads_where_the_readme_says() -> None:
    folder = found(r"TMPDIR=(\S+)", "Dockerfile")
    assert found(r"`TMPDIR`, in the image (\S+),", "README.md") == folder


def test_the_image_finds_its_packages_and_bytecode_where_they_are_made() -> None:
    assert found(r"PYTHONPYCACHEPREFIX=(\S+)", "Dockerfile")
    assert found(r"PATH=(\S+?)/bin:", "Dockerfile") == found(r"uv venv .* (\S+) &&", "Dockerfile")


def test_the_image_starts_what_make_run_starts() -> None:
    assert found(r"^CMD \[(.+)\]$", "Dockerfile").replace('", "', " ").strip('"') == found(
        r"exec \$\(BIN\)/(python .+)$", "Makefile"
    )


def test_compose_gives_memory_for_as_many_requests_as_without_a_limit(tmp_path: Path) -> None:
    limit = int(compose()["mem_limit"].removesuffix("m")) * MIB
    (tmp_path / "memory.max").write_text(str(limit))
    assert default_concurrency(default("max_body_size"), tmp_path) == CONCURRENCY


def test_swarm_gives_a_replica_what_compose_gives_a_container() -> None:
    replica = yaml.safe_load(text("compose.swarm.yaml"))["services"][PROJECT.name]
    container = compose()
    for key in ("image", "stop_grace_period", "read_only", "cap_drop", "logging", "secrets"):
        assert replica.get(key) == container.get(key), key
    limits = (str(container["cpus"]), container["mem_limit"], container["pids_limit"])
    assert tuple(replica["deploy"]["resources"]["limits"].values()) == limits
    names, own = (
        {pair.partition("=")[0] for pair in one["environment"]} for one in (container, replica)
    )
    assert own == names | {"DRAIN_DELAY"}


def test_compose_gives_processes_for_as_many_requests_as_are_handled_and_wait() -> None:
    threads = CONCURRENCY + default("max_queue") + granian.SPARE_THREADS
    assert compose()["pids_limit"] >= 2 * threads


def manifest() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(text("service.yaml"))
    return document


def test_the_manifest_says_what_the_project_and_the_settings_say(client: FlaskClient) -> None:
    said = manifest()
    assert (said["name"], said["port"]) == (PROJECT.name, default("port"))
    assert said["owner"] == project()["project"]["authors"][0]["name"]
    assert all(
        path.startswith(f"{said['prefix']}/")
        for path in client.get("/openapi.json").get_json()["paths"]
    )


def test_the_gateway_strips_the_name_of_the_project_and_asks_its_port() -> None:
    route = yaml.safe_load(text("deploy/gateway/route.yaml"))
    (rule,) = route["spec"]["rules"]
    assert route["metadata"]["name"] == PROJECT.name
    assert [match["path"] for match in rule["matches"]] == [
        {"type": "PathPrefix", "value": f"/{PROJECT.name}"}
    ]
    assert [one["urlRewrite"]["path"] for one in rule["filters"]] == [
        {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
    ]
    assert rule["backendRefs"] == [{"name": PROJECT.name, "port": default("port")}]


def test_the_readme_names_what_the_gateway_keeps_from_the_outside() -> None:
    fixed = mentioned(r'"(/(?!no/)[\w./-]+)"', "scripts/smoke.py")
    for row in mentioned(r"^\| (.+) are on the port of the API", "README.md"):
        assert set(re.findall(r"`(\S+?)`", row)) == fixed
    for prefix in mentioned(r"the gateway routes `(.+?)` alone", "README.md"):
        assert prefix == f"{manifest()['prefix']}/"


def test_the_manifest_names_the_constant_that_bounds_its_objective() -> None:
    for name, path in re.findall(r"one of (\w+) in (\S+)\.$", text("service.yaml"), re.MULTILINE):
        assert f"\n{name} = " in text(path)
        assert getattr(metrics, name) == metrics.BUCKETS


@pytest.mark.parametrize(
    "name",
    [
        "Dockerfile",
        "Makefile",
        "compose.yaml",
        "rules.yaml",
        "service.yaml",
        *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("s*/**/*.py")),
        *(path.relative_to(ROOT).as_posix() for path in WORKFLOWS),
    ],
)
def test_every_file_that_a_file_names_exists(name: str) -> None:
    assert missing_files(name) == set()


def test_a_client_is_made_of_the_contract_that_lies_here() -> None:
    for contract in ROOT.glob("contracts/*.json"):
        module = f"src/service/clients/{contract.stem.replace('-', '_')}.py"
        digest = hashlib.sha256(contract.read_bytes()).hexdigest()
        assert f"sha256 {digest}" in text(module), f"make client renews {module}"


def test_the_histogram_has_a_bound_where_the_objective_has_one() -> None:
    assert manifest()["slo"]["latency_seconds"] in metrics.BUCKETS


def make_rules(service: Path) -> "subprocess.CompletedProcess[str]":
    """Run the script of `make rules` that lies beside this service.yaml."""
    command = (sys.executable, service / "scripts" / "rules.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(  # noqa: S603 the command is ours
        command, capture_output=True, text=True, check=False, env=environment
    )


def test_the_rules_are_those_of_the_objectives() -> None:
    rules = re.sub(
        r"^# \{.*\n", "", text("rules.yaml"), flags=re.MULTILINE
    )  # without what decides on an option
    assert rules == make_rules(ROOT).stdout, "run make rules"


@pytest.mark.parametrize(
    ("objective", "impossible", "remedy"),
    [
        ("availability_percent", "100", "take 93.1 to 99.999"),
        ("latency_percent", "90", "take 93.1 to 99.999"),
        ("latency_seconds", "0.4", "must be one of"),
    ],
)
def test_an_objective_that_no_alert_can_watch_is_refused_in_one_line(
    tmp_path: Path, objective: str, impossible: str, remedy: str
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "rules.py").write_text(text("scripts/rules.py"), "utf-8")
    objectives, count = re.subn(
        f"{objective}: [0-9.]+", f"{objective}: {impossible}", text("service.yaml")
    )
    assert count == 1
    (tmp_path / "service.yaml").write_text(objectives, "utf-8")
    refused = make_rules(tmp_path)
    assert (refused.returncode, refused.stderr.count("\n"), refused.stdout) == (1, 1, "")
    assert remedy in refused.stderr


def test_every_alert_leads_to_a_section_of_the_runbook() -> None:
    sections = {
        f"#{title.lower()}" for title in re.findall(r"^## (\w+)$", text("RUNBOOK.md"), re.MULTILINE)
    }
    links = set(re.findall(r'"runbook_url": "[^"#]+(#[^"]+)"', text("rules.yaml")))
    assert links
    assert links <= sections
    assert set(re.findall(r"\]\((#\w+)\)", text("RUNBOOK.md"))) <= sections


class Calling(Settings):
    """The settings of a service that calls one, which is away."""

    stock_url: CalleeUrl = HttpUrl("http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["rules.yaml", "RUNBOOK.md"])
def test_every_metric_that_a_rule_or_the_runbook_names_is_scraped(name: str) -> None:
    traced = {
        "otel_exporter_otlp_endpoint": "http://127.0.0.1:9",
        "otel_traces_sampler": "always_off",
    }
    app = create_app(Calling.model_validate(traced))
    with app.app_context(), suppress(CallFailed):
        calls.client("stock").send("GET", "/")
    client = app.test_client()
    client.get("/openapi.json")
    series = re.findall(r"^([a-z_]+)[ {]", client.get("/metrics").text, re.MULTILINE)
    assert app.telemetry.exporter
    app.telemetry.exporter.shutdown()
    named = re.findall(
        r"\b((?:db_client|http_client|http_server|process|trace_spans)_\w+)", text(name)
    )
    assert named
    assert [metric for metric in named if metric not in series] == []

"""Facts about messaging that stand in more than one file."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from support import ROOT
from support import found
from support import mentioned
from support import missing_files
from support import text
from test_consistency import default
from test_consistency import makefiles

from service import workers
from service.chassis.data.connections import Database
from service.chassis.messaging import topology
from service.chassis.messaging.consumption import Consumption
from service.chassis.messaging.relay import Relay
from service.chassis.messaging.settings import MessagingSettings
from service.chassis.messaging.worker import Worker
from service.chassis.project import PROJECT
from service.chassis.telemetry import metrics
from service.settings import Settings

CI = [
    name for name in (".gitlab-ci.yml", ".github/workflows/database.yml") if (ROOT / name).exists()
]
COMPOSE: dict[str, Any] = yaml.safe_load(text("compose.messaging.yaml"))
WORKERS = {name: COMPOSE["services"][f"{PROJECT.name}-{name}"] for name in ("relay", "consumer")}
BROKER = COMPOSE["services"][f"{PROJECT.name}-broker"]
MAIN: dict[str, Any] = yaml.safe_load(text("compose.yaml"))
API = MAIN["services"][PROJECT.name]
RABBITMQ = BROKER["image"].partition("@")[0].rpartition("/")[2]  # without registry and digest


def variables(service: dict[str, Any]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in service["environment"])
    return {name: value for name, _, value in pairs}


def test_compose_includes_the_file() -> None:
    assert "compose.messaging.yaml" in MAIN["include"]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_the_services_image_hardened_alike(name: str) -> None:
    same = ("image", "read_only", "cap_drop", "security_opt", "restart", "dns_opt", "depends_on")
    assert {key: WORKERS[name][key] for key in same} == {key: API[key] for key in same}
    grace = int(WORKERS[name]["stop_grace_period"].removesuffix("s"))
    assert grace >= default("shutdown_grace") + 5


@pytest.mark.parametrize("name", WORKERS)
def test_swarm_gives_a_worker_what_compose_gives_it(name: str) -> None:
    replica = yaml.safe_load(text("compose.swarm.yaml"))["services"][f"{PROJECT.name}-{name}"]
    container = WORKERS[name]
    same = ("image", "command", "secrets", "stop_grace_period", "read_only", "cap_drop", "logging")
    assert {key: replica[key] for key in same} == {key: container[key] for key in same}
    limits = (str(container["cpus"]), container["mem_limit"], container["pids_limit"])
    assert tuple(replica["deploy"]["resources"]["limits"].values()) == limits
    assert list(variables(replica)) == list(variables(container))


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_runs_a_command_of_the_service(name: str) -> None:
    *python, command = WORKERS[name]["command"]
    assert python == ["python", "-m", "service"]
    assert command in workers.COMMANDS


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_gets_the_apis_database_and_the_broker(name: str) -> None:
    given = variables(WORKERS[name])
    own = {key: value for key, value in variables(API).items() if key.startswith("DATABASE")}
    assert own.items() <= given.items()
    # And what it needs of the rest; a port or the limits of requests it has not.
    assert given.keys() - variables(API).keys() <= {
        *(setting.upper() for setting in MessagingSettings.model_fields),
        "BROKER_PASSWORD_FILE",
    }


def test_the_workers_sign_in_as_the_user_that_the_broker_makes() -> None:
    url = found(r"BROKER_URL=\$\{BROKER_URL:-(.+)\}", "compose.messaging.yaml")
    user = BROKER["environment"]["RABBITMQ_DEFAULT_USER"]
    assert url == f"amqp://{user}@{PROJECT.name}-broker"
    mounted = {secret["target"] for secret in BROKER["secrets"]}
    assert mounted == {"broker-application"}
    for worker in WORKERS.values():
        file = variables(worker)["BROKER_PASSWORD_FILE"]
        assert file.removeprefix("/run/secrets/") in mounted
    assert "$(cat /run/secrets/broker-application)" in BROKER["entrypoint"][2]


def test_the_broker_is_published_nowhere() -> None:
    assert [name for name, one in COMPOSE["services"].items() if "ports" in one] == []


def test_every_name_that_include_brings_together_has_the_slug() -> None:
    names = [*COMPOSE["services"], *COMPOSE["volumes"], *COMPOSE["secrets"], BROKER["hostname"]]
    assert [name for name in names if not name.startswith(f"{PROJECT.name}-")] == []
    assert topology.QUEUE.startswith(f"{PROJECT.name}.")


def test_make_writes_the_secret_that_compose_mounts() -> None:
    written = mentioned(r"^SECRETS \+= (\S+)$", "messaging.mk")
    assert written == {secret["file"] for secret in COMPOSE["secrets"].values()}
    assert found(r"^\.readable: (\S+)$", "messaging.mk") in written


def test_compose_and_ci_run_one_rabbitmq() -> None:
    for name in CI:
        assert mentioned(r"\brabbitmq:\d+", name) <= {RABBITMQ}


def test_ci_runs_the_tests_that_need_a_broker() -> None:
    for name in CI:
        assert mentioned(r"make (test-messaging)|(TEST_BROKER_URL): ", name), name


def scraped() -> str:
    """Return the names of all metrics of both workers."""
    worker = Worker("relay", Settings(), Settings())
    metrics.init_app(worker)
    database = Database(Settings.load())
    Relay(worker, database)
    Consumption(worker.telemetry, ())
    database.engine.dispose()
    registry = worker.telemetry.registry
    assert isinstance(registry, CollectorRegistry)
    names = set()
    for family in registry.collect():
        names |= {family.name, f"{family.name}_total", f"{family.name}_bucket"}
    return f" {' '.join(sorted(names))} "


@pytest.mark.parametrize("name", ["rules.yaml", "RUNBOOK.md", "README.md"])
def test_every_metric_that_a_file_names_is_scraped(name: str) -> None:
    named = mentioned(r"\b(messaging_[a-z_]+[a-z])\b", name)
    assert named or name == "README.md"
    names = scraped()
    assert [metric for metric in named if f" {metric} " not in names] == []


def test_the_alerts_watch_the_jobs_that_the_readme_names() -> None:
    jobs = set(re.findall(r"job='([^']+)'", text("rules.yaml"))) - {PROJECT.name}
    assert jobs == {f"{PROJECT.name}-{name}" for name in WORKERS}
    named = mentioned(rf"`({PROJECT.name}-(?:relay|consumer))`", "README.md")
    assert named <= jobs


def test_the_runbook_names_the_limit_of_deliveries() -> None:
    limits = mentioned(r"After (\d+) lost deliveries", "RUNBOOK.md")
    assert {int(limit) for limit in limits} <= {topology.DELIVERY_LIMIT}


@pytest.mark.parametrize("name", ["compose.messaging.yaml", "messaging.mk"])
def test_every_file_that_a_file_names_exists(name: str) -> None:
    assert missing_files(name) - {"docker-entrypoint.sh"} == set()  # it is in RabbitMQ's image


def test_the_runbook_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", makefiles(), re.MULTILINE))
    assert mentioned(r"`make ([a-z-]+)", "RUNBOOK.md") <= targets
    assert Path(ROOT / "asyncapi.yaml").exists()


def test_a_shared_broker_takes_the_place_of_its_own() -> None:
    name = re.fullmatch(r"\$\{(\w+):-1\}", BROKER["scale"])
    assert name
    assert f"up: export {name[1]} = $(if $(BROKER_URL),0,1)\n" in text("messaging.mk")

"""Facts that stand in two files of the gateway's are the same in both."""

import json
import re
from typing import Any

import yaml
from platforms import ROOT

from fleet import entry
from fleet import health
from fleet import resources
from fleet.envoy import ORDER
from fleet.routes import HIDDEN
from fleet.settings import Settings
from fleet.table import table

UNITS = {"m": 2**20, "g": 2**30}


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


COMPOSE = load("compose.yaml")["services"]["gateway"]
BOOTSTRAP = load("gateway/bootstrap.yaml")
ENTRY = load("gateway/entry.yaml")
CLUSTER = load("gateway/cluster.yaml")
INTERNAL = BOOTSTRAP["static_resources"]["listeners"][0]


def test_the_entrys_port_is_the_one_published_port() -> None:
    (port,) = COMPOSE["ports"]
    assert port["target"] == resources.ENTRY_PORT
    default = re.fullmatch(r"\$\{PORT:-(\d+)\}", port["published"])
    assert default
    assert f"curl localhost:{default[1]}/" in (ROOT / "README.md").read_text("utf-8")


def test_the_internal_port_is_the_one_that_is_asked() -> None:
    assert INTERNAL["address"]["socket_address"]["port_value"] == resources.INTERNAL_PORT
    asked = f"/dev/tcp/127.0.0.1/{resources.INTERNAL_PORT}"
    assert asked in COMPOSE["healthcheck"]["test"][-1]
    assert asked in health.ASK


def test_what_is_asked_internally_is_served() -> None:
    manager = INTERNAL["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    served = {route["match"]["path"] for route in host["routes"]}
    asked = set(re.findall(r"GET (/\w+) ", COMPOSE["healthcheck"]["test"][-1] + health.ASK))
    assert asked | {"/metrics", "/v1/traces"} == served


def test_the_watched_folder_is_the_mounted_one() -> None:
    mounts = {volume["source"]: volume["target"] for volume in COMPOSE["volumes"]}
    assert mounts == {"./gateway/rendered": resources.FOLDER, "./gateway/tls": "/etc/tls"}
    assert f"{resources.FOLDER}/bootstrap.json" in COMPOSE["command"]
    texts = json.dumps([BOOTSTRAP["dynamic_resources"], ENTRY["rds"]])
    folders = set(re.findall(r'"(/[^"]+?)(?:/\w+\.json)?"', texts))
    assert folders == {resources.FOLDER}
    assert json.dumps(entry.certificate()).count("/etc/tls") == 3
    assert "gateway/rendered/\n" in (ROOT / ".gitignore").read_text("utf-8")


def test_every_watched_file_is_written() -> None:
    texts = json.dumps([BOOTSTRAP["dynamic_resources"], ENTRY["rds"], entry._tls()])
    watched = set(re.findall(r"/(\w+)\.json", texts))
    assert watched | {"bootstrap"} == set(ORDER)


def test_the_entry_asks_for_the_routes_that_are_rendered() -> None:
    settings = Settings([], 1, 1, 1, 1, None, 100, True, False)
    assert ENTRY["rds"]["route_config_name"] == table([], settings)["name"]


def test_the_admin_socket_lies_in_memory_of_the_gateways_user() -> None:
    path = BOOTSTRAP["admin"]["address"]["pipe"]["path"]
    assert path in json.dumps(BOOTSTRAP["static_resources"]["clusters"])
    (memory,) = COMPOSE["tmpfs"]
    folder, _, options = memory.partition(":")
    user, _, group = COMPOSE["user"].partition(":")
    assert path.startswith(f"{folder}/")
    assert f"uid={user},gid={group},mode=0700" in options


def test_limits_fit_into_the_container() -> None:
    watched = BOOTSTRAP["overload_manager"]["resource_monitors"]
    limits = {one["name"].rpartition(".")[2]: one["typed_config"] for one in watched}
    heap = limits["fixed_heap"]["max_heap_size_bytes"]
    memory = int(COMPOSE["mem_limit"][:-1]) * UNITS[COMPOSE["mem_limit"][-1]]
    assert heap == memory * 3 // 4
    connections = limits["global_downstream_max_connections"]["max_active_downstream_connections"]
    assert 2 * connections < COMPOSE["ulimits"]["nofile"]


def test_the_rate_counts_by_what_the_entry_tells_of_a_consumer() -> None:
    (limit,) = (one for one in ENTRY["http_filters"] if one["name"].endswith("local_ratelimit"))
    (actions,) = limit["typed_config"]["rate_limits"]
    (action,) = actions["actions"]
    assert list(action) == [entry.RATE_KEY]


def test_what_a_named_proxy_may_say_is_what_others_may_not() -> None:
    (early,) = ENTRY["early_header_mutation_extensions"]
    names = {name for one in early["typed_config"]["mutations"] for name in entry._names(one)}
    assert names > entry.SAID_BY_PROXIES


def test_replicas_are_checked_by_a_probe_that_clients_cannot_reach() -> None:
    (check,) = CLUSTER["health_checks"]
    assert check["http_health_check"]["path"] in HIDDEN

"""The life of a system: services join, are replaced, scaled and configured, and lose no request."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLATFORM_FOLDER
from tests.conftest import ROOT
from tests.conftest import commit
from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import fetch
from tests.docker.containers import status
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.load import Load
from tests.docker.monitoring import PROMETHEUS
from tests.docker.monitoring import Server
from tests.docker.monitoring import mount
from tests.docker.town import NAMES
from tests.docker.town import Town
from tests.docker.town import town

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PAUSE = 0.1  # seconds between the requests of each of four clients
MEMORY = 500 * 1024 * 1024
# Longer than the replicas before go on serving once they are told to stop.
SLOW = "\nimport time\n\ntime.sleep(9)\n"
BROKEN = '\nraise RuntimeError("this release is broken")\n'


class Journey:
    """What was seen at each step."""

    def __init__(self, town: Town) -> None:
        """Stand before the first step."""
        self.town = town
        self.seen: dict[str, Any] = {}
        self.stored = 0

    def asks(self) -> list[Any]:
        """Return what the four clients ask the first service, through the gateway."""
        slug = self.town.names["orders"]
        orders = f"/{slug}/v1/orders"

        def order(client: Client) -> Answer:
            body = {"reference": f"PO-{time.monotonic_ns()}", "sku": "tea", "quantity": 1}
            answer = client("POST", orders, body)
            self.stored += answer.status == 201
            return answer

        paths = (f"{orders}?limit=1", f"/{slug}/v1/products/tea", f"/{slug}/v1/products")
        return [order, *(lambda client, path=path: client("GET", path) for path in paths)]

    def begin(self) -> None:
        """Start the platform alone, the first service alone, and let it join."""
        town = self.town
        # The database is the first's alone; on a busy machine the gateway may look late.
        _edit(town.platform / "config/common.env", "DATABASE_TIMEOUT=6\nDRAIN_DELAY=5\n")
        commit(town.platform)
        town.does("make up")
        self.seen["empty"] = town.does("curl localhost:8080/")
        town.does("make up", "orders")
        alone = town.containers(project=town.names["orders"])
        before = town.started(*alone, *town.containers())
        self.seen["joined"] = town.does("make join", "orders")
        self.seen["two files"] = town.changes()
        self.seen["restarted by join"] = before != town.started(*before)
        self.seen["first request"] = town.does(
            "curl localhost:8080/orders/v1/products/tea"
        ).splitlines()[-1]
        town.does("make down", "orders")

    def grow(self) -> None:
        """Let the others join, twice, and bring all up as one."""
        town = self.town
        before = town.started(*town.containers())
        town.does("make join", "invoices")
        self.seen["list"] = (town.platform / "services.yaml").read_bytes()
        town.does("make join", "shipping")
        after = town.started(*before)
        self.seen["joined twice"] = town.does("make join", "shipping")
        all_before = town.started(*town.containers())
        town.does("make up")
        self.seen["restarted by others"] = before != after
        self.seen["restarted by up"] = all_before != town.started(*town.containers())
        self.seen["routes"] = {
            name: status(town.port, f"/{town.names[name]}/v1/products/tea") for name in NAMES
        }

    def release(self) -> None:
        """Deploy, roll back, and fail to deploy the first service."""
        town = self.town
        others = town.started(*town.containers("invoices", "shipping", "gateway"))
        first = town.images("orders")
        app = town.folder("orders") / "src/service/app.py"
        with _edited(app, SLOW):
            town.does("make deploy", "orders")
            second = town.images("orders")
            self.seen["deployed again"] = town.does("make deploy", "orders")
        town.does("make rollback", "orders")
        self.seen["images"] = (first, second, town.images("orders"))
        running = town.started(*town.containers("orders"))
        with _edited(app, BROKEN):
            self.seen["broken"] = town.refuses("make deploy", "orders")
        slug = town.names["orders"]
        state = json.loads((town.platform / f".fleet/services/{slug}.json").read_text("utf-8"))
        self.seen["migrated by broken"] = state["migrated"] not in state["images"]
        self.seen["replaced by broken"] = running != town.started(*town.containers("orders"))
        self.seen["restarted by deploy"] = others != town.started(*others)

    def scale(self) -> None:
        """Run three replicas, then one."""
        town = self.town
        town.does("make scale orders=3")
        found = town.containers("orders")
        served = '"http.route"'
        eventually(lambda: all(served in docker("logs", one) for one in found), "each has a share")
        self.seen["replicas"] = len(found)
        town.does("make scale orders=1")
        self.seen["scaled down"] = len(town.containers("orders"))

    def configure(self) -> None:
        """Refuse wrong values, then apply a good one to one service."""
        town = self.town
        own = town.platform / "config" / f"{town.names['orders']}.env"
        before = town.started(*town.containers())
        own.write_text("LOG_LEVEL=LOUD\n", "utf-8")
        self.seen["wrong value"] = town.refuses("make config-check")
        self.seen["not committed"] = town.refuses("make apply")
        _commit_all(town)
        self.seen["wrong and committed"] = town.refuses("make apply")
        own.write_text("LOG_LEVLE=INFO\nCURSOR_KEY=0123456789abcdef0123456789abcdef\n", "utf-8")
        self.seen["unknown and secret"] = town.refuses("make config-check")
        self.seen["touched by refusals"] = before != town.started(*town.containers())
        own.write_text("", "utf-8")
        for line in blocks()["Configuration"]:
            told = town.does(line)
        self.seen["applied"] = told
        kept = town.started(*town.containers())
        self.seen["replaced by apply"] = {
            name for name in NAMES if not kept.keys() & set(before) & set(town.containers(name))
        }
        self.seen["level"] = _setting(town, "orders", "LOG_LEVEL")
        self.seen["timeout"] = _setting(town, "orders", "DATABASE_TIMEOUT")
        self.seen["level of others"] = _setting(town, "invoices", "LOG_LEVEL")

    def lock(self) -> None:
        """Release twice, and return to the first release."""
        town = self.town
        prometheus = self._prometheus()
        *releasing, returning = blocks()["Releases"]
        for line in releasing:
            town.does(line)
        first = (town.platform / "release.lock").read_bytes()
        images = town.images("invoices")
        _edit(town.folder("invoices") / "src/service/api/catalogue.py", "\n# A change.\n")
        town.does("make deploy SERVICE=invoices")
        self.seen["drift"] = town.fleet()["invoices"]["drift"]
        for line in releasing:
            town.does(line)
        assert town.images("invoices") != images
        town.does(returning)
        self.seen["returned"] = town.images("invoices") == images
        self.seen["lock returned"] = (town.platform / "release.lock").read_bytes() == first
        eventually(lambda: all(row["ready"] for row in town.fleet().values()), "all are ready")
        self.seen["table"] = town.does("make fleet")
        self.seen["fleet"] = town.fleet()
        address = f"PROMETHEUS_URL=http://127.0.0.1:{prometheus.port}"
        self.seen["measured"] = json.loads(town.does(f"{address} make -s fleet ARGS=--json"))
        self.seen["measured table"] = town.does(f"{address} make fleet")
        prometheus.remove()
        self.seen["not measured"] = town.refuses(f"{address} make fleet")

    def _prometheus(self) -> Server:
        """Start Prometheus, which scrapes the first service."""
        slug = self.town.names["orders"]
        jobs = [{"job_name": slug, "static_configs": [{"targets": [f"{slug}:5000"]}]}]
        document = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
        path = self.town.platform.parent / "prometheus.yml"
        path.write_text(json.dumps(document), "utf-8")
        mounted = mount(path, "/etc/prometheus/prometheus.yml")
        network = f"{self.town.platform.name}_default"
        return Server(network, "prometheus", 9090, *mounted, PROMETHEUS)

    def shrink(self) -> None:
        """Let the third leave, twice."""
        town = self.town
        town.does("make leave", "shipping")
        self.seen["list restored"] = (
            self.seen["list"] == (town.platform / "services.yaml").read_bytes()
        )
        routes = (town.platform / "routes").glob("*.yaml")
        self.seen["routes left"] = sorted(route.stem for route in routes)
        self.seen["left twice"] = town.does("make leave", "shipping")
        self.seen["left running"] = town.containers("shipping")
        town.does("make join", "shipping")

    def rest(self) -> None:
        """Measure what all of it needs where nobody asks."""
        found = self.town.containers("gateway", *NAMES)
        told = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", *found)
        self.seen["memory"] = [_bytes(line.split(" / ")[0]) for line in told.splitlines()]
        database = f"{self.town.names['orders']}-db"
        psql = ("psql", "--username=postgres", "--dbname=service", "--tuples-only", "--command")
        command = (*self.town.containers(database), *psql, "SELECT count(*) FROM orders")
        self.seen["rows"] = int(docker("exec", *command))

    def return_from_rest(self) -> None:
        """Stop all of it, and start it again."""
        town = self.town
        before = {name: town.images(name) for name in NAMES}
        town.does("make down")
        self.seen["after down"] = town.containers()
        town.does("make up")
        self.seen["same images"] = before == {name: town.images(name) for name in NAMES}
        orders = fetch(town.port, f"/{town.names['orders']}/v1/orders?limit=1")[2]
        self.seen["orders after down"] = len(json.loads(orders)["items"])


def _edit(path: Path, appended: str) -> None:
    path.write_text(path.read_text("utf-8") + appended, "utf-8")


class _edited:  # noqa: N801 it reads as a function
    """Lines appended to a file for a while."""

    def __init__(self, path: Path, appended: str) -> None:
        self._path = path
        self._before = path.read_text("utf-8")
        self._appended = appended

    def __enter__(self) -> None:
        _edit(self._path, self._appended)

    def __exit__(self, *_: object) -> None:
        self._path.write_text(self._before, "utf-8")


def _commit_all(town: Town) -> None:
    town.does("git add --all && git commit --quiet --message 'A change'")


def _setting(town: Town, name: str, setting: str) -> str:
    (container,) = town.containers(name)
    told = docker("exec", container, "python", "-m", "service", "config")
    return dict(line.split("=", 1) for line in told.splitlines())[setting]


def _bytes(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}[unit]


def blocks() -> dict[str, list[str]]:
    """Return the commands of the platform's README, by the heading above them."""
    text = (ROOT / PLATFORM_FOLDER / "README.md").read_text("utf-8")
    found: dict[str, list[str]] = {}
    for part in re.split(r"^#+ ", text, flags=re.MULTILINE):
        for block in re.findall(r"```shell\n(.*?)```", part, re.DOTALL):
            found.setdefault(part.splitlines()[0], []).extend(block.splitlines())
    return found


@pytest.fixture(scope="module")
def journey(
    bake_platform: Bake, bake: Bake, service_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Journey]:
    """All steps, the first service under load from its first moment."""
    folder = tmp_path_factory.mktemp("journey")
    with town(folder, bake_platform, bake, service_python) as made:
        journey = Journey(made)
        journey.begin()
        with Load(made.port, *journey.asks(), pause=PAUSE) as load:
            journey.grow()
            journey.release()
            journey.scale()
            journey.configure()
            journey.lock()
            journey.shrink()
        journey.seen["load"] = load
        journey.rest()
        journey.return_from_rest()
        print(f"{len(load.answers)} answers, {len(load.failures)} failures")
        print(f"memory {sum(journey.seen['memory']) / 2**20:.0f} MiB")
        yield journey


@pytest.fixture
def seen(journey: Journey) -> dict[str, Any]:
    """What was seen."""
    return journey.seen


def test_no_request_failed_from_the_first_to_the_last_step(seen: dict[str, Any]) -> None:
    load = seen["load"]
    bad = [(one.status, one.path, one.seconds) for one in load.answers if one.status >= 400]
    assert (load.failures, bad) == ([], [])
    assert len(load.answers) > 1000


def test_no_order_that_was_confirmed_is_lost(seen: dict[str, Any], journey: Journey) -> None:
    assert seen["rows"] == journey.stored > 0


def test_a_platform_without_services_says_so(seen: dict[str, Any]) -> None:
    assert json.loads(seen["empty"].splitlines()[-1]) == {"services": []}


def test_joining_changes_exactly_two_files_and_restarts_nothing(
    seen: dict[str, Any], journey: Journey
) -> None:
    assert seen["two files"] == [f"routes/{journey.town.names['orders']}.yaml", "services.yaml"]
    assert not seen["restarted by join"]
    assert not seen["restarted by others"]


def test_a_service_is_served_as_soon_as_it_has_joined(seen: dict[str, Any]) -> None:
    assert json.loads(seen["first request"])["sku"] == "tea"
    assert seen["routes"] == dict.fromkeys(NAMES, 200)


def test_to_join_or_leave_twice_is_one_line(seen: dict[str, Any]) -> None:
    assert re.fullmatch(r"\S+: has joined \S+ already\n", seen["joined twice"])
    assert re.fullmatch(r"\S+: it has not joined .*; there is nothing to do\n", seen["left twice"])


def test_up_changes_nothing_where_all_is_as_the_files_say(seen: dict[str, Any]) -> None:
    assert not seen["restarted by up"]


def test_deploying_replaces_one_service_and_rollback_returns_to_its_image(
    seen: dict[str, Any],
) -> None:
    first, second, third = seen["images"]
    assert first != second
    assert first == third
    assert not seen["restarted by deploy"]
    committed, edited = (name for images in (first, second) for name in images)
    assert re.search(r":[0-9a-f]{12}-[0-9a-f]{12}$", committed)
    assert re.search(r":[0-9a-f]{12}-dirty-[0-9a-f]{12}$", edited)


def test_to_deploy_what_runs_replaces_nothing(seen: dict[str, Any]) -> None:
    assert seen["deployed again"].splitlines()[-1].endswith(" already")


def test_a_release_that_never_becomes_ready_leaves_the_one_before(seen: dict[str, Any]) -> None:
    last = seen["broken"].splitlines()[-1]
    assert "the release before serves on" in last
    assert "this release is broken" in last
    assert not seen["replaced by broken"]
    assert seen["migrated by broken"]


def test_every_replica_gets_its_share(seen: dict[str, Any]) -> None:
    assert (seen["replicas"], seen["scaled down"]) == (3, 1)


def test_a_wrong_value_is_refused_before_anything_is_touched(seen: dict[str, Any]) -> None:
    for step in ("wrong value", "wrong and committed"):
        (line,) = seen[step].splitlines()
        assert re.match(r"config/orders-\w+\.env: LOG_LEVEL: Input should be 'DEBUG'", line)
    assert "commit it first" in seen["not committed"]
    secret, unknown = sorted(seen["unknown and secret"].splitlines())
    assert "CURSOR_KEY: is a secret: give it to the service as a file" in secret
    assert unknown.endswith("has no such setting; is it LOG_LEVEL?")
    assert not seen["touched by refusals"]


def test_a_value_reaches_the_service_it_is_for_and_replaces_no_other(seen: dict[str, Any]) -> None:
    assert seen["replaced by apply"] == {"orders"}
    assert (seen["level"], seen["level of others"]) == ("DEBUG", "INFO")
    assert float(seen["timeout"]) == 6
    assert re.match(r"config/: [0-9a-f]+ by Ana, ", seen["applied"])


def test_one_lock_is_the_system_and_the_one_before_comes_back(seen: dict[str, Any]) -> None:
    assert seen["drift"] == ["lock"]
    assert seen["returned"]
    assert seen["lock returned"]


def test_the_fleet_is_shown_as_a_table_and_as_json(seen: dict[str, Any]) -> None:
    assert seen["table"].splitlines()[0].split()[:4] == ["SERVICE", "TEMPLATE", "IMAGE", "READY"]
    assert len(seen["table"].splitlines()) == 1 + len(NAMES)
    for row in seen["fleet"].values():
        facts = (row["ready"], row["replicas"], row["contract"], row["drift"])
        assert facts == (1, 1, "0.1.0", [])


def test_the_fleet_shows_what_prometheus_measured(seen: dict[str, Any]) -> None:
    assert [row["availability"] for row in seen["measured"]] == [100, None, None]
    assert "100.000% of 99.9%, 99% < 0.3 s" in seen["measured table"]
    assert seen["not measured"].startswith("PROMETHEUS_URL: http://127.0.0.1:")


def test_leaving_undoes_joining(seen: dict[str, Any], journey: Journey) -> None:
    assert seen["list restored"]
    kept = [journey.town.names[name] for name in ("invoices", "orders")]
    assert seen["routes left"] == kept
    assert seen["left running"] == []


def test_down_and_up_lead_back_to_the_same_images_and_data(seen: dict[str, Any]) -> None:
    assert seen["after down"] == []
    assert seen["same images"]
    assert seen["orders after down"] == 1


def test_every_command_of_the_readme_was_run(journey: Journey) -> None:
    commands = [line for lines in blocks().values() for line in lines]
    assert len(commands) > 10
    assert [line for line in commands if line not in journey.town.ran] == []


def test_three_services_and_the_gateway_rest_in_little_memory(seen: dict[str, Any]) -> None:
    assert len(seen["memory"]) == 1 + len(NAMES)
    assert sum(seen["memory"]) < MEMORY

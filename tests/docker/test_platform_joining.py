"""What a platform refuses to let join, and two platforms on one machine."""

import json
import re
import shutil
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import commit
from tests.docker.containers import Bake
from tests.docker.containers import ask
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import fetch
from tests.docker.containers import status
from tests.docker.containers import without_fsync
from tests.docker.town import Town
from tests.docker.town import town

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def made(
    bake_platform: Bake, bake: Bake, service_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Town]:
    """A platform that does not run, which the first service has joined."""
    folder = tmp_path_factory.mktemp("joining")
    with town(folder, bake_platform, bake, service_python) as made:
        made.does("make join", "orders")
        commit(made.platform)
        yield made


def renamed(made: Town, slug: str) -> Path:
    """Return a copy of the second service under another name."""
    old = made.names["invoices"]
    copy = Path(shutil.copytree(made.folder("invoices"), made.platform.parent / f"copy of {slug}"))
    for path in (*copy.glob("*.yaml"), copy / "deploy/gateway/route.yaml"):
        path.write_text(path.read_text("utf-8").replace(old, slug), "utf-8")
    return copy


def with_route(made: Town, change: Callable[[str], str]) -> Path:
    """Return a copy of the second service with another route."""
    copy = renamed(made, made.names["invoices"])
    route = copy / "deploy/gateway/route.yaml"
    route.write_text(change(route.read_text("utf-8")), "utf-8")
    return copy


def without_manifest(made: Town) -> Path:
    copy = renamed(made, made.names["invoices"])
    (copy / "service.yaml").unlink()
    return copy


def of_its_prefix(made: Town) -> Path:
    orders = f'value: "/{made.names["orders"]}"'
    return with_route(made, lambda text: re.sub(r'value: "/.*?"', orders, text))


REFUSED: dict[str, tuple[Callable[[Town], Path], str]] = {
    "a second one of its name": (
        lambda made: renamed(made, made.names["orders"]),
        r"orders-\w+: the name orders-\w+ is taken by .*/orders-\w+; choose another",
    ),
    "the gateway's name": (
        lambda made: renamed(made, "gateway"),
        "gateway: the name gateway is taken by the platform; choose another",
    ),
    "the name of the shared configuration": (
        lambda made: renamed(made, "common"),
        r"common: the name common is taken by config/common\.env; choose another",
    ),
    "the name of a database": (
        lambda made: renamed(made, f"{made.names['orders']}-db"),
        r"orders-\w+-db: the name orders-\w+-db is taken by .*; choose another",
    ),
    "a prefix that is taken": (
        of_its_prefix,
        r"routes/\S+: /orders-\w+ is taken by routes/\S+; choose another prefix",
    ),
    "a route that is not understood": (
        lambda made: with_route(made, lambda text: text.replace("matches:", "mirrors:")),
        r"routes/\S+: spec.rules\[0\]\.mirrors: not known to the gateway; .*",
    ),
    "a folder that is no service": (
        without_manifest,
        r".*: it has no service\.yaml, so it is no service; name its folder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_join_is_one_line_and_changes_nothing(made: Town, case: str) -> None:
    copy_of, said = REFUSED[case]
    folder = copy_of(made)
    try:
        told = made.refuses(f"make join SERVICE='../{folder.name}'")
        assert re.fullmatch(said, told)
        assert made.changes() == []
    finally:
        shutil.rmtree(folder)


def test_a_check_of_the_configuration_tells_all_faults_at_once(made: Town) -> None:
    config = made.platform / "config"
    own = config / f"{made.names['orders']}.env"
    settings = made.platform / "gateway/settings.yaml"
    texts = {path: path.read_text("utf-8") for path in (config / "common.env", settings)}
    (config / "nobody.env").touch()
    own.write_text("LOG_LEVEL\nLOG_LEVLE=INFO\nDRAIN_DELAY=300\n", "utf-8")
    (config / "common.env").write_text("OTHERS=1\n", "utf-8")
    settings.write_text(texts[settings].replace("proxies: []", "proxies: [proxy]"), "utf-8")
    try:
        lines = made.refuses("make config-check").splitlines()
    finally:
        for path, text in texts.items():
            path.write_text(text, "utf-8")
        for path in (config / "nobody.env", own):
            path.unlink()
    assert [re.split("[;,]", line.replace(made.suffix, "x"))[0] for line in lines[-6:]] == [
        "config: nobody.env: no such service has joined",
        "config/orders-x.env:1: write NAME=value",
        "config/orders-x.env: LOG_LEVLE: orders-x has no such setting",
        "config/orders-x.env: DRAIN_DELAY: compose.yaml kills it after 30 s",
        "config/common.env: OTHERS: no service that joined takes it",
        "gateway/settings.yaml: trusted_proxies[0]: write a network such as 10.0.0.0/8",
    ]
    assert made.changes() == []


def test_a_platform_that_is_not_there_is_one_line(made: Town) -> None:
    told = made.refuses("make join PLATFORM=../nowhere", "invoices")
    assert told == ("No platform is found as ../nowhere: name it, as in PLATFORM=../shop-platform")
    assert made.changes() == []


def test_a_service_that_leaves_leaves_no_trace(made: Town) -> None:
    made.does("make join", "invoices")
    assert len(made.changes()) == 2
    made.does("make leave", "invoices")
    assert made.changes() == []


def test_a_service_whose_folder_is_gone_can_leave(made: Town) -> None:
    folder = made.folder("invoices")
    made.does("make join", "invoices")
    gone = folder.rename(folder.with_name("gone"))
    try:
        told = made.refuses("make fleet")
        assert re.fullmatch(r"services\.yaml: .* is not there; bring it back, or run make .*", told)
        made.does("make leave SERVICE=invoices")
    finally:
        gone.rename(folder)
    assert made.changes() == []


def test_a_service_that_does_not_start_has_not_joined(made: Town) -> None:
    made.does("make up")
    app = made.folder("invoices") / "src/service/app.py"
    before = app.read_text("utf-8")
    app.write_text(f"{before}\nraise RuntimeError('never')\n", "utf-8")
    try:
        told = made.refuses("make join", "invoices")
        assert re.search(r"invoices-\w+: it does not run; the new one failed: .*never$", told)
    finally:
        app.write_text(before, "utf-8")
    assert made.changes() == []
    assert made.containers("invoices") == []
    made.does("make join", "invoices")
    made.does("make leave", "invoices")
    assert made.changes() == []


@pytest.fixture(scope="module")
def events(made: Town, bake: Bake) -> dict[str, str]:
    """The names of two further services, which have events."""
    for name in ("sales", "stock"):
        slug = made.names[name] = f"{name}-{made.suffix}"
        baked = bake(service_slug=slug, database="postgresql", messaging="rabbitmq")
        commit(without_fsync(shutil.copytree(baked, made.folder(name))))
    return made.names


def place(made: Town, slug: str) -> None:
    """Order three cups of tea."""
    sent = {"Content-Type": "application/json"}
    order = json.dumps({"reference": uuid.uuid4().hex, "sku": "tea", "quantity": 3})
    assert ask(made.port, f"/{slug}/v1/orders", "POST", order, sent)[0] == 201


def sold(made: Town, slug: str) -> int:
    """Return how many cups the events add up to that a service received."""
    answer = json.loads(fetch(made.port, f"/{slug}/v1/sales")[2])
    return sum(item["quantity"] for item in answer.get("items", ()))


def drifts(made: Town, name: str, *expected: str) -> None:
    """Wait until `make fleet` shows just this drift."""
    what = f"{name} drifts by {expected}"
    eventually(lambda: made.fleet()[name]["drift"] == list(expected), what, 180)


def test_a_service_joins_with_its_broker(made: Town, events: dict[str, str]) -> None:
    slug = events["sales"]
    made.does("make up")
    told = made.does("make join", "sales")
    assert f"{slug}: starting {slug}-consumer, {slug}-relay\n" in told
    place(made, slug)
    eventually(lambda: sold(made, slug) == 3, "the order's event has arrived", 180)
    drifts(made, "sales")
    list_them = "python -m service.chassis.messaging.dead_letters list"
    assert made.does(f"docker compose exec {slug}-consumer {list_them}") == "no dead letters\n"

    docker("rm", "--force", *made.containers(f"{slug}-broker"))
    drifts(made, "sales", f"{slug}-consumer not ready", f"{slug}-relay not ready")
    made.does(f"make scale {slug}=2")
    drifts(made, "sales")


def test_a_service_joins_the_broker_of_another(made: Town, events: dict[str, str]) -> None:
    made.does("make up")
    made.does("make join", "sales")
    broker = f"BROKER_URL=amqp://application@{events['sales']}-broker\nBROKERS=0\n"
    (made.folder("stock") / ".env").write_text(broker, "utf-8")
    secret = ".secrets/broker-application"
    shutil.copy(made.folder("sales") / secret, made.folder("stock") / secret)
    received = made.folder("stock") / "src/service/events/orders.py"
    with_type = received.read_text("utf-8").replace("{PROJECT.name}", events["sales"])
    received.write_text(with_type, "utf-8")
    made.does("make join", "stock")
    assert made.containers(f"{events['stock']}-broker") == []
    drifts(made, "stock")
    place(made, events["sales"])
    eventually(lambda: sold(made, events["stock"]) == 3, "the other's event has arrived", 180)
    for name in ("stock", "sales"):
        made.does(f"make leave SERVICE={events[name]}")
    assert made.changes() == []


def test_leaving_names_the_volumes_that_stay_and_no_others(
    made: Town, events: dict[str, str]
) -> None:
    slug = events["sales"]
    made.does("make up")
    made.does("make join", "sales")
    of_another = docker("volume", "create", f"{made.platform.name}_{slug}-lists-db-data").strip()
    told = made.does(f"make leave SERVICE={slug}")
    volumes = told.strip().partition("; its data stay: ")[2].split(", ")
    assert volumes == [f"{made.platform.name}_{slug}-{name}" for name in ("broker-data", "data")]
    made.does(f"docker volume rm {' '.join([*volumes, of_another])}")


def test_two_platforms_of_one_machine_know_nothing_of_each_other(
    made: Town, bake_platform: Bake, bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    with town(tmp_path, bake_platform, bake, service_python) as other:
        for one in (made, other):
            one.does("make up")
        # The same service, from the same folder.
        for one in (made, other):
            one.does(f"make join SERVICE='{made.folder('shipping')}'")
        path = f"/{made.names['shipping']}/v1/products/tea"
        assert [status(one.port, path) for one in (made, other)] == [200, 200]
        other.does(f"make leave SERVICE='{made.folder('shipping')}'")
        assert [status(one.port, path) for one in (made, other)] == [200, 404]
        listed = json.loads(fetch(other.port, "/")[2])["services"]
        assert listed == []


def test_a_second_checkout_of_a_running_platform_is_refused(made: Town, tmp_path: Path) -> None:
    made.does("make up")
    copy = tmp_path / "again"
    shutil.copytree(made.platform, copy, symlinks=True)
    told = made.refuses(f"make -C '{copy}' up")
    assert re.fullmatch(rf"{made.platform.name}: .* runs under this name: run make down .*", told)

"""Events survive what kills processes and servers: none is lost, or has an effect twice."""

import itertools
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.conftest import Bake
from tests.docker.collector import Collector
from tests.docker.collector import values
from tests.docker.containers import ask
from tests.docker.containers import eventually
from tests.docker.load import Client
from tests.docker.servers import Place
from tests.docker.servers import Process
from tests.docker.servers import Server
from tests.docker.servers import Servers
from tests.docker.servers import servers as running_servers

pytestmark = pytest.mark.docker

CALLING = str(Path(__file__).with_name("calling.py"))
LEDGER = str(Path(__file__).with_name("ledger.py"))
SEED = int(os.environ.get("SEED", "7"))
TABLES = """
CREATE TABLE accounts (key text PRIMARY KEY, entries integer NOT NULL);
CREATE TABLE entries (
    event_id text, key text, number integer, release text, PRIMARY KEY (key, number)
);
CREATE TABLE effects (
    position bigint GENERATED ALWAYS AS IDENTITY, event_id text, key text, number integer, said text
);
"""
DISK_ALARM = "9999GB"
DISK_LIMIT = "50MB"  # the broker's default
COUNT = "SELECT count(*) FROM effects"
UNHANDLED = "SELECT count(*) FROM entries WHERE event_id NOT IN (SELECT event_id FROM effects)"
BROKER_COUNTS = 6.0  # seconds within which a broker has counted the messages of a queue again
Open = Callable[..., Place]


class Faults(NamedTuple):
    """The ids of events that are not as they should be."""

    lost: list[str]
    invented: list[str]
    twice: list[str]
    disordered: list[str]


NONE = Faults([], [], [], [])


def faults(place: Place) -> Faults:
    """Compare what was committed with its effects, in their order."""
    committed = place.sql("SELECT event_id, key, number FROM entries ORDER BY key, number")
    effects = place.sql("SELECT event_id, key, number FROM effects ORDER BY position")
    made = {row[0] for row in committed}
    counted = Counter(row[0] for row in effects)
    last: dict[str, int] = {}
    disordered = []
    for event_id, key, number in effects:
        if int(number) < last.get(key, 0):
            disordered.append(event_id)
        last[key] = int(number)
    return Faults(
        lost=sorted(made - counted.keys()),
        invented=sorted(counted.keys() - made),
        twice=[event_id for event_id, count in counted.items() if count > 1],
        disordered=disordered,
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """The broker and the database server of this file."""
    with running_servers() as servers:
        yield servers


@pytest.fixture(scope="module")
def baked(bake: Bake) -> Path:
    """A service that sends and handles events."""
    return bake(service_slug="ledger", database="postgresql", messaging="rabbitmq", sample="yes")


@pytest.fixture
def opened(servers: Servers, baked: Path, service_python: Path, tmp_path: Path) -> Iterator[Open]:
    """Return `opened()`, a place for the service, whose processes end with the test."""
    places: list[Place] = []

    def opened(service: Path = baked, vhost: str = "") -> Place:
        places.append(Place(servers, service, service_python, tmp_path, vhost))
        return places[-1]

    yield opened
    for place in places:
        place.stop()


@pytest.fixture
def place(opened: Open) -> Place:
    """A place for the service, with the ledger's tables."""
    place = opened()
    place.sql(TABLES)
    return place


def kills(seed: int) -> Iterator[tuple[float, str]]:
    """Return what is to be killed, in an order of chance, and after how many seconds."""
    chance = random.Random(seed)
    victims = ["relay"] * 6 + ["consume"] * 6 + ["write"] * 3 + ["broker"] * 4 + ["database"] * 4
    chance.shuffle(victims)
    return ((chance.uniform(1, 4), victim) for victim in victims)


def test_no_event_is_lost_or_has_two_effects_while_everything_is_killed(
    servers: Servers, place: Place
) -> None:
    pauses = {"relay": "0.5", "consume": "0.3", "write": "0.07"}
    names = ("relay", "relay", "consume", "consume")
    options = {"COUNT": "2000", "CONSUMER_CONCURRENCY": "32"}
    workers = [place.start(LEDGER, name, PAUSE=pauses[name], **options) for name in names]
    place.wait_until_ready()
    writer = place.start(LEDGER, "write", PAUSE=pauses["write"], **options)
    turns: dict[str, Iterator[Server | Process]] = {
        "relay": itertools.cycle(workers[:2]),
        "consume": itertools.cycle(workers[2:]),
        "write": itertools.repeat(writer),
        "broker": itertools.repeat(servers.broker),
        "database": itertools.repeat(servers.database),
    }
    killed: Counter[str] = Counter()
    for seconds, name in kills(SEED):
        time.sleep(seconds)
        assert [process.name for process in workers if not process.is_alive()] == []
        next(turns[name]).kill()
        killed[name] += 1
    eventually(lambda: not writer.is_alive(), "all entries are committed", 300)
    servers.wait()
    eventually(lambda: place.number(UNHANDLED) == 0, "all entries have their effect")
    place.wait_until_idle()
    assert place.stop() == [0, 0, 0, 0]
    duplicates = sum(process.told().count("event duplicate") for process in workers)
    print(f"seed {SEED}: {killed}, {duplicates} duplicates")
    assert faults(place) == NONE
    assert place.number("SELECT count(*) FROM entries") >= 2000
    assert killed.total() > 20
    assert duplicates > 10  # the windows were open


@pytest.mark.parametrize(
    ("bypass", "victim", "found"),
    [
        ("outbox-after", "write", "lost"),
        ("outbox-before", "", "invented"),
        ("inbox", "consume", "twice"),
        ("lanes", "", "disordered"),
    ],
)
def test_without_one_part_the_same_events_are(
    place: Place, bypass: str, victim: str, found: str
) -> None:
    count = "100000" if victim else "60"  # entries come for as long as processes are killed
    options = {"COUNT": count, "KEYS": "3", "PAUSE": "0.3", "BYPASS": bypass}
    processes = {name: place.start(LEDGER, name, **options) for name in ("relay", "consume")}
    place.wait_until_ready()
    if bypass == "lanes":  # its events are to wait for it, so that it has many of a key at once
        assert processes["consume"].stop() == 0
    processes["write"] = place.start(LEDGER, "write", **options)
    for _ in range(3 if victim else 0):
        before = place.number(COUNT)
        eventually(lambda: place.number(COUNT) > before + 2, "more effects")  # noqa: B023
        processes[victim].kill()
    if victim:
        processes["write"].stop()
    eventually(lambda: not processes["write"].is_alive(), "all entries are committed")
    if bypass == "lanes":
        processes["consume"].start()
    place.wait_until_idle()
    time.sleep(BROKER_COUNTS)
    place.wait_until_idle()
    assert getattr(faults(place), found)


def place_orders(port: int, count: int) -> None:
    """Place orders, one piece each; the service stays ready."""
    order = {"sku": "tea", "quantity": 1}
    with closing(Client(port)) as client:
        for number in range(count):
            placed = client("POST", "/v1/orders", order | {"reference": f"PO-{number}"})
            assert placed.status == 201, placed.body
            # It is asked about each second, by a thread that may come late.
            eventually(lambda: client("GET", "/readyz").status == 200, "it is ready")


def sold(port: int) -> int:
    """Return how many pieces the service has counted as sold."""
    with closing(Client(port)) as client:
        answer = client("GET", "/v1/sales").json()
        return sum(int(sale["quantity"]) for sale in answer.get("items", ()))


def metric(process: Process, name: str) -> float:
    """Return the sum of a metric's samples."""
    text = ask(process.port, "/metrics")[2].decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (.+)$", text, re.M))


@pytest.fixture
def processes(place: Place) -> dict[str, Process]:
    """The service's own processes, ready."""
    commands = ("serve", "relay", "consume")
    processes = {name: place.start("-m", "service", name) for name in commands}
    place.wait_until_ready()
    return processes


@pytest.fixture
def disk_alarm(servers: Servers) -> Iterator[Callable[[str], str]]:
    """Return a function that sets how much of the disk has to be free, until the test ends."""

    def set_limit(limit: str) -> str:
        return servers.rabbitmqctl("set_disk_free_limit", limit)

    yield set_limit
    set_limit(DISK_LIMIT)


def test_while_the_brokers_disk_is_full_the_service_is_ready_and_nothing_is_lost(
    place: Place, processes: dict[str, Process], disk_alarm: Callable[[str], str]
) -> None:
    port = processes["serve"].port
    relay = processes["relay"]
    disk_alarm(DISK_ALARM)
    place_orders(port, 30)
    age = "messaging_outbox_age_seconds"
    eventually(lambda: metric(relay, age) > 12, "the relay has tried twice")
    assert sold(port) == 0
    disk_alarm(DISK_LIMIT)
    eventually(lambda: sold(port) == 30, "all orders are counted")
    place.wait_until_idle()
    assert sold(port) == 30


def test_while_the_queue_is_full_the_service_is_ready_and_nothing_is_lost(
    servers: Servers, place: Place, processes: dict[str, Process]
) -> None:
    port = processes["serve"].port
    assert processes["consume"].stop() == 0
    policy = ("short", r"\.events$", '{"max-length": 5}', "--apply-to", "queues")
    servers.rabbitmqctl("set_policy", "-p", place.vhost, *policy)
    place_orders(port, 40)
    sent = "messaging_client_sent_messages_total"
    refused = f'{sent}{{event_type="ledger.order.placed",outcome="refused"}}'
    relay = processes["relay"]
    eventually(lambda: metric(relay, "messaging_outbox_age_seconds") > 10, "events are refused")
    waiting = place.number("SELECT count(*) FROM outbox")
    assert waiting > 20
    # Once at first, then in growing intervals up to three seconds.
    assert 1 <= metric(relay, re.escape(refused)) / waiting < 20
    processes["consume"].start()
    eventually(lambda: sold(port) == 40, "all orders are counted")
    place.wait_until_idle()
    assert sold(port) == 40


# Which releases of the sender each release of the reader understands.
UNDERSTOOD = {
    "old": {"old", "expanded"},
    "expanded": {"old", "expanded", "contracted"},
    "contracted": {"old", "expanded", "contracted"},
}


def test_services_a_release_apart_understand_each_other(bake: Bake, opened: Open) -> None:
    sender = opened()
    sender.sql(TABLES)
    readers = {}
    for release in UNDERSTOOD:
        answers = {"database": "postgresql", "messaging": "rabbitmq", "sample": "no"}
        reader = opened(bake(service_slug=f"reader-{release}", **answers), sender.vhost)
        reader.sql(TABLES)
        reader.start(LEDGER, "consume", RELEASE=release, SENDER=sender.service.name)
        readers[release] = reader
    for reader in readers.values():
        reader.wait_until_ready()
    sender.start(LEDGER, "relay")
    writers = [sender.start(LEDGER, "write", RELEASE=each, COUNT="10") for each in UNDERSTOOD]
    eventually(lambda: not any(writer.is_alive() for writer in writers), "all has been written")
    sender.wait_until_idle()
    sent = dict(sender.sql("SELECT event_id, release FROM entries"))
    for release, reader in readers.items():
        understood = {each for each in sent if sent[each] in UNDERSTOOD[release]}
        eventually(partial(has_read, reader, understood, sent.keys() - understood), release)
        assert set(letters(reader).values()) <= {"wrong schema: data.note: Field required"}


def has_read(reader: Place, understood: set[str], others: set[str]) -> bool:
    """Whether the one had an effect and the others are dead letters."""
    return (handled(reader), set(letters(reader))) == (understood, others)


def handled(reader: Place) -> set[str]:
    """Return the ids of the events that had an effect."""
    return {row[0] for row in reader.sql("SELECT event_id FROM effects")}


def letters(reader: Place) -> dict[str, str]:
    """Return the dead letters' ids, each with its reason."""
    told = reader.run("-m", "service.chassis.messaging.dead_letters", "list").splitlines()
    found = [json.loads(line) for line in told if line != "no dead letters"]
    return {letter["id"]: letter["reason"] for letter in found}


def lines(collector: Collector, trace: bytes) -> set[tuple[str, ...]]:
    """Return a trace's spans, each with those above it: service, kind and name."""
    spans: dict[bytes, Span] = {}
    said: dict[bytes, str] = {}
    for group in [group for sent in collector.requests for group in sent.resource_spans]:
        service = values(group.resource.attributes)["service.name"]
        for span in [span for scope in group.scope_spans for span in scope.spans]:
            if span.trace_id == trace:
                kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
                spans[span.span_id] = span
                said[span.span_id] = f"{service} {kind} {span.name}"

    def up(id_: bytes) -> Iterator[str]:
        while id_ in spans:
            yield said[id_]
            id_ = spans[id_].parent_span_id

    return {tuple(up(id_)) for id_ in spans}


def test_one_trace_joins_the_request_its_event_the_handler_and_the_service_that_it_calls(
    place: Place, opened: Open, bake: Bake
) -> None:
    trace = os.urandom(16)
    parent = os.urandom(8)
    stock = opened(bake(service_slug="stock", database="postgresql", sample="yes"))
    with closing(Collector()) as collector:
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        callee = stock.start("-m", "service", "serve", **otel).wait_until_ready()
        serve = place.start("-m", "service", "serve", **otel)
        place.start("-m", "service", "relay", **otel)
        url = f"http://127.0.0.1:{callee.port}"
        consume = place.start(CALLING, "consume", STOCK_URL=url, **otel)
        place.wait_until_ready()
        order = {"reference": "PO-1", "sku": "tea", "quantity": 1}
        with closing(Client(serve.port)) as client:
            traceparent = f"00-{trace.hex()}-{parent.hex()}-01"
            assert client("POST", "/v1/orders", order, traceparent=traceparent).status == 201
        request = ("ledger SERVER POST /v1/orders",)
        sent = ("ledger PRODUCER publish events", *request)
        handler = ("ledger CONSUMER process ledger.events", *sent)
        call = ("ledger CLIENT GET", *handler)
        wanted = {
            request,
            ("ledger CLIENT INSERT", *request),
            handler,
            ("ledger CLIENT INSERT", *handler),
            call,
            ("stock SERVER GET /v1/products/<sku>", *call),
        }
        eventually(lambda: wanted <= lines(collector, trace), f"one trace of {wanted}")
        assert metric(consume, "http_client_request_duration_seconds_count") >= 1
    assert collector.faults == []

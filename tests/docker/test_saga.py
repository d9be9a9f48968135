"""The saga of docs/saga.md: three services by one broker, their processes killed while it runs."""

import json
import os
import shlex
import signal
import socket
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import saga
from tests.conftest import Bake
from tests.conftest import make_passes
from tests.docker.containers import NO_FSYNC
from tests.docker.containers import ask
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import status

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PASSWORD = "unused"
FINAL = ("shipped", "cancelled")
# Who handles what; the page's first table.
HANDLERS = {
    "orders.order.placed": ("shipping",),
    "shipping.shipment.changed": ("orders", "payments"),
    "payments.payment.changed": ("orders", "shipping"),
}
TABLES = {"orders": "orders", "payments": "payments", "shipping": "shipments"}
# All that a service tells is kept, so that the test knows what has to arrive, and can repeat it.
REMEMBER = """
CREATE TABLE told (event_id text, type text, key text, body bytea);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO told VALUES (NEW.event_id, NEW.type, NEW.key, NEW.body); RETURN NULL; END $$;
CREATE TRIGGER remember AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION remember();
GRANT ALL ON told TO PUBLIC;
"""
REPEAT = """
INSERT INTO outbox (event_id, type, key, body, created)
SELECT {id}, type, key, {body}, now() FROM (SELECT DISTINCT * FROM told) AS once
ORDER BY md5(event_id || 'seed');
"""
CONSUMED = "messaging_client_consumed_messages_total{"
# What an order, its payment and its shipment may be in the end.
ENDS = {
    ("shipped", "taken", "shipped"),
    ("cancelled", "none", "refused"),
    ("cancelled", "refused", "released"),
    ("cancelled", "refunded", "failed"),
}
SAME = {"id": "event_id", "body": "body"}
NEW_ID = "'again-' || event_id"
OTHER = {
    "id": NEW_ID,
    "body": f"convert_to(replace(convert_from(body, 'UTF8'), event_id, {NEW_ID}), 'UTF8')",
}


class Process:
    """One process of a service, as the page starts it."""

    def __init__(self, service: Path, command: str, environment: dict[str, str]) -> None:
        """Start it on a free port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.command = [word for word in shlex.split(command) if not word.startswith("PORT=")]
        own = {"PORT": str(self.port), "BIND_ADDRESS": "127.0.0.1", "DRAIN_DELAY": "0"}
        self._service = service
        self._environment = environment | own
        self.start()

    def start(self) -> None:
        """Start it, or its successor."""
        self._process = subprocess.Popen(self.command, cwd=self._service, env=self._environment)

    def signal(self, number: int) -> None:
        """Send a signal; a killed process is gone when this returns."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def wait_until_ready(self) -> None:
        """Return when it works."""
        eventually(lambda: status(self.port, "/readyz") == 200, f"{self.command} is ready")


class Saga:
    """The services, their databases on one server, their broker, and their processes."""

    def __init__(self, services: dict[str, Path], database: str, broker: str) -> None:
        """Know the containers; start nothing."""
        self.services = services
        self.database = database
        self.broker = broker
        self.processes: dict[str, Process] = {}
        self.pieces = 0  # in stock at the beginning

    @property
    def port(self) -> int:
        """The port of the API."""
        return self.processes["orders"].port

    def environment(self, name: str) -> dict[str, str]:
        """What a service's processes are told: its own database, and the broker of all."""
        host, broker = (docker("port", one) for one in (self.database, self.broker))
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.services[name] / "src"),
            "LOG_LEVEL": "WARNING",
            "DATABASE_TIMEOUT": "30",  # of which a lock of a busy machine may take 0.4
            "DATABASE_URL": f"postgresql://{name}:{PASSWORD}@{host.rpartition(' ')[2]}/{name}",
            "BROKER_URL": f"amqp://saga:{PASSWORD}@{broker.rpartition(' ')[2]}",
        }

    def sql(self, name: str, statement: str) -> str:
        """Run SQL in a service's database; return rows as lines with `|` between values."""
        plain = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
        psql = ("psql", *plain, "--username=postgres", f"--dbname={name}")
        return docker("exec", "--interactive", self.database, *psql, stdin=statement)

    def prepare(self, name: str) -> None:
        """Make a service's migration, its database and its tables."""
        make_passes(self.services[name], *saga.FINISH[-2:])
        owner = f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'; "
        self.sql("postgres", f"{owner}\nCREATE DATABASE {name} OWNER {name};")
        subprocess.run(
            shlex.split(MIGRATE), cwd=self.services[name], env=self.environment(name), check=True
        )
        self.sql(name, REMEMBER)

    def start(self) -> None:
        """Start all processes and wait until they work."""
        for name, service in self.services.items():
            environment = self.environment(name)
            for key, command in (("relay", RELAY), ("consumer", CONSUME)):
                self.processes[f"{name} {key}"] = Process(service, command, environment)
            if name == "orders":
                self.processes[name] = Process(service, SERVE, environment)
        for process in self.processes.values():
            process.wait_until_ready()

    def place(self, sku: str = "tea", country: str = "ES", quantity: int = 2) -> str:
        """Place an order; return its id."""
        order = {"sku": sku, "quantity": quantity, "country": country}
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        code, received, body = ask(self.port, "/v1/orders", "POST", json.dumps(order), headers)
        placed = json.loads(body)
        assert (code, placed["state"]) == (202, "placed")
        assert received["Location"] == f"orders/{placed['id']}"
        return str(placed["id"])

    def state(self, order: str) -> str:
        """The state that the API shows."""
        return str(json.loads(ask(self.port, f"/v1/orders/{order}")[2])["state"])

    def status(self, name: str, order: str) -> str:
        """What another service has decided about an order; empty where it has nothing of it."""
        return self.sql(name, f"SELECT status FROM {TABLES[name]} WHERE order_id = '{order}'")

    def tell(self, name: str, what: str, order: str, status: str) -> None:
        """Let a service's relay send an event that its handlers have not told."""
        event_id = uuid.uuid4().hex
        type_ = f"{name}.{what}.changed"
        data = {"order_id": order, "status": status}
        envelope = {"specversion": "1.0", "id": event_id, "source": f"/{name}", "type": type_}
        body = json.dumps({**envelope, "subject": order, "data": data})
        columns = "INSERT INTO outbox (event_id, type, key, body, created) VALUES"
        row = f"('{event_id}', '{type_}', '{order}', convert_to('{body}', 'UTF8'), now())"
        self.sql(name, f"{columns} {row}")

    def wait_for(self, order: str, state: str) -> None:
        """Return when the API shows this state."""
        eventually(lambda: self.state(order) == state, f"{order} is {state}")

    def is_settled(self) -> bool:
        """Return whether all that was told was handled by all whom it concerns."""
        # In this order: what was handled before has told what follows from it.
        queries = [
            f"\\connect {name}\nSELECT '{name}', event_id{columns};\n"
            for columns in (" FROM inbox", ", type FROM told")
            for name in self.services
        ]
        rows = self.rows("postgres", "".join(queries))
        handled = {tuple(row) for row in rows if len(row) == 2}
        told = [row for row in rows if len(row) == 3]
        return all((who, id_) in handled for _, id_, type_ in told for who in HANDLERS[type_])

    def settle(self) -> None:
        """Wait until the sagas are at their ends."""
        eventually(self.is_settled, "all events are handled")

    def consumed(self) -> int:
        """How many events the consumers have settled since they began, duplicates included."""
        total = 0.0
        for name in self.services:
            text = ask(self.processes[f"{name} consumer"].port, "/metrics")[2].decode()
            lines = [line for line in text.splitlines() if line.startswith(CONSUMED)]
            total += sum(float(line.rpartition(" ")[2]) for line in lines)
        return int(total)

    def picture(self) -> str:
        """All that the services have decided."""
        tables = {*TABLES.items(), ("shipping", "stock")}
        query = "\\connect {}\nSELECT * FROM {} ORDER BY 1;\n"
        return self.sql("postgres", "".join(query.format(*table) for table in sorted(tables)))

    def check(self) -> None:
        """See that every order has its goods and its money, or neither."""
        query = "SELECT id, amount_cents, state FROM orders"
        orders = {order: (amount, state) for order, amount, state in self.rows("orders", query)}
        query = "SELECT order_id, amount_cents, status FROM payments"
        payments = {order: (amount, state) for order, amount, state in self.rows("payments", query)}
        shipments = dict(self.rows("shipping", "SELECT order_id, status FROM shipments"))
        assert shipments.keys() == orders.keys() >= payments.keys()
        ends = {
            (state, payments.get(order, ("", "none"))[1], shipments[order])
            for order, (_, state) in orders.items()
        }
        assert ends <= ENDS
        taken = sum(int(amount) for amount, status in payments.values() if status == "taken")
        assert taken == sum(int(amount) for amount, state in orders.values() if state == "shipped")
        sent = "SELECT coalesce(sum(quantity), 0) FROM shipments WHERE status = 'shipped'"
        pieces = self.sql("shipping", f"{sent};\nSELECT sum(free) FROM stock;")
        assert sum(map(int, pieces.split())) == self.pieces

    def rows(self, name: str, query: str) -> list[list[str]]:
        """Read rows of a service's database."""
        return [line.split("|") for line in self.sql(name, query).splitlines()]


_, _, MIGRATE, SERVE, RELAY, CONSUME = saga.RUN.splitlines()


@contextmanager
def container(*arguments: str) -> Iterator[str]:
    """Run a container with a random name; in the end remove it."""
    name = f"saga-{uuid.uuid4().hex[:12]}"
    docker("run", "--detach", "--name", name, *arguments)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


@pytest.fixture(scope="module")
def shop(
    bake: Bake, service_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Saga]:
    """The three services of the page, running; the broker starts while they are made."""
    rabbit = (f"--env=RABBITMQ_DEFAULT_PASS={PASSWORD}", "--env=RABBITMQ_DEFAULT_USER=saga")
    postgres = f"--env=POSTGRES_PASSWORD={PASSWORD}"
    with ExitStack() as stack:
        enter = stack.enter_context
        broker = enter(container("--publish=127.0.0.1::5672", *rabbit, "rabbitmq:4"))
        database = enter(container("--publish=127.0.0.1::5432", postgres, "postgres:18", *NO_FSYNC))
        services = saga.follow(bake, service_python, tmp_path_factory.mktemp("saga"))
        made = Saga(services, database, broker)
        ready = ("exec", database, "pg_isready", "--quiet", "--host=127.0.0.1")
        eventually(lambda: succeeds(*ready), "PostgreSQL answers")
        with ThreadPoolExecutor() as threads:
            list(threads.map(made.prepare, services))
        made.sql("shipping", saga.STOCK)
        made.pieces = int(made.sql("shipping", "SELECT sum(free) FROM stock"))
        try:
            made.start()
            yield made
        finally:
            for process in made.processes.values():
                process.signal(signal.SIGKILL)


def succeeds(*arguments: str) -> bool:
    """Return whether docker succeeds."""
    return subprocess.run(("docker", *arguments), capture_output=True).returncode == 0


@pytest.fixture(autouse=True)
def _all_is_as_it_should_be(shop: Saga) -> Iterator[None]:
    """After each test every order is final, and what the services hold fits together."""
    yield
    for process in shop.processes.values():
        process.signal(signal.SIGCONT)
    shop.settle()
    shop.check()


def test_an_order_is_shipped_or_all_that_was_done_for_it_is_undone(shop: Saga) -> None:
    text = saga.ORDERS.replace("localhost:5000", f"127.0.0.1:{shop.port}")
    commands = [shlex.split(f"{line} --silent") for line in text.splitlines()]
    answers = [subprocess.check_output(command) for command in commands]
    placed = [json.loads(answer)["id"] for answer in answers]
    shop.settle()
    assert [shop.state(order) for order in placed] == ["shipped", "cancelled", "cancelled"]
    ends = ["taken", "refused", "refunded"]
    assert [shop.status("payments", order) for order in placed] == ends
    ends = ["shipped", "released", "failed"]
    assert [shop.status("shipping", order) for order in placed] == ends


def test_what_is_out_of_stock_is_neither_reserved_nor_paid(shop: Saga) -> None:
    order = shop.place(quantity=100)
    shop.settle()
    assert shop.state(order) == "cancelled"
    assert (shop.status("shipping", order), shop.status("payments", order)) == ("refused", "")


def test_all_events_a_second_and_a_third_time_change_nothing(shop: Saga) -> None:
    told = [row for name in shop.services for row in shop.rows(name, "SELECT type FROM told")]
    deliveries = sum(len(HANDLERS[type_]) for (type_,) in told)
    eventually(lambda: shop.consumed() >= deliveries, "all events are settled")
    before = shop.picture()
    for _ in range(2):
        for name in shop.services:
            shop.sql(name, REPEAT.format(**SAME))
    eventually(lambda: shop.consumed() >= 3 * deliveries, "all repetitions are settled")
    assert shop.picture() == before


def test_the_same_facts_told_by_other_events_in_another_order_change_nothing(shop: Saga) -> None:
    before = shop.picture()
    for name in shop.services:
        shop.sql(name, REPEAT.format(**OTHER))
    shop.settle()
    assert shop.picture() == before


def test_an_event_that_overtakes_that_of_another_service_is_heeded(shop: Saga) -> None:
    relay = shop.processes["shipping relay"]
    relay.signal(signal.SIGSTOP)
    order = shop.place()
    eventually(lambda: shop.status("shipping", order) == "reserved", "the tea is reserved")
    shop.tell("payments", "payment", order, "taken")
    shop.wait_for(order, "paid")
    relay.signal(signal.SIGCONT)
    shop.settle()
    assert shop.state(order) == "shipped"


def test_money_for_what_is_not_reserved_any_more_is_given_back(shop: Saga) -> None:
    order = shop.place()
    shop.settle()
    # As if stock had been counted anew, and the shipment given up by hand.
    shop.sql("shipping", f"UPDATE shipments SET status = 'released' WHERE order_id = '{order}'")
    shop.sql("shipping", "UPDATE stock SET free = free + 2 WHERE sku = 'tea'")
    shop.sql("orders", f"UPDATE orders SET state = 'reserved' WHERE id = '{order}'")
    shop.tell("payments", "payment", order, "taken")
    shop.settle()
    assert (shop.state(order), shop.status("payments", order)) == ("cancelled", "refunded")


@pytest.mark.parametrize("killed", ["payments consumer", "payments relay", "shipping consumer"])
def test_a_saga_goes_on_after_a_process_was_killed_in_its_middle(shop: Saga, killed: str) -> None:
    process = shop.processes[killed]
    process.signal(signal.SIGSTOP)
    orders = [shop.place(), shop.place(country="AQ")]
    for order in orders:
        shop.wait_for(order, "placed" if killed == "shipping consumer" else "reserved")
    process.signal(signal.SIGKILL)
    process.start()
    shop.wait_for(orders[0], "shipped")
    shop.wait_for(orders[1], "cancelled")


def test_money_taken_is_orders_shipped_whichever_process_is_killed_meanwhile(shop: Saga) -> None:
    wishes = [("tea", "ES", 1)] * 4 + [("tea", "AQ", 1), ("piano", "ES", 2)]
    workers = [process for name, process in shop.processes.items() if name != "orders"]
    placed: list[str] = []
    with ThreadPoolExecutor(len(wishes)) as threads:

        def are_open() -> bool:
            placed.extend(threads.map(lambda wish: shop.place(*wish), wishes))
            return bool(shop.sql("orders", f"SELECT 1 FROM orders WHERE state NOT IN {FINAL}"))

        for process in workers:
            eventually(are_open, "orders are under way")
            process.signal(signal.SIGKILL)
            process.start()
    shop.settle()
    states = Counter(shop.state(order) for order in placed)
    assert states["shipped"] + states["cancelled"] == len(placed)
    assert states["cancelled"] >= 2 * len(workers)


def test_an_order_whose_event_is_lost_is_found_and_goes_on(shop: Saga) -> None:
    consumer = shop.processes["payments consumer"]
    consumer.signal(signal.SIGKILL)
    order = shop.place()
    shop.wait_for(order, "reserved")
    eventually(lambda: not shop.rows("shipping", "SELECT id FROM outbox"), "it is in the queue")
    docker("exec", shop.broker, "rabbitmqctl", "--quiet", "purge_queue", "payments.events")
    shop.sql("shipping", f"DELETE FROM told WHERE key = '{order}'")
    consumer.start()
    consumer.wait_until_ready()
    assert (shop.sql("orders", saga.STUCK), find(shop)) == ("", (0, 0))
    age = f"UPDATE orders SET changed_at = now() - interval '1 hour' WHERE id = '{order}'"
    shop.sql("orders", age)
    assert shop.sql("orders", saga.STUCK).startswith(f"{order}|reserved|")
    assert find(shop) == (1, 1)
    shop.wait_for(order, "shipped")
    assert find(shop) == (0, 0)


def find(shop: Saga) -> tuple[int, int]:
    """Run the page's job; return its exit status and how many orders it has named."""
    done = subprocess.run(
        shlex.split(saga.FIND),
        cwd=shop.services["orders"],
        env=shop.environment("orders"),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout.count(" since ")

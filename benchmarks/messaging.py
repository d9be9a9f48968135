"""Events per second through outbox, broker and inbox, and the latency that this way adds.

Its argument is the folder of a service baked with `messaging=rabbitmq` and the sample; run it with
the Python of `build/service`, or by `make bench`. It needs Docker for a RabbitMQ and a PostgreSQL.
"""

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EVENTS = 3000  # for the rates
PER_SECOND = 50
SECONDS = 20  # of the latency at that rate
PRODUCTS = 100  # whose sums the handler adds to
FIRST = 0.1  # of the events, in which a process is still starting
IMAGES = {
    "rabbitmq:4": (5672, "RABBITMQ_DEFAULT_USER=bench", "RABBITMQ_DEFAULT_PASS=unused"),
    "postgres:18": (5432, "POSTGRES_HOST_AUTH_METHOD=trust"),
}
PARTS = ("outbox", "relay", "consumer with inbox")
OUTBOX = "SELECT count(*) FROM outbox"
INBOX = "SELECT count(*) FROM inbox"
HANDLED = "SELECT event_id, handled FROM inbox"


def docker(*arguments: str) -> str:
    command = ("docker", *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@contextlib.contextmanager
def container(image: str) -> Iterator[str]:
    """Run an image's server; yield its address."""
    port, *variables = IMAGES[image]
    options = [f"--env={each}" for each in variables] + ["--publish", f"127.0.0.1::{port}"]
    started = docker("run", "--detach", *options, image)
    try:
        yield docker("port", started, str(port))
    finally:
        docker("rm", "--force", "--volumes", started)


@contextlib.contextmanager
def servers() -> Iterator[None]:
    """Let DATABASE_URL and BROKER_URL name servers, and make the tables."""
    with container("rabbitmq:4") as broker, container("postgres:18") as database:
        os.environ["DATABASE_URL"] = f"postgresql://postgres@{database}/postgres"
        os.environ["BROKER_URL"] = f"amqp://bench:unused@{broker}"
        command = (sys.executable, "-m", "alembic", "upgrade", "head")
        folder = Path(os.environ["PYTHONPATH"]).parent
        until(lambda: not subprocess.run(command, cwd=folder, capture_output=True).returncode)
        yield


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, two minutes at most."""
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it takes too long")
        time.sleep(0.02)


@contextlib.contextmanager
def process(command: str) -> Iterator[None]:
    """Run the service's relay or consumer."""
    environment = os.environ | {"PORT": free_port(), "LOG_LEVEL": "WARNING"}
    running = subprocess.Popen((sys.executable, "-m", "service", command), env=environment)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


class Store:
    """The service's own way to publish, and what its tables say."""

    def __init__(self) -> None:
        from service.chassis.data.connections import Database
        from service.chassis.messaging import outbox
        from service.events.orders import OrderPlaced
        from service.settings import Settings

        self._database = Database(Settings.load())
        self._event = OrderPlaced
        self._publish = outbox.publish

    def publish(self, number: int) -> str:
        """Publish an event in a transaction of its own."""
        sku = f"tea-{number % PRODUCTS}"
        placed = self._event(order_id=uuid.uuid4(), sku=sku, quantity=1, amount_cents=425)
        with self._database.transaction() as connection:
            return self._publish(connection, placed, str(placed.order_id))

    def select(self, statement: str) -> list[Any]:
        """Return the rows of a statement."""
        with self._database.read() as connection:
            return list(connection.exec_driver_sql(statement))

    def count(self, statement: str) -> int:
        """Return the only number that a statement selects."""
        return int(self.select(statement)[0][0])


def rate(done: Callable[[], int]) -> float:
    """Return how many of the events a process does in a second, once it is at work."""
    until(lambda: done() > EVENTS * FIRST)
    first = done()
    began = time.perf_counter()
    until(lambda: done() >= EVENTS)
    return (EVENTS - first) / (time.perf_counter() - began)


def rates(store: Store) -> dict[str, float]:
    """Let each part work alone on what the one before it has left."""
    with process("consume"):
        until(lambda: can_send(store))  # its queue is declared
    began = time.perf_counter()
    for number in range(EVENTS):
        store.publish(number)
    published = EVENTS / (time.perf_counter() - began)
    with process("relay"):
        relayed = rate(lambda: EVENTS - store.count(OUTBOX))
    known = store.count(INBOX)
    with process("consume"):
        consumed = rate(lambda: store.count(INBOX) - known)
    return dict(zip(PARTS, (published, relayed, consumed), strict=True))


def can_send(store: Store) -> bool:
    """Send an event, and return whether it is handled."""
    known = store.count(INBOX)
    store.publish(0)
    with process("relay"):
        until(lambda: store.count(INBOX) > known)
    return True


def latencies(store: Store) -> list[float]:
    """Return milliseconds from a commit to the handler's transaction, at a moderate rate."""
    committed: dict[str, float] = {}
    with process("relay"), process("consume"):
        known = store.count(INBOX)
        store.publish(0)
        until(lambda: store.count(INBOX) > known)
        began = time.monotonic()
        for number in range(PER_SECOND * SECONDS):
            time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
            committed[store.publish(number)] = time.time()
        until(lambda: store.count(INBOX) > known + len(committed))
    handled = dict(store.select(HANDLED))
    return [(handled[each].timestamp() - when) * 1000 for each, when in committed.items()]


def main() -> None:
    """Print the tables."""
    source = Path(sys.argv[1]).absolute() / "src"
    sys.path.insert(0, str(source))
    os.environ |= {"PYTHONPATH": str(source), "BIND_ADDRESS": "127.0.0.1"}
    with servers():
        store = Store()
        print("\n| events | a second |", "|---|---|", sep="\n")
        for name, each in rates(store).items():
            print(f"| {name} | {each:.0f} |")
        found = sorted(latencies(store))
    p99 = found[int(len(found) * 0.99)]
    print(f"\n| from commit to handler, {PER_SECOND} events a second | ms |", "|---|---|", sep="\n")
    print(f"| median | {statistics.median(found):.1f} |", f"| 99 % | {p99:.1f} |", sep="\n")


if __name__ == "__main__":
    main()

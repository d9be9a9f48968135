"""What the database's layers cost beside psycopg in bare Flask, in interleaved rounds.

It reads one order, lists fifty and creates one. It needs Docker for a PostgreSQL of its own, or
DATABASE_URL of one to fill. In process it measures CPU time; where wrk is installed also requests
per second on the server. Psycopg in bare Flask has a ratio of 1.
"""

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chassis
import psycopg
from flask import Flask
from flask import abort
from flask import request
from psycopg.rows import dict_row
from werkzeug.test import EnvironBuilder

from service.app import create_app
from service.chassis.data.connections import Database
from service.chassis.messaging import outbox
from service.chassis.resources import idempotency
from service.domain import orders
from service.settings import Settings
from service.storage import orders as storage

BLOCKS = 21  # in process
CALLS = 50
ROUNDS = 9  # on the server, of a second each
ROWS = 10_000
PAGE = 50
COLUMNS = "id, reference, sku, quantity, status, note, amount_cents, created_at, version"
GET = f"SELECT {COLUMNS} FROM orders WHERE id = %s"
LIST = f"SELECT {COLUMNS} FROM orders ORDER BY created_at, id LIMIT %s"
POST = (
    "INSERT INTO orders (id, reference, sku, quantity, status, amount_cents, created_at, version)"
    f" VALUES (gen_random_uuid(), %s, %s, %s, 'open', 425 * %s, now(), 1) RETURNING {COLUMNS}"
)
FILL = (
    "INSERT INTO orders (id, reference, sku, quantity, status, amount_cents, created_at, version)"
    " SELECT gen_random_uuid(), gen_random_uuid(), 'tea', 1, 'open', 425,"
    " now() - n * interval '1 s', 1 FROM generate_series(1, %s) AS n"
)
WRK = """
local count, salt = 0, "%s"
function request()
    count = count + 1
    local body = '{"reference":"' .. salt .. count .. '","sku":"tea","quantity":2}'
    return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
end
"""


class Pool:
    """Connections in a queue: as little as a pool can be."""

    def __init__(self, url: str, size: int) -> None:
        self._free: queue.LifoQueue[psycopg.Connection[Any]] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(psycopg.connect(url, autocommit=True, row_factory=dict_row))

    def ask(self, statement: str, *parameters: object) -> list[Any]:
        connection = self._free.get()
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            self._free.put(connection)


def by_psycopg(settings: Settings) -> Flask:
    """Three routes as a hurried person writes them, each one statement in autocommit."""
    app = Flask(__name__)
    pool = Pool(plain_url(), settings.concurrency)

    @app.get("/v1/orders/<uuid:order_id>")
    def get_order(order_id: uuid.UUID) -> Any:
        return (pool.ask(GET, order_id) or abort(404))[0]

    @app.get("/v1/orders")
    def list_orders() -> Any:
        return {"items": pool.ask(LIST, int(request.args["limit"]))}

    @app.post("/v1/orders")
    def create_order() -> Any:
        body: Any = request.get_json()
        values = (body["reference"], body["sku"], body["quantity"], body["quantity"])
        return pool.ask(POST, *values)[0], 201

    return app


def by_core(settings: Settings) -> Flask:
    """The same routes with the service's own statements, in bare Flask."""
    app = Flask(__name__)
    database = Database(settings, settings.concurrency)

    @app.get("/v1/orders/<uuid:order_id>")
    def get_order(order_id: uuid.UUID) -> Any:
        with database.read() as connection:
            return vars(storage.get(connection, order_id) or abort(404))

    @app.get("/v1/orders")
    def list_orders() -> Any:
        limit = int(request.args["limit"])
        with database.read() as connection:
            found = storage.list_page(connection, "created_at", {}, None, limit)
        return {"items": [vars(order) for order in found]}

    @app.post("/v1/orders")
    def create_order() -> Any:
        body: Any = request.get_json()
        with database.transaction() as connection:
            order = orders.place(orders.OrderDraft(**body, status="open", note=None))
            storage.insert(connection, order)
        return vars(order), 201

    return app


LAYERS: dict[str, Callable[[Settings], Flask]] = {
    "psycopg and a queue, bare Flask": by_psycopg,
    "the service's statements, bare Flask": by_core,
    "the whole service": create_app,
}
REQUESTS = {
    "GET by id": "/v1/orders/{id}",
    f"list of {PAGE}": f"/v1/orders?limit={PAGE}",
    "POST": "/v1/orders",
}


def plain_url() -> str:
    """The database's URL as psycopg reads it."""
    return os.environ["DATABASE_URL"].replace("+psycopg", "")


def make_served() -> Flask:
    """The application that a server process serves."""
    return LAYERS[os.environ["LAYERS"]](Settings.load())


def caller(app: Flask, name: str, path: str) -> Callable[[], float]:
    """Make a function that returns the CPU seconds of one request; POST places a new order."""

    def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if status[0] != "2":
            raise RuntimeError(status)

    def environ() -> Any:
        if name != "POST":
            return EnvironBuilder(path=path).get_environ()
        body = {"reference": uuid.uuid4().hex, "sku": "tea", "quantity": 2}
        return EnvironBuilder(path=path, method="POST", json=body).get_environ()

    def call() -> float:
        environs = [environ() for _ in range(CALLS)]
        start = time.thread_time()
        for each in environs:
            b"".join(app.wsgi_app(each, respond))
        return (time.thread_time() - start) / CALLS

    return call


def in_process(order_id: str) -> None:
    """Print CPU time of a request, for each kind."""
    apps = [make(Settings.load()) for make in LAYERS.values()]
    for name, path in REQUESTS.items():
        callers = [caller(app, name, path.format(id=order_id)) for app in apps]
        with chassis.discarded_output():
            blocks = [[call() for call in callers] for _ in range(BLOCKS)][1:]
        chassis.show_times(f"{name}, in process", LAYERS, blocks)


def on_the_server(order_id: str) -> None:
    """Print requests per second, for each kind; all servers live at once and are asked in turn."""
    with chassis.serving(LAYERS, __file__) as served, tempfile.TemporaryDirectory() as folder:
        for name, path in REQUESTS.items():
            asked = [(process, url + path.format(id=order_id)) for process, url in served]
            rounds = [measure_round(name, asked, Path(folder)) for _ in range(ROUNDS)]
            chassis.show_rates(f"{name}, on the server", LAYERS, rounds[1:])


def measure_round(
    name: str, asked: list[chassis.Served], folder: Path
) -> list[tuple[float, float]]:
    """Measure each server once."""
    return [chassis.measure(*pair, *wrk_options(name, folder)) for pair in asked]


def wrk_options(name: str, folder: Path) -> tuple[str, ...]:
    """Return wrk's options: for POST a script that places orders which nobody has placed."""
    if name != "POST":
        return ()
    script = folder / "post.lua"
    script.write_text(WRK % f"{uuid.uuid4().hex[:20]}-")
    return ("--script", str(script))


@contextlib.contextmanager
def postgresql() -> Iterator[None]:
    """Let DATABASE_URL name a PostgreSQL: the one it names, else a container's meanwhile."""
    if "DATABASE_URL" in os.environ:
        yield
        return
    options = ("--env", "POSTGRES_HOST_AUTH_METHOD=trust", "--publish", "127.0.0.1::5432")
    container = docker("run", "--detach", *options, "postgres:18")
    try:
        address = docker("port", container, "5432")
        os.environ["DATABASE_URL"] = f"postgresql://postgres@{address}/postgres"
        for _ in range(300):
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(plain_url()).close()
                break
            time.sleep(0.1)
        yield
    finally:
        docker("rm", "--force", "--volumes", container)


def docker(*arguments: str) -> str:
    """Return what docker prints."""
    command = ("docker", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fill() -> str:
    """Make the tables and many orders; return the id of one."""
    engine = Database(Settings.load()).engine
    for metadata in (storage.TABLE.metadata, idempotency.metadata, outbox.metadata):
        metadata.create_all(engine)
    with psycopg.connect(plain_url(), autocommit=True) as connection:
        connection.execute(FILL, (ROWS,))
        connection.execute("VACUUM ANALYZE orders")
        (order_id,) = connection.execute("SELECT id FROM orders").fetchone() or ("",)
    return str(order_id)


def main() -> None:
    """Print all tables."""
    os.environ |= {"BIND_ADDRESS": "127.0.0.1", "LOG_FORMAT": "json", "CONCURRENCY": "8"}
    with postgresql():
        order_id = fill()
        in_process(order_id)
        if shutil.which("wrk"):
            on_the_server(order_id)
        else:
            print("\nwrk is not installed: no figures of the server", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        sys.exit(chassis.serve("database:make_served"))
    main()

"""What the database's layers cost beside psycopg in bare Flask: read one, list fifty, create one, interleaved.

It needs Docker for a PostgreSQL of its own, or DATABASE_URL of one to fill. In process it gives CPU seconds; where wrk
is installed also requests per second on the server. A ratio of 1 is psycopg in bare Flask.
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
from service.chassis import idempotency
from service.chassis import server
from service.chassis.database import Database
from service.domain import orders
from service.settings import Settings

BLOCKS, CALLS = 21, 50  # in process
ROUNDS = 9  # on the server, of a second each
ROWS, PAGE = 10_000, 50
COLUMNS = "id, reference, sku, quantity, status, note, amount_cents, created_at, version"
GET = f"SELECT {COLUMNS} FROM orders WHERE id = %s"
LIST = f"SELECT {COLUMNS} FROM orders ORDER BY created_at, id LIMIT %s"
POST = (
    "INSERT INTO orders (id, reference, sku, quantity, status, amount_cents, created_at, version)"
    f" VALUES (gen_random_uuid(), %s, %s, %s, 'open', 425 * %s, now(), 1) RETURNING {COLUMNS}"
)
FILL = (
    "INSERT INTO orders (id, reference, sku, quantity, status, amount_cents, created_at, version)"
    " SELECT gen_random_uuid(), gen_random_uuid(), 'tea', 1, 'open', 425, now() - n * interval '1 s', 1"
    f" FROM generate_series(1, {ROWS}) AS n"
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
    app, pool = Flask(__name__), Pool(plain_url(), settings.concurrency)
    app.add_url_rule("/v1/orders/<uuid:number>", view_func=lambda number: (pool.ask(GET, number) or abort(404))[0])

    @app.get("/v1/orders")
    def list_orders() -> Any:
        return {"items": pool.ask(LIST, int(request.args["limit"]))}

    @app.post("/v1/orders")
    def create_order() -> Any:
        body: Any = request.get_json()
        return pool.ask(POST, body["reference"], body["sku"], body["quantity"], body["quantity"])[0], 201

    return app


def by_core(settings: Settings) -> Flask:
    """The same routes with the service's own statements, in bare Flask."""
    app, database = Flask(__name__), Database(settings)

    @app.get("/v1/orders/<uuid:number>")
    def get_order(number: uuid.UUID) -> Any:
        with database.read() as connection:
            return vars(orders.get(connection, number) or abort(404))

    @app.get("/v1/orders")
    def list_orders() -> Any:
        with database.read() as connection:
            found = orders.page(connection, "created_at", {}, None, int(request.args["limit"]))
        return {"items": [vars(order) for order in found]}

    @app.post("/v1/orders")
    def create_order() -> Any:
        body: Any = request.get_json()
        with database.transaction() as connection:
            return vars(orders.add(connection, orders.Wish(**body, status="open", note=None))), 201

    return app


LAYERS: dict[str, Callable[[Settings], Flask]] = {
    "psycopg and a queue, bare Flask": by_psycopg,
    "the service's statements, bare Flask": by_core,
    "the whole service": create_app,
}
REQUESTS = {"GET by id": "/v1/orders/{id}", f"list of {PAGE}": f"/v1/orders?limit={PAGE}", "POST": "/v1/orders"}


def plain_url() -> str:
    """The database's URL as psycopg reads it."""
    return os.environ["DATABASE_URL"].replace("+psycopg", "")


def make_served() -> Flask:
    """The application that a server process serves."""
    return LAYERS[os.environ["LAYERS"]](Settings.load())


def caller(app: Flask, name: str, path: str) -> Callable[[], float]:
    """Make a function that gives the CPU seconds of one request; for a new order each time if the name says POST."""

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


def in_process(number: str) -> None:
    """Print CPU time of a request, for each kind."""
    apps = [make(Settings.load()) for make in LAYERS.values()]
    output, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    for name, path in REQUESTS.items():
        callers = [caller(app, name, path.format(id=number)) for app in apps]
        os.dup2(null, 1)  # the lines are written, as by a service, but nowhere
        blocks = [[call() for call in callers] for _ in range(BLOCKS)][1:]
        os.dup2(output, 1)
        chassis.show_times(f"{name}, in process", LAYERS, blocks)


def on_the_server(number: str) -> None:
    """Print requests per second, for each kind; all servers live at once and are asked in turn."""
    with chassis.serving(LAYERS, __file__) as served, tempfile.TemporaryDirectory() as folder:
        for name, path in REQUESTS.items():
            asked = [(process, url + path.format(id=number)) for process, url in served]
            rounds = [[chassis.measure(*pair, *script(name, Path(folder))) for pair in asked] for _ in range(ROUNDS)]
            chassis.show_rates(f"{name}, on the server", LAYERS, rounds[1:])


def script(name: str, folder: Path) -> tuple[str, ...]:
    """wrk's options: a script that makes new orders, for POST."""
    if name != "POST":
        return ()
    file = folder / "post.lua"
    file.write_text(WRK % f"{uuid.uuid4().hex[:20]}-")
    return ("--script", str(file))


@contextlib.contextmanager
def postgresql() -> Iterator[None]:
    """Let DATABASE_URL name a PostgreSQL: the one it names, else a container's for as long as this lasts."""
    if "DATABASE_URL" in os.environ:
        yield
        return
    options = ("--env", "POSTGRES_HOST_AUTH_METHOD=trust", "--publish", "127.0.0.1::5432")
    container = docker("run", "--detach", *options, "postgres:18")
    try:
        os.environ["DATABASE_URL"] = f"postgresql://postgres@{docker('port', container, '5432')}/postgres"
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
    return subprocess.run(("docker", *arguments), capture_output=True, text=True, check=True).stdout.strip()


def fill() -> str:
    """Make the tables and many orders; return the id of one."""
    engine = Database(Settings.load()).engine
    for metadata in (orders.ORDERS.metadata, idempotency.metadata):
        metadata.create_all(engine)
    with psycopg.connect(plain_url(), autocommit=True) as connection:
        connection.execute(FILL)
        connection.execute("VACUUM ANALYZE orders")
        (number,) = connection.execute("SELECT id FROM orders").fetchone() or ("",)
    return str(number)


def main() -> None:
    """Print all tables."""
    os.environ |= {"BIND_ADDRESS": "127.0.0.1", "LOG_FORMAT": "json", "CONCURRENCY": "8"}
    with postgresql():
        number = fill()
        in_process(number)
        if shutil.which("wrk"):
            on_the_server(number)
        else:
            print("\nwrk is not installed: no figures of the server", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        sys.exit(server.serve(Settings(drain_delay=0), "database:make_served"))
    main()

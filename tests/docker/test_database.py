"""A service with a database, as compose runs it: under concurrency, hostile input and faults."""

import itertools
import mmap
import os
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextlib import closing
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from tests.docker.collector import Collector
from tests.docker.collector import values
from tests.docker.containers import Bake
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import fetch
from tests.docker.containers import status
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.load import Load
from tests.docker.load import at_once
from tests.docker.project import Project
from tests.docker.project import deployed

pytestmark = pytest.mark.docker

TEA = {"reference": "PO-1", "sku": "tea", "quantity": 2}
POOLER = "edoburu/pgbouncer:v1"
SLOTS = 16  # CONCURRENCY by default


@pytest.fixture(scope="module")
def project(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The service of `make up`, with PostgreSQL."""
    with deployed(bake, tmp_path_factory.mktemp("database"), database="postgresql") as project:
        project.make("up")
        yield project


@pytest.fixture(scope="module")
def port(project: Project) -> int:
    """The port of that service."""
    return project.port()


@pytest.fixture(scope="module")
def wide(project: Project) -> Iterator[int]:
    """The port of a second replica, for fifty requests at once that may wait for one row's lock."""
    options = ("--env", "CONCURRENCY=50", "--env", "DATABASE_TIMEOUT=30")
    with project.replica(*options) as port:
        eventually(lambda: status(port, "/readyz") == 200, "the replica is ready")
        eventually(partial(fifty_are_served, port), "fifty connections are open")
        yield port


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    """A client of the service, which may have to notice that its database is back."""
    eventually(lambda: status(port, "/readyz") == 200, "the service is ready")
    with closing(Client(port)) as client:
        yield client


@pytest.fixture
def wide_client(wide: int) -> Iterator[Client]:
    """A client of the second replica."""
    with closing(Client(wide)) as client:
        yield client


def listed(client: Client, _number: int) -> Answer:
    """Read the first page of the list."""
    return client("GET", "/v1/orders")


def fifty_are_served(port: int) -> bool:
    """Whether fifty requests at once succeed."""
    return {answer.status for answer in at_once(port, listed, 50)} == {200}


def place(client: Client, headers: dict[str, str] | None = None, **changes: Any) -> Answer:
    """Place an order with a reference that no other has, unless it is given."""
    body = TEA | {"reference": uuid.uuid4().hex} | changes
    return client("POST", "/v1/orders", body, **(headers or {}))


def increment(client: Client, location: str) -> Answer:
    """Read an order and ask for one more of it."""
    order = client("GET", location)
    changes = {"quantity": order.json()["quantity"] + 1}
    return client("PATCH", location, changes, If_Match=order.headers["ETag"])


def walk(client: Client, page: str) -> list[str]:
    """The ids of a list, page by page."""
    found = []
    while page:
        answer = client("GET", page)
        assert answer.status == 200, answer.body
        found += [item["id"] for item in answer.json()["items"]]
        link = (answer.headers["Link"] or "").partition("<")[2].partition(">")[0]
        page = link and urljoin(page, link)
    return found


def test_fifty_requests_with_one_key_at_once_make_one_row(
    project: Project, wide: int, wide_client: Client
) -> None:
    def place_it(client: Client, _: int = 0) -> Answer:
        return place(client, {"Idempotency-Key": "fifty"}, reference="FIFTY")

    answers = at_once(wide, place_it, 50)
    assert {answer.status for answer in answers} <= {201, 409}
    conflicts = [answer.json()["detail"] for answer in answers if answer.status == 409]
    # That the reference is taken would be a conflict too: of a second order.
    assert all("still running" in detail for detail in conflicts)
    made = {answer.body for answer in answers if answer.status == 201}
    made.add(place_it(wide_client).body)
    assert len(made) == 1
    assert project.sql("SELECT count(*) FROM orders WHERE reference = 'FIFTY'") == "1"


def test_of_fifty_changes_of_one_version_at_once_one_succeeds(
    wide: int, wide_client: Client
) -> None:
    location = place(wide_client, quantity=1).location

    def change(client: Client, number: int) -> Answer:
        return client("PATCH", location, {"quantity": 100 + number}, If_Match='"1"')

    answers = at_once(wide, change, 50)
    assert Counter(answer.status for answer in answers) == {200: 1, 412: 49}
    (success,) = (answer for answer in answers if answer.status == 200)
    assert wide_client("GET", location).body == success.body


def test_of_fifty_who_read_and_change_at_once_every_success_counts_once(
    wide: int, wide_client: Client
) -> None:
    location = place(wide_client, quantity=1).location
    answers: list[Answer] = []

    def change(client: Client, _: int) -> Answer:
        tries = [increment(client, location) for _ in range(5)]
        answers.extend(tries)
        return tries[-1]

    at_once(wide, change, 50)
    counted = Counter(answer.status for answer in answers)
    assert (set(counted), sum(counted.values())) == ({200, 412}, 250)
    assert wide_client("GET", location).json()["quantity"] == 1 + counted[200]


def test_a_walked_list_is_whole_while_a_thousand_rows_come_and_go(
    wide: int, wide_client: Client
) -> None:
    numbers = itertools.count()
    placed = [place(wide_client, sku="cocoa", quantity=1 + number) for number in range(100)]
    stay = {answer.json()["id"] for answer in placed}

    def come_and_go(client: Client) -> Answer:
        placed = place(client, sku="cocoa", quantity=1 + next(numbers) * 7 % 100)
        if next(numbers) % 2 == 0:
            return placed
        return client("DELETE", placed.location, If_Match='"1"')

    with Load(wide, *[come_and_go] * 4, pause=0) as load:
        for sort in itertools.cycle(("quantity", "-quantity", "-created_at")):
            ids = walk(wide_client, f"/v1/orders?sku=cocoa&limit=10&sort={sort}")
            assert (len(ids), stay - set(ids)) == (len(set(ids)), set())
            if len(load.answers) >= 1000:
                break
    assert (load.failures, {answer.status for answer in load.answers}) == ([], {201, 204})


class Writer:
    """Places orders one after the other; repeats each with its key until it is acknowledged."""

    def __init__(self) -> None:
        """No order is acknowledged yet."""
        self.acknowledged: list[str] = []
        self._reference = uuid.uuid4().hex

    def __call__(self, client: Client) -> Answer:
        """Try once."""
        answer = place(client, {"Idempotency-Key": self._reference}, reference=self._reference)
        if answer.status == 201:
            self.acknowledged.append(self._reference)
            self._reference = uuid.uuid4().hex
        return answer


def processes(project: Project) -> tuple[Any, ...]:
    """What changes where the service or one of its processes starts again."""
    container = project.container()
    first = str(container["State"]["Pid"])
    _, *rows = docker("top", container["Id"], "-o", "pid,ppid").splitlines()
    pids = sorted(row.split()[0] for row in rows if first in row.split())  # no health check
    return container["State"]["StartedAt"], container["RestartCount"], pids


@dataclass
class Survived:
    """What clients and the machine saw of a database that was killed three times under load."""

    load: Load
    acknowledged: list[str]
    recoveries: list[float]  # seconds from the database's answer to the next acknowledged write
    unready: list[int | None]  # what readiness said meanwhile
    before: tuple[Any, ...]
    after: tuple[Any, ...]


@pytest.fixture(scope="module")
def survived(project: Project, port: int) -> Survived:
    """Kill and restart the database three times under load."""
    writers = [Writer() for _ in range(3)]
    before = processes(project)
    database = project.container(project.database)["Id"]
    recoveries = []
    unready = []

    def acknowledged() -> list[str]:
        return [reference for writer in writers for reference in writer.acknowledged]

    def wait_for_more(count: int) -> None:
        enough = len(acknowledged()) + count
        eventually(lambda: len(acknowledged()) >= enough, f"{count} acknowledged writes")

    with Load(port, *writers, lambda client: client("GET", "/v1/orders?limit=5")) as load:
        for _ in range(3):
            wait_for_more(100)
            docker("kill", "--signal", "KILL", database)
            time.sleep(2)
            unready.append(status(port, "/readyz"))
            docker("start", database)
            eventually(partial(is_answering, project), "the database answers")
            answered = time.monotonic()
            wait_for_more(1)
            recoveries.append(time.monotonic() - answered)
    return Survived(load, acknowledged(), recoveries, unready, before, processes(project))


def is_answering(project: Project) -> bool:
    """Whether the database answers."""
    is_ready = ("pg_isready", "--host=127.0.0.1", "--dbname=service")
    command = ("docker", "compose", "exec", "-T", project.database, *is_ready)
    return project.run(*command).returncode == 0


def test_every_acknowledged_write_is_there_after_kills(
    project: Project, survived: Survived
) -> None:
    stored = Counter(project.sql("SELECT reference FROM orders").split())
    assert {stored[reference] for reference in survived.acknowledged} == {1}


def test_what_fails_while_the_database_is_away_is_a_503_problem(survived: Survived) -> None:
    failed = [answer for answer in survived.load.answers if answer.status not in (200, 201)]
    assert (survived.load.failures, {answer.status for answer in failed}) == ([], {503})
    assert all(answer.is_problem() and answer.headers["Retry-After"] for answer in failed)


def test_no_request_waits_long_for_a_database_that_is_away(survived: Survived) -> None:
    assert max(answer.seconds for answer in survived.load.answers) < 15


def test_the_service_is_not_ready_without_its_database(survived: Survived) -> None:
    assert survived.unready == [503] * 3


def test_the_service_recovers_within_seconds_of_its_database(survived: Survived) -> None:
    assert max(survived.recoveries) < 15


def test_no_process_starts_again_for_the_database(survived: Survived) -> None:
    assert survived.after == survived.before


@pytest.mark.usefixtures("survived")
def test_no_connection_is_leaked(project: Project) -> None:
    address = next(iter(project.container()["NetworkSettings"]["Networks"].values()))["IPAddress"]
    count = f"SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{address}'"
    assert 1 <= int(project.sql(count)) <= SLOTS + 1
    lent = 'db_client_connection_count{db_client_connection_state="used"} 0.0'

    def metrics() -> list[str]:
        return fetch(project.port(), "/metrics")[2].decode().splitlines()

    eventually(lambda: lent in metrics(), lent)


@contextmanager
def silent(project: Project) -> Iterator[None]:
    """Let the database's processes stand still, its connections open."""
    database = project.container(project.database)["Id"]
    docker("pause", database)
    try:
        yield
    finally:
        docker("unpause", database)


FAULTS: dict[str, tuple[Callable[[Project], AbstractContextManager[None]], int]] = {
    "a lock": (lambda project: project.holding("LOCK TABLE orders"), 2),  # 0.4 of DATABASE_TIMEOUT
    "a database that hangs": (silent, 6),  # a second more than DATABASE_TIMEOUT
}


@pytest.mark.parametrize("fault", FAULTS)
def test_requests_end_at_their_limit_and_probes_go_on_behind(
    project: Project, port: int, client: Client, fault: str
) -> None:
    begin, limit = FAULTS[fault]
    location = place(client).location

    def read(client: Client, _: int = 0) -> Answer:
        return client("GET", location)

    def ask_livez(client: Client) -> Answer:
        return client("GET", "/livez")

    loads = (Load(port, *[read] * 4, *[place] * 2), Load(port, ask_livez))
    with begin(project), loads[0] as load, loads[1] as live:
        time.sleep(limit + 12)
    assert (load.failures, {answer.status for answer in load.answers}) == ([], {503})
    assert all(answer.is_problem() and answer.headers["Retry-After"] for answer in load.answers)
    # On a busy machine, and yet none waits for the end of the fault.
    assert limit <= max(answer.seconds for answer in load.answers) < limit + 8
    assert (live.failures, {answer.status for answer in live.answers}) == ([], {200})
    seconds = sorted(answer.seconds for answer in live.answers)
    assert (seconds[len(seconds) // 2] < 1, seconds[-1] < 8) == (True, True)
    eventually(
        lambda: {answer.status for answer in at_once(port, read, SLOTS)} == {200}, "all are served"
    )


def test_a_service_that_starts_before_its_database_becomes_ready_with_it(project: Project) -> None:
    project.compose("stop", project.database)
    try:
        with project.replica() as port:
            eventually(lambda: status(port, "/livez") == 200, "it lives")
            assert (status(port, "/readyz"), status(port, "/v1/orders")) == (503, 503)
            project.compose("start", project.database)
            eventually(lambda: status(port, "/readyz") == 200, "it is ready")
            assert status(port, "/v1/orders") == 200
    finally:
        project.compose("up", "--detach", "--wait", project.database)


def test_what_make_backup_wrote_make_restore_brings_back(project: Project, client: Client) -> None:
    kept = place(client, note="kept")
    location = kept.location
    file = project.make("backup").split()[-1]
    client("PATCH", location, {"note": "changed"}, If_Match="*")
    later = place(client).location
    project.make("restore", f"FILE={file}")
    assert client("GET", location).body == kept.body
    assert client("GET", later).status == 404
    assert place(client).status == 201


def test_seeding_twice_stores_the_orders_once(project: Project) -> None:
    seed = ("exec", "-T", project.service.name, "python", "-m", "service.seed")
    where = f"postgresql+psycopg://application:***@{project.database}/service"
    told = [project.compose(*seed).strip() for _ in range(2)]
    assert told == [f"{count} orders stored in {where}" for count in (3, 0)]
    assert project.sql("SELECT count(*) FROM orders WHERE reference LIKE 'SEED-%'") == "3"


HOSTILE: tuple[Any, ...] = (
    "'; DROP TABLE orders; --", "%s %(x)s :x $1", "a\0b", "\ud800", "\u202e", "x" * 5000, "",
    0, -1, 2**31, 2**63, 10**400, 1.5, 1e308, True, [], {}, [[[]]],
)  # fmt: skip
DEEP = (
    b"[" * 500_000,
    b'{"a":' * 100_000,
    b'{"quantity":' + b"9" * 100_000 + b"}",
    b'{"note":"\xff"}',
    b"\0",
    b"NaN",
)
QUERIES = (
    "'",
    "%27%3B%20DROP%20TABLE%20orders",
    "%00",
    "%ff",
    "%ed%a0%80",
    "1e400",
    "9" * 5000,
    "-1",
    "",
)
ETAGS = ('"', "'; --", '"' + "9" * 900 + '"', "x" * 5000, "\xff", ",,,")


def hostile_requests(location: str) -> Iterator[tuple[str, str, Any, dict[str, str]]]:
    """Method, path, body and headers of requests that no honest client sends."""
    names = (*TEA, "status", "note", "other")
    bodies = [TEA | {name: value} for name in names for value in HOSTILE]
    for body in [*bodies, *DEEP]:
        yield "POST", "/v1/orders", body, {}
        yield "PUT", location, body, {"If-Match": "*"}
        yield "PATCH", location, body, {"If-Match": "*"}
    for text in QUERIES:
        yield "GET", f"/v1/orders/{text or 'x'}", None, {}
        for name in ("limit", "cursor", "sort", "status", "sku", "other"):
            yield "GET", f"/v1/orders?{name}={text}", None, {}
    for tag in ETAGS:
        yield "GET", location, None, {"If-None-Match": tag}
        yield "POST", "/v1/orders", TEA, {"Idempotency-Key": tag}
        yield "DELETE", location, None, {"If-Match": tag}


def test_hostile_requests_get_answers_or_problems_never_a_5xx(
    project: Project, client: Client
) -> None:
    location = place(client).location
    odd = []
    counted = Counter[int]()
    for method, path, body, headers in hostile_requests(location):
        answer = client(method, path, body, **headers)
        counted[answer.status] += 1
        if answer.status >= 500 or (answer.status >= 400 and not answer.is_problem()):
            odd.append((method, path, body, headers, answer))
    assert not odd
    assert min(counted[400], counted[404], counted[412], counted[422]) > 0
    hostile = "reference !~ '^[A-Za-z0-9-]{1,40}$'"
    assert project.sql(f"SELECT count(*) FROM orders WHERE {hostile}") == "0"


# What fits the document and may yet be refused: products that are not for sale, references that are
# taken, cursors and versions that are not ours.
EXPECTED = {
    "POST /v1/quotes": ("422",),
    "POST /v1/orders": ("409", "422"),
    "GET /v1/orders": ("422",),
    "PUT /v1/orders/{order_id}": ("404", "409", "412", "422", "428"),
    "PATCH /v1/orders/{order_id}": ("404", "409", "412", "422", "428"),
    "DELETE /v1/orders/{order_id}": ("404", "412", "428"),
}
CHECKS = '[checks]\npositive_data_acceptance.expected-statuses = ["2xx", "404"]\n' + "".join(
    f"""[[operations]]
include-name = "{name}"
[operations.checks]
positive_data_acceptance.expected-statuses = {["2xx", *statuses]}
"""
    for name, statuses in EXPECTED.items()
)
# Without it no change would get past its precondition.
ANY_VERSION = '[parameters]\n"header.If-Match" = "*"\n'


def contract_is_kept(port: int, service_python: Path, folder: Path, configuration: str) -> int:
    """Let schemathesis ask the orders' operations, also in sequences; return how many requests."""
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(configuration)
    options = ("--include-path-regex=/v1/orders", "--max-examples=120", "--seed=1", "--no-color")
    url = f"http://127.0.0.1:{port}/openapi.json"
    command = (str(service_python.with_name("schemathesis")), "run", url, *options)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted, done.stdout
    assert counted[1] == counted[2]
    return int(counted[1])


def test_two_thousand_requests_get_answers_that_the_contract_allows(
    port: int, service_python: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        ask = partial(contract_is_kept, port, service_python)
        as_generated = pool.submit(ask, tmp_path / "as-generated", CHECKS)
        past_if_match = pool.submit(ask, tmp_path / "any", ANY_VERSION + CHECKS)
    assert as_generated.result() + past_if_match.result() >= 2000


# What the service's connections say of the limits that hold for their statements.
SHOW_LIMITS = """
from service.chassis.data.connections import Database
from service.settings import Settings
with Database(Settings.load()).read() as connection:
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        print(connection.exec_driver_sql(f"SHOW {name}").scalar())
"""


@pytest.fixture(scope="module")
def pooler(project: Project) -> Iterator[str]:
    """The URL of the database through PgBouncer, with few sessions for all its clients."""
    name = f"{project.service.name}-pooler"
    password = (project.service / ".secrets" / "database-application").read_text("utf-8")
    settings = {
        "DB_HOST": project.database,
        "DB_USER": "application",
        "DB_PASSWORD": password,
        "POOL_MODE": "transaction",
        "DEFAULT_POOL_SIZE": "2",
        "MAX_PREPARED_STATEMENTS": "0",  # the default of its older releases
    }
    options = [f"--env={name}={value}" for name, value in settings.items()]
    network = f"{project.service.name}_default"
    docker("run", "--detach", "--name", name, "--network", network, *options, POOLER)
    yield f"DATABASE_URL=postgresql://application@{name}/service"
    docker("rm", "--force", name)


def test_behind_a_pooler_every_request_succeeds(project: Project, pooler: str) -> None:
    answers: list[Answer] = []

    def live(client: Client, _: int) -> Answer:
        for _ in range(10):
            placed = place(client, {"Idempotency-Key": uuid.uuid4().hex})
            order = placed.location
            changed = client("PATCH", order, {"quantity": 3}, If_Match="*")
            read = [client("GET", order), client("GET", "/v1/orders?limit=5")]
            answers.extend([placed, changed, *read, client("DELETE", order, If_Match="*")])
        return placed

    # Two sessions serve all of them, who wait for each other.
    with project.replica("--env", pooler, "--env", "DATABASE_TIMEOUT=30") as port:
        eventually(lambda: status(port, "/readyz") == 200, "the replica is ready")
        at_once(port, live, SLOTS)
    assert Counter(answer.status for answer in answers) == {
        201: 10 * SLOTS,
        200: 30 * SLOTS,
        204: 10 * SLOTS,
    }


def test_behind_a_pooler_the_limits_hold(project: Project, pooler: str) -> None:
    run = ("run", "--rm", "--no-deps", "-T", "--env", pooler, project.service.name)
    told = project.compose(*run, "python", "-c", SHOW_LIMITS)
    assert (told.split()[-3:], "ALTER ROLE" in told) == (["5s", "2s", "10s"], False)


def test_behind_a_pooler_limits_that_the_role_lacks_are_named(
    project: Project, pooler: str
) -> None:
    project.sql("ALTER ROLE application SET statement_timeout = 0")
    docker("restart", pooler.partition("@")[2].partition("/")[0])
    try:
        run = ("run", "--rm", "--no-deps", "-T", "--env", pooler, project.service.name)
        told = project.compose(*run, "python", "-c", SHOW_LIMITS)
    finally:
        project.make("roles")
    assert "limits hold: ALTER ROLE application SET statement_timeout = '5000'\n" in told


def test_migrations_refuse_a_pooler_in_a_line(project: Project, pooler: str) -> None:
    command = ("run", "--rm", "--no-deps", "-T", "--env", pooler, project.service.name)
    done = project.run("docker", "compose", *command, "alembic", "upgrade", "head")
    said = "a pooler answers at .*-pooler:5432: name PostgreSQL's own address in DATABASE_URL"
    assert done.returncode == 1
    assert re.fullmatch(said, done.stdout.strip()), done.stdout
    held = "relation = 'alembic_version'::regclass AND pid <> pg_backend_pid()"
    assert project.sql(f"SELECT count(*) FROM pg_locks WHERE {held}") == "0"


def test_make_test_postgres_passes(project: Project) -> None:
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # uv among them, to be quick
    tests = "tests/api/test_orders.py tests/chassis/data"
    told = project.make("test-postgres", f"ARGS={tests}", PATH=tools, PORT="5000")
    assert re.search(r"\d+ passed in", told)
    assert docker("ps", "--all", "--quiet", "--filter", f"name={project.service.name}-test") == ""


def test_no_log_environment_or_image_holds_a_password(project: Project, tmp_path: Path) -> None:
    secrets = [file.read_text() for file in (project.service / ".secrets").iterdir()]
    with project.replica("--env", "LOG_LEVEL=DEBUG") as port, closing(Client(port)) as client:
        eventually(lambda: status(port, "/readyz") == 200, "the replica is ready")
        answers = [place(client, reference="TWICE", note="between us") for _ in range(2)]
        assert [answer.status for answer in answers] == [201, 409]
        told = project.told() + docker("history", "--no-trunc", project.image)
    docker("save", "--output", str(tmp_path / "image.tar"), project.image)
    assert len(secrets) == 3
    assert '"level":"DEBUG"' in told
    assert not [secret for secret in secrets if secret in told]
    assert "between us" not in told
    with (
        (tmp_path / "image.tar").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as layers,
    ):
        assert layers.find(b"src/service/app.py") > 0
        assert {layers.find(secret.encode()) for secret in secrets} == {-1}


def test_a_trace_joins_its_caller_the_request_its_sql_the_log_and_the_problem(
    project: Project,
) -> None:
    template = "{{(index .IPAM.Config 0).Gateway}}"
    host = docker("network", "inspect", "--format", template, f"{project.service.name}_default")
    trace = os.urandom(16)
    parent = os.urandom(8)
    with closing(Collector()) as collector:
        endpoint = f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{host}:{collector.server_port}"
        with project.replica("--env", endpoint) as port, closing(Client(port)) as client:
            eventually(lambda: status(port, "/readyz") == 200, "the replica is ready")
            traceparent = f"00-{trace.hex()}-{parent.hex()}-01"
            answer = client("GET", f"/v1/orders/{uuid.uuid4()}", traceparent=traceparent)
            eventually(lambda: len(collector.spans) > 1, "both spans")
            lines = [line for line in project.told().splitlines() if trace.hex() in line]
        sql, request = collector.spans
    assert (collector.faults, {span.trace_id for span in (sql, request)}) == ([], {trace})
    assert (request.parent_span_id, sql.parent_span_id) == (parent, request.span_id)
    said = values(sql.attributes)
    assert (said["db.system.name"], said["db.operation.name"]) == ("postgresql", "SELECT")
    assert str(said["db.query.text"]).endswith("WHERE orders.id = %(wanted)s::UUID")
    assert answer.status == 404
    assert {answer.json()["trace_id"], answer.headers["X-Request-ID"]} == {trace.hex()}
    spans_lines = [line for line in lines if request.span_id.hex() in line]
    assert any('"http.response.status_code":404' in line for line in spans_lines)

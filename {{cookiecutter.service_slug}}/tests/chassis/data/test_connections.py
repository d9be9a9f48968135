"""The two ways to the database, its limits and its errors."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import parcels
import psycopg
import pytest
import sqlalchemy as sa
from flask import Response
from lab import create_app
from parcels import Parcel
from pydantic import SecretStr
from sqlalchemy import Connection, exc
from support import SAMPLED
from support import Collector
from support import attributes
from support import samples
from support import wait_until
from werkzeug.test import TestResponse

from database import only_postgres
from service.chassis.data.connections import Database
from service.chassis.data.engine import PostgresqlConnection
from service.chassis.data.engine import make_engine
from service.chassis.data.types import UtcDateTime
from service.chassis.http.application import Application
from service.chassis.resources.database import to_http_error
from service.settings import Settings

UNREACHABLE = ["postgresql://u:secret@127.0.0.1:1/x", "sqlite:////no/such/folder/x.db"]


@pytest.fixture
def database(app: Application, connection: Connection) -> Database:
    database: Database = app.extensions["database"]
    return database


def hasty(seconds: float = 0.5, **more: Any) -> Settings:
    return Settings(concurrency=2, database_timeout=seconds, log_format="json", **more)


def place(connection: Connection, reference: str = "P-1") -> Parcel:
    parcel = parcels.make(reference)
    parcels.insert(connection, parcel)
    return parcel


def add(database: Database) -> Parcel:
    with database.transaction() as connection:
        return place(connection)


def add_and(database: Database, then: Callable[[Connection], object]) -> None:
    with database.transaction() as connection:
        place(connection)
        then(connection)


def stored(database: Database) -> int:
    with database.read() as connection:
        return parcels.count(connection)


@contextmanager
def locked(database: Database, parcel: Parcel) -> Iterator[None]:
    with database.transaction() as connection:
        parcels.lock(connection, parcel.id)
        yield


def sample(app: Application, name: str, *labels: str) -> float:
    """The value of one of the application's metrics."""
    return samples(app.test_client(), name).get(labels, 0)


def used_connections(app: Application) -> float:
    return sample(app, "db_client_connection_count", "used")


def test_a_transaction_is_kept_at_its_end(database: Database) -> None:
    add(database)
    assert stored(database) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_error_rolls_a_transaction_back(database: Database, error: type[BaseException]) -> None:
    def fail(_: Connection) -> None:
        raise error

    with pytest.raises(error):
        add_and(database, fail)
    assert stored(database) == 0


def test_an_error_of_the_database_leaves_a_connection_that_works(database: Database) -> None:
    for _ in range(database.engine.pool.size() + 1):  # type: ignore[attr-defined]
        with pytest.raises(exc.DBAPIError):
            add_and(
                database, lambda connection: connection.exec_driver_sql("SELECT no_such_column")
            )
    add(database)
    assert stored(database) == 1


def test_a_commit_that_fails_leaves_a_connection_that_works(database: Database) -> None:
    def break_a_rule_that_is_checked_at_the_end(connection: Connection) -> None:
        reference = "REFERENCES a DEFERRABLE INITIALLY DEFERRED"
        connection.exec_driver_sql(f"CREATE TABLE a (x INT PRIMARY KEY, y INT {reference})")
        connection.exec_driver_sql("INSERT INTO a VALUES (1, 2)")

    with pytest.raises(exc.IntegrityError):
        add_and(database, break_a_rule_that_is_checked_at_the_end)
    add(database)
    assert stored(database) == 1


def test_a_statement_outside_a_transaction_stands_alone(database: Database) -> None:
    with database.read() as connection:
        place(connection)
        assert stored(database) == 1


def test_of_many_that_read_and_then_write_none_is_lost(database: Database) -> None:
    parcel = add(database)

    def one_more(_: int) -> None:
        with database.transaction() as connection:
            found = parcels.lock(connection, parcel.id)
            parcels.update(connection, replace(found, weight=found.weight + 1))

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(one_more, range(80)))) == 80
    with database.read() as connection:
        assert parcels.get(connection, parcel.id).weight == 81


def test_there_is_a_connection_for_every_request_and_one_for_readiness(settings: Settings) -> None:
    database = Database(settings, settings.concurrency + 1)
    lent = [database.read() for _ in range(settings.concurrency)]
    database.check()
    for connection in lent:
        connection.close()


def get(app: Application, path: str = "/lab/parcels") -> TestResponse:
    return app.test_client().get(path)


def assert_unavailable(response: TestResponse) -> None:
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.get_json().keys() <= {
        "type",
        "title",
        "status",
        "instance",
        "request_id",
        "trace_id",
    }


@pytest.mark.parametrize("url", UNREACHABLE)
def test_without_its_database_a_service_starts_is_not_ready_and_says_so(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    app = create_app(hasty(database_url=SecretStr(url)))
    assert_unavailable(get(app))
    assert get(app, "/livez").status_code == 200
    assert (get(app, "/readyz").status_code, get(app, "/readyz").get_json()["detail"]) == (
        503,
        "not ready: database",
    )
    assert "the database cannot be used" in (output := capfd.readouterr().out)
    assert "secret" not in output


def test_a_start_does_not_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sa.Engine, "connect", lambda _: pytest.fail("connected"))
    create_app(hasty())


def test_a_request_that_waits_for_a_lock_fails_at_its_limit(database: Database) -> None:
    parcel = add(database)

    def weigh(app: Application) -> TestResponse:
        body = {"reference": "P-1", "weight": 2}
        path = f"/lab/parcels/{parcel.id}"
        return app.test_client().put(path, json=body, headers={"If-Match": "*"})

    with locked(database, parcel):
        started = time.monotonic()
        assert_unavailable(weigh(create_app(hasty())))
        assert time.monotonic() - started < 10
    assert weigh(create_app()).status_code == 200


def test_a_request_that_finds_no_free_connection_fails_at_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.chassis.data.engine.POOL_TIMEOUT", 0.1)
    app = create_app(hasty())
    lent = [app.extensions["database"].read() for _ in range(3)]
    started = time.monotonic()
    assert_unavailable(get(app))
    assert time.monotonic() - started < 10
    for connection in lent:
        connection.close()


def test_what_is_wrong_with_a_statement_is_told_to_nobody(app: Application) -> None:
    def view() -> Response:
        with app.extensions["database"].read() as connection:
            connection.exec_driver_sql("SELECT * FROM secret_table")
        return Response()

    app.add_url_rule("/wrong", view_func=view)
    response = get(app, "/wrong")
    assert (response.status_code, "secret" in response.text) == (500, False)


def test_connections_in_use_are_counted_back_to_none(app: Application, database: Database) -> None:
    before = used_connections(app)
    with database.read():
        assert used_connections(app) == before + 1
    assert used_connections(app) == before


@pytest.mark.parametrize("url", UNREACHABLE)
def test_a_connection_that_could_not_be_made_is_not_counted(url: str) -> None:
    app = create_app(hasty(database_url=SecretStr(url)))
    get(app)
    assert used_connections(app) == 0


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT no_such_column"])
def test_a_statement_is_timed_whether_it_works_or_not(
    app: Application, database: Database, sql: str
) -> None:
    name = "db_client_operation_duration_seconds_count"
    before = sample(app, name, "SELECT")
    with database.read() as connection:
        try:
            connection.exec_driver_sql(sql)
        except exc.DBAPIError:
            connection.rollback()
    assert sample(app, name, "SELECT") == before + 1


def test_the_metrics_of_the_pool_are_scraped(app: Application, database: Database) -> None:
    scraped = get(app, "/metrics").text
    size = database.engine.pool.size()  # type: ignore[attr-defined]
    assert f"db_client_connection_max {size}.0" in scraped
    assert "db_client_connection_wait_time_seconds_count" in scraped


def test_a_statement_is_a_span_of_its_request_without_its_values(
    traced: Application, collector: Collector, connection: Connection
) -> None:
    parcel = {"reference": "P-secret", "weight": 1}
    for _ in range(2):
        traced.test_client().post("/lab/parcels", json=parcel, headers=SAMPLED)
    wait_until(lambda: len([span for span in collector.spans if span["kind"] == 2]) == 2)
    spans = collector.spans
    request, again = (span for span in spans if span["kind"] == 2)
    stored, refused = (span for span in spans if span["name"] == "INSERT")
    assert (stored["parentSpanId"], refused["parentSpanId"]) == (request["spanId"], again["spanId"])
    told = attributes(stored)
    assert (told["db.system.name"], told["db.operation.name"]) == (
        connection.dialect.name,
        "INSERT",
    )
    assert told["db.query.text"].startswith("INSERT INTO lab_parcels (id, ")
    assert attributes(refused)["error.type"] in ("IntegrityError", "UniqueViolation")
    assert "P-secret" not in str(spans)


@only_postgres
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("statement_timeout", "500ms"),
        ("lock_timeout", "200ms"),
        ("idle_in_transaction_session_timeout", "1s"),
    ],
)
def test_the_server_keeps_the_limits(name: str, value: str) -> None:
    with Database(hasty()).read() as connection:
        assert connection.exec_driver_sql(f"SHOW {name}").scalar() == value


@only_postgres
def test_the_options_of_the_url_are_kept_beside_the_limits() -> None:
    url = sa.make_url(os.environ["TEST_DATABASE_URL"])
    given = {"options": "-csearch_path=pg_catalog", "application_name": "mine"}
    text = url.update_query_dict(given).render_as_string(hide_password=False)
    with Database(hasty(database_url=SecretStr(text))).read() as connection:
        names = ("search_path", "application_name", "statement_timeout")
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
    assert shown == ["pg_catalog", "mine", "500ms"]


@only_postgres
def test_a_server_that_takes_no_writes_is_unavailable(database: Database) -> None:
    def write(connection: Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        place(connection, "P-2")

    with pytest.raises(exc.DBAPIError) as error, database.transaction() as connection:
        write(connection)
    refused = to_http_error(error.value)
    assert refused
    assert refused.code == 503


@pytest.mark.parametrize(("timeout", "seconds"), [(0.5, 2), (5, 2), (900, 30)])
def test_who_may_take_long_may_take_longer_to_connect(
    monkeypatch: pytest.MonkeyPatch, timeout: float, seconds: int
) -> None:
    given: list[Any] = []

    def connect(*_: Any, **options: Any) -> Any:
        given.append(options["connect_timeout"])
        raise psycopg.OperationalError("not there")

    monkeypatch.setattr(PostgresqlConnection, "connect", connect)
    url = SecretStr("postgresql+psycopg://u@h/x")
    settings = Settings.model_construct(
        database_url=url, database_password=None, database_timeout=timeout
    )
    with pytest.raises(exc.OperationalError):
        make_engine(settings).connect()
    assert given == [seconds]


@only_postgres
def test_a_slow_statement_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.chassis.data.engine.READ_TIMEOUT_MARGIN", 60)
    with (
        pytest.raises(exc.OperationalError, match="statement timeout"),
        Database(hasty()).read() as connection,
    ):
        connection.exec_driver_sql("SELECT pg_sleep(60)")


@only_postgres
def test_a_server_that_says_nothing_counts_as_dead(database: Database) -> None:
    with database.read() as connection:
        connection.connection.driver_connection.read_timeout = 0.2  # type: ignore[union-attr]
        started = time.monotonic()
        with pytest.raises(exc.OperationalError):
            connection.exec_driver_sql("SELECT pg_sleep(9)")
        # The server's own limit is 5 seconds.
        assert (connection.invalidated, time.monotonic() - started < 4) == (True, True)
    assert stored(database) == 0


@only_postgres
def test_a_connection_that_the_server_ended_is_replaced(database: Database) -> None:
    end_others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    )
    with database.read() as killer, database.read() as victim:
        killer.exec_driver_sql(end_others)
        with pytest.raises(exc.OperationalError):
            victim.exec_driver_sql("SELECT 1")
        assert victim.invalidated
    assert stored(database) == 0


@only_postgres
def test_a_transaction_that_a_reader_left_open_does_not_reach_the_next(database: Database) -> None:
    with database.read() as connection:
        connection.exec_driver_sql("BEGIN")
        place(connection)
    assert stored(database) == 0


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("postgres://u@h/x", "postgresql+psycopg://u@h/x"),
        (
            "postgresql://u:p@h:5/x?sslmode=require",
            "postgresql+psycopg://u:p@h:5/x?sslmode=require",
        ),
        ("postgresql+psycopg://h/x", "postgresql+psycopg://h/x"),
        ("sqlite:///x.db", "sqlite:///x.db"),
    ],
)
def test_a_url_gets_its_driver(url: str, used: str) -> None:
    given = hasty(database_url=SecretStr(url)).database_url
    assert given
    assert given.get_secret_value() == used


@pytest.mark.parametrize(
    "url", ["", "mysql://h/x", "postgresql", "postgresql+asyncpg://h/x", "sqlite:x", "h"]
)
def test_another_database_is_refused_without_a_word_of_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with postgresql"):
        hasty(database_url=SecretStr(url))


def test_the_password_comes_from_a_file_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("p4ss\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@h/x")
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(tmp_path / "password"))
    settings = Settings.load()
    engine = make_engine(settings)
    assert engine.url.password == "p4ss"  # noqa: S105
    assert "p4ss" not in f"{settings!r} {engine.url}"


def test_a_password_in_the_url_is_in_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    app = create_app(hasty(database_url=SecretStr("postgresql://u:p%40ss@127.0.0.1:1/x")))
    app.logger.warning("cannot sign in with p@ss")
    assert '"cannot sign in with ***"' in capfd.readouterr().out


@pytest.mark.parametrize("hours", [0, -8, 5.5])
def test_a_time_comes_back_as_the_same_instant(connection: Connection, hours: float) -> None:
    there = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=hours)))
    parcel = replace(parcels.make(), sent_at=there)
    parcels.insert(connection, parcel)
    found = parcels.get(connection, parcel.id)
    assert (found.sent_at, found.sent_at.tzinfo) == (there, UTC)


def test_a_time_without_a_zone_is_refused(connection: Connection) -> None:
    with pytest.raises(exc.StatementError, match="a time needs a zone"):
        connection.execute(sa.select(sa.literal(datetime(2026, 1, 2), UtcDateTime)))  # noqa: DTZ001


def test_no_time_is_no_time(connection: Connection) -> None:
    assert connection.scalar(sa.select(sa.literal(None, UtcDateTime))) is None


def test_threads_share_no_connection(database: Database) -> None:
    seen: set[int] = set()
    barrier = threading.Barrier(3)

    def use(_: int) -> None:
        with database.read() as connection:
            seen.add(id(connection.connection.driver_connection))
            barrier.wait(60)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(use, range(3)))
    assert len(seen) == 3

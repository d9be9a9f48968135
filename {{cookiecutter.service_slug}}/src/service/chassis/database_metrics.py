"""How long statements take and how many connections are lent, under OpenTelemetry's names; statements as spans."""

import sqlite3
import time
from typing import Any, ClassVar, cast

import psycopg
from prometheus_client import Gauge, Histogram
from sqlalchemy import Engine, QueuePool

from service.chassis import logs
from service.chassis import metrics
from service.chassis import tracing

# The boundaries that OpenTelemetry advises for this metric, in seconds.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
OPERATIONS = ("SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT")

DURATION = Histogram(
    "db_client_operation_duration_seconds",
    "Time of a statement.",
    ("db_operation_name",),
    buckets=BUCKETS,
)
WAIT = Histogram("db_client_connection_wait_time_seconds", "Time to get a connection.", buckets=BUCKETS)
USED = Gauge(
    "db_client_connection_count",
    "Connections that requests use.",
    ("db_client_connection_state",),
    multiprocess_mode="livesum",
).labels("used")
LIMIT = Gauge("db_client_connection_max", "Connections that may be lent at once.", multiprocess_mode="livesum")

_children = {name: DURATION.labels(name) for name in (*OPERATIONS, "other")}
_other = _children["other"]


class Timed:
    """What a driver's cursor does more: at this place a statement is measured for a sixth of what an event costs."""

    system: ClassVar[str]

    def execute(self, statement: str, *parameters: Any, **options: Any) -> Any:
        started, error = time.perf_counter(), {}
        try:
            return super().execute(statement, *parameters, **options)  # type: ignore[misc]
        except Exception as failure:
            error = {"error.type": type(failure).__qualname__}
            raise
        finally:
            self._count(statement, time.perf_counter() - started, error)

    def _count(self, statement: str, seconds: float, error: dict[str, str]) -> None:
        name = statement[: statement.find(" ")] if " " in statement else statement
        _children.get(name, _other).observe(seconds)
        request = logs.request_ids.get()
        if tracing.exporter is not None and request.get("trace_flags") == "01":
            # The text has placeholders where the values, which may be secret, go.
            what = {"db.system.name": self.system, "db.operation.name": name, "db.query.text": statement}
            ids = {**request, "span_id": tracing.new_id()}
            tracing.exporter.record(ids, request["span_id"], name, "client", seconds, {**what, **error})


class PostgresqlCursor(Timed, psycopg.Cursor[Any]):  # type: ignore[misc]
    system = "postgresql"


class SqliteCursor(Timed, sqlite3.Cursor):
    system = "sqlite"


def watch(engine: Engine) -> None:
    """Show what the engine's pool lends."""
    pool = cast("QueuePool", engine.pool)
    metrics.show(USED, pool.checkedout)
    LIMIT.set(pool.size())

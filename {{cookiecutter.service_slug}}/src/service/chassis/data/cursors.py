"""The drivers' cursors, which time each statement and make it a span: cheaper than an event."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any, ClassVar

import psycopg
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, Gauge, Histogram

from service.chassis.telemetry import metrics

tracer = trace.get_tracer("service")
# The boundaries that OpenTelemetry advises, in seconds.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
OPERATIONS = ("SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT")


class DatabaseMetrics:
    """The metrics of one engine, under OpenTelemetry's names."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        name = "db_client_operation_duration_seconds"
        labels = ("db_operation_name",)
        help_text = "Time of a statement."
        operations = Histogram(name, help_text, labels, buckets=BUCKETS, registry=registry)
        name = "db_client_connection_wait_time_seconds"
        help_text = "Time to get a connection."
        self.wait = Histogram(name, help_text, buckets=BUCKETS, registry=registry)
        self.operations = {name: operations.labels(name) for name in OPERATIONS}
        self.other = operations.labels("other")

    def show_pool(self, used: Callable[[], float], size: int) -> None:
        """Add gauges of the connections in use and of their maximum."""
        name = "db_client_connection_count"
        help_text = "Connections in use."
        labels = ("db_client_connection_state",)
        gauge = Gauge(name, help_text, labels, registry=self._registry)
        gauge.labels("used").set_function(used)
        help_text = "Connections allowed at once."
        metrics.show("db_client_connection_max", help_text, self._registry, lambda: size)


class InstrumentedCursor:
    """What both cursors add to a statement; their connection has the `metrics`."""

    connection: Any
    system: ClassVar[str]

    def execute(self, statement: str, *parameters: Any, **options: Any) -> Any:
        """Run a statement as the driver does."""
        started = time.perf_counter()
        error = {}
        try:
            return super().execute(statement, *parameters, **options)  # type: ignore[misc]
        except Exception as failure:
            error = {"error.type": type(failure).__qualname__}
            raise
        finally:
            self._record(statement, time.perf_counter() - started, error)

    def _record(self, statement: str, seconds: float, error: dict[str, str]) -> None:
        name = statement[: statement.find(" ")] if " " in statement else statement
        timings: DatabaseMetrics = self.connection.metrics
        timings.operations.get(name, timings.other).observe(seconds)
        current = trace.get_current_span()
        # Within a client's span an instrumented driver has made this one already.
        if current.is_recording() and getattr(current, "kind", None) is not SpanKind.CLIENT:
            attributes = {
                "db.system.name": self.system,
                "db.operation.name": name,
                # With placeholders for the values, which may be secret.
                "db.query.text": statement,
                **error,
            }
            start = time.time_ns() - int(seconds * 1e9)
            span = tracer.start_span(name, None, SpanKind.CLIENT, attributes, None, start)
            if error:
                span.set_status(StatusCode.ERROR)
            span.end()


class PostgresqlCursor(InstrumentedCursor, psycopg.Cursor[Any]):  # type: ignore[misc]
    """psycopg's cursor."""

    system = "postgresql"


class SqliteCursor(InstrumentedCursor, sqlite3.Cursor):
    """The standard library's cursor."""

    system = "sqlite"

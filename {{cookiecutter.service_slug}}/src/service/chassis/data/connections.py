"""The two ways to the database: `read` and `transaction`."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, QueuePool, event

from service.chassis.data.cursors import DatabaseMetrics
from service.chassis.data.engine import make_engine
from service.chassis.data.settings import DatabaseSettings

log = logging.getLogger("service.database")


def _warn_of_limits(connection: Any, _record: object) -> None:
    if remedy := getattr(connection, "remedy", None):
        log.warning("behind a pooler only its role's limits hold: %s", remedy)


class Database:
    """An engine and the two ways to it."""

    def __init__(
        self,
        settings: DatabaseSettings,
        pool_size: int = 5,
        registry: CollectorRegistry | None = None,
    ) -> None:
        metrics = DatabaseMetrics(registry)
        self.engine = make_engine(settings, pool_size, metrics)
        event.listen(self.engine, "connect", _warn_of_limits, once=True)
        self._wait = metrics.wait
        metrics.show_pool(cast("QueuePool", self.engine.pool).checkedout, pool_size)
        # SQLite's plain BEGIN lets two readers of one row overwrite each other's change.
        is_postgresql = self.engine.dialect.name == "postgresql"
        self._begin = "BEGIN" if is_postgresql else "BEGIN IMMEDIATE"

    def read(self) -> Connection:
        """Return a connection on which each statement stands alone: the cheap way, for reading."""
        started = time.perf_counter()
        connection = self.engine.connect()
        self._wait.observe(time.perf_counter() - started)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Return a connection whose statements are committed at the block's end, or not at all."""
        with self.read() as connection:
            connection.exec_driver_sql(self._begin)
            yield connection
            connection.exec_driver_sql("COMMIT")  # without it the connection's end rolls back

    def check(self) -> None:
        """Raise where the database does not answer."""
        with self.read() as connection:
            connection.exec_driver_sql("SELECT 1")

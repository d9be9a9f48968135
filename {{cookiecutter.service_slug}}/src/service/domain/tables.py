"""What all tables share: one catalogue with names for every constraint, times that keep their zone, quick reads."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, DateTime, Dialect, MetaData, Select, TypeDecorator
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")

# Alembic can drop only what has a name, the same in every database.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)


class Instant(TypeDecorator[datetime]):
    """A point in time: naive ones are refused, and SQLite, which forgets the zone, gives UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time needs a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)  # type: ignore[no-any-return]


class Read(Generic[T]):
    """A SELECT, compiled once and run on the driver, for half of what it costs through SQLAlchemy.

    Call it with a connection and its parameters; it returns `row(*columns)` for each row.
    """

    def __init__(self, statement: Select[Any], row: Callable[..., T]) -> None:
        self._statement, self._row, self._text = statement, row, ""

    def __call__(self, connection: Connection, **parameters: Any) -> list[T]:
        if connection.dialect.name == "postgresql":
            rows = self._run(connection, parameters)
        else:  # a driver that has no type for a UUID or a time
            rows = connection.execute(self._statement, parameters).all()
        return [self._row(*row) for row in rows]

    def _run(self, connection: Connection, parameters: dict[str, Any]) -> Any:
        self._text = self._text or str(self._statement.compile(dialect=connection.dialect))
        lent, errors = connection.connection, connection.dialect.loaded_dbapi.Error
        try:
            cursor = lent.cursor()
            cursor.execute(self._text, parameters)
            return cursor.fetchall()
        except errors as error:
            if lent.driver_connection.closed:  # type: ignore[union-attr]
                connection.invalidate(error)  # else the pool would keep a dead connection for ever
            raise DBAPIError.instance(self._text, None, error, errors, hide_parameters=True) from error

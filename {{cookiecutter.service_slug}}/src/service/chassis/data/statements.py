"""A SELECT that is compiled once and run on the driver, for half of what it costs otherwise."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Select
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")


class CompiledSelect(Generic[T]):
    """Call it with a connection and parameters; it returns `row(*columns)` for each row."""

    def __init__(self, statement: Select[Any], row: Callable[..., T]) -> None:
        self._statement = statement
        self._row = row
        self._text = ""

    def __call__(self, connection: Connection, **parameters: Any) -> list[T]:
        if connection.dialect.name == "postgresql":
            rows = self._run(connection, parameters)
        else:  # a driver that has no type for a UUID or a time
            rows = connection.execute(self._statement, parameters).all()
        return [self._row(*row) for row in rows]

    def _run(self, connection: Connection, parameters: dict[str, Any]) -> Any:
        self._text = self._text or str(self._statement.compile(dialect=connection.dialect))
        dbapi_connection = connection.connection
        dbapi_error = connection.dialect.loaded_dbapi.Error
        try:
            cursor = dbapi_connection.cursor()
            cursor.execute(self._text, parameters)
            return cursor.fetchall()
        except dbapi_error as error:
            if dbapi_connection.driver_connection.closed:  # type: ignore[union-attr]
                connection.invalidate(error)  # else the pool would keep a dead connection for ever
            raise DBAPIError.instance(
                self._text, None, error, dbapi_error, hide_parameters=True
            ) from error

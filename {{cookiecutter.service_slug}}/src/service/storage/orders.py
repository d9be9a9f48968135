"""The table of orders and its statements, which are made once."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import AwareDatetime, TypeAdapter
from sqlalchemy import Connection

from service.chassis.data.types import UtcDateTime, metadata
from service.domain.orders import Order

# The columns stand in the order of the dataclass's fields.
TABLE = sa.Table(
    "orders",
    metadata,
    sa.Column("reference", sa.Text, nullable=False, unique=True),
    sa.Column("sku", sa.Text, nullable=False),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("amount_cents", sa.Integer, nullable=False),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.CheckConstraint("quantity > 0", name="quantity"),
    # One for each sort of a list, with the id, which makes a position in it unique.
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "quantity", "id"),
)


# The columns by which a list is sorted, and what makes a value of each from a cursor's JSON.
SORTS: dict[str, Callable[[Any], Any]] = {
    "created_at": TypeAdapter(AwareDatetime).validate_python,
    "quantity": int,
}
FILTERS = {"status", "sku"}

SELECT_BY_ID = sa.select(TABLE).where(TABLE.c.id == sa.bindparam("wanted"))
LOCK_BY_ID = SELECT_BY_ID.with_for_update()
SELECT_REFERENCE = sa.select(TABLE.c.id).where(TABLE.c.reference == sa.bindparam("wanted"))
INSERT = sa.insert(TABLE)
UPDATE = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("wanted"))
DELETE = sa.delete(TABLE).where(TABLE.c.id == sa.bindparam("wanted"))


def get(connection: Connection, order_id: UUID) -> Order | None:
    """Read an order."""
    row = connection.execute(SELECT_BY_ID, {"wanted": order_id}).one_or_none()
    return Order(*row) if row else None


def lock(connection: Connection, order_id: UUID) -> Order | None:
    """Read an order that nobody else can change before this transaction ends."""
    row = connection.execute(LOCK_BY_ID, {"wanted": order_id}).one_or_none()
    return Order(*row) if row else None


def reference_exists(connection: Connection, reference: str) -> bool:
    """Return whether an order has this reference."""
    return connection.scalar(SELECT_REFERENCE, {"wanted": reference}) is not None


def insert(connection: Connection, order: Order) -> None:
    """Store a new order."""
    connection.execute(INSERT, vars(order))


def update(connection: Connection, order: Order) -> None:
    """Store a changed order."""
    connection.execute(UPDATE, vars(order) | {"wanted": order.id})


def delete(connection: Connection, order: Order) -> None:
    """Delete an order."""
    connection.execute(DELETE, {"wanted": order.id})


def list_page(
    connection: Connection,
    sort: str,
    filters: Mapping[str, str],
    after: list[Any] | None,
    limit: int,
) -> list[Order]:
    """Return up to `limit` orders after a `position`; a `-` before the column sorts downwards."""
    parameters: dict[str, Any] = {**filters, "limit": limit}
    if after:
        parameters |= {"value": after[0], "id": after[1]}
    select = _select_page(sort, tuple(filters), after is not None)
    return [Order(*row) for row in connection.execute(select, parameters)]


def position(sort: str, order: Order) -> tuple[Any, UUID]:
    """Return where an order stands in a list."""
    return getattr(order, sort.removeprefix("-")), order.id


@cache
def _select_page(sort: str, filters: tuple[str, ...], is_continued: bool) -> sa.Select[Any]:
    column = TABLE.c[sort.removeprefix("-")]
    is_descending = sort.startswith("-")
    keys = (column, TABLE.c.id)
    conditions = [TABLE.c[name] == sa.bindparam(name) for name in filters]
    if is_continued:
        key = sa.tuple_(*keys)
        value = sa.bindparam("value", type_=column.type)
        after = sa.tuple_(value, sa.bindparam("id", type_=TABLE.c.id.type))
        conditions.append(key < after if is_descending else key > after)
    return (
        sa.select(TABLE)
        .where(*conditions)
        .order_by(*(part.desc() if is_descending else part for part in keys))
        .limit(sa.bindparam("limit"))
    )

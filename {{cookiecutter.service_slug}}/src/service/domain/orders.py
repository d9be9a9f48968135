"""Orders of the catalogue's products: the rules, the table, and every statement that touches it."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from service.domain import catalogue
from service.domain.tables import Instant
from service.domain.tables import Read
from service.domain.tables import metadata


@dataclass(frozen=True)
class Wish:
    """What a customer says of an order."""

    reference: str  # the customer's own, unique
    sku: str
    quantity: int
    status: str  # open, paid, shipped
    note: str | None


@dataclass(frozen=True)
class Order(Wish):
    """A row of the table; its fields stand in the order of the columns."""

    amount_cents: int
    id: uuid.UUID
    created_at: datetime
    version: int


class ShippedError(Exception):
    """A shipped order does not change any more."""


class Sort(NamedTuple):
    column: str
    descending: bool
    read: Callable[[Any], Any]  # from the JSON of a cursor


ORDERS = sa.Table(
    "orders",
    metadata,
    sa.Column("reference", sa.Text, nullable=False, unique=True),
    sa.Column("sku", sa.Text, nullable=False),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("amount_cents", sa.Integer, nullable=False),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.CheckConstraint("quantity > 0", name="quantity"),
    # One for each order of a list, with the id, which makes a position in it unique.
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "quantity", "id"),
)
SORTS = {
    "created_at": Sort("created_at", False, datetime.fromisoformat),
    "-created_at": Sort("created_at", True, datetime.fromisoformat),
    "quantity": Sort("quantity", False, int),
    "-quantity": Sort("quantity", True, int),
}
FILTERS = ("status", "sku")

BY_ID = sa.select(ORDERS).where(ORDERS.c.id == sa.bindparam("wanted"))
READ_BY_ID = Read(BY_ID, Order)
BY_ID_LOCKED = BY_ID.with_for_update()
BY_REFERENCE = sa.select(ORDERS.c.id).where(ORDERS.c.reference == sa.bindparam("wanted"))
INSERT = sa.insert(ORDERS)
UPDATE = sa.update(ORDERS).where(ORDERS.c.id == sa.bindparam("wanted"))
DELETE = sa.delete(ORDERS).where(ORDERS.c.id == sa.bindparam("wanted"))


def get(connection: Connection, wanted: uuid.UUID) -> Order | None:
    found = READ_BY_ID(connection, wanted=wanted)
    return found[0] if found else None


def known(connection: Connection, reference: str) -> bool:
    return connection.scalar(BY_REFERENCE, {"wanted": reference}) is not None


def lock(connection: Connection, wanted: uuid.UUID) -> Order | None:
    """Read an order that nobody else may change before this transaction ends."""
    row = connection.execute(BY_ID_LOCKED, {"wanted": wanted}).one_or_none()
    return Order(*row) if row else None


def add(connection: Connection, wish: Wish) -> Order:
    """Store a new order; raise UnknownProductsError."""
    order = Order(**vars(wish), amount_cents=_amount(wish), id=uuid.uuid4(), created_at=datetime.now(UTC), version=1)
    connection.execute(INSERT, vars(order))
    return order


def replace(connection: Connection, order: Order, wish: Wish) -> Order:
    """Give a locked order what its customer wishes now; raise ShippedError or UnknownProductsError."""
    if order.status == "shipped":
        raise ShippedError
    changes = vars(wish) | {"amount_cents": _amount(wish), "version": order.version + 1}
    connection.execute(UPDATE, changes | {"wanted": order.id})
    return Order(**vars(order) | changes)


def remove(connection: Connection, order: Order) -> None:
    connection.execute(DELETE, {"wanted": order.id})


def page(
    connection: Connection, sort: str, filters: Mapping[str, str], after: list[Any] | None, limit: int
) -> list[Order]:
    """Return up to `limit` orders behind the position `after`, which is a value of the sort's column and an id."""
    parameters: dict[str, Any] = dict(filters) | {"most": limit}
    if after:
        parameters |= {"value": SORTS[sort].read(after[0]), "id": uuid.UUID(after[1])}
    return _listing(sort, tuple(filters), after is not None)(connection, **parameters)


def position(sort: str, order: Order) -> tuple[Any, uuid.UUID]:
    return getattr(order, SORTS[sort].column), order.id


@cache
def _listing(sort: str, filters: tuple[str, ...], continued: bool) -> Read[Order]:
    column = ORDERS.c[SORTS[sort].column]
    key, descending = sa.tuple_(column, ORDERS.c.id), SORTS[sort].descending
    statement = (
        sa.select(ORDERS).limit(sa.bindparam("most")).where(*(ORDERS.c[name] == sa.bindparam(name) for name in filters))
    )
    statement = statement.order_by(*(part.desc() if descending else part for part in (column, ORDERS.c.id)))
    if continued:
        position = sa.tuple_(sa.bindparam("value", type_=column.type), sa.bindparam("id", type_=ORDERS.c.id.type))
        statement = statement.where(key < position if descending else key > position)
    return Read(statement, Order)


def _amount(wish: Wish) -> int:
    return catalogue.quote([(wish.sku, wish.quantity)]).total_cents

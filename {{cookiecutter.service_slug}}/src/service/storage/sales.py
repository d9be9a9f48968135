"""The table of sales, one row for each product, and its statements."""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from service.chassis.data.types import metadata

TABLE = sa.Table(
    "sales",
    metadata,
    sa.Column("sku", sa.Text, primary_key=True),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("amount_cents", sa.BigInteger, nullable=False),
)
SELECT = sa.select(TABLE).order_by(TABLE.c.sku)


class Sale(NamedTuple):
    """What was sold of one product."""

    sku: str
    quantity: int
    amount_cents: int


def _upsert(insert: Any) -> Any:
    sums = {name: TABLE.c[name] + insert.excluded[name] for name in ("quantity", "amount_cents")}
    return insert.on_conflict_do_update(index_elements=["sku"], set_=sums)


ADD = {
    "postgresql": _upsert(postgresql.insert(TABLE)),
    "sqlite": _upsert(sqlite.insert(TABLE)),
}


def add(connection: Connection, sku: str, quantity: int, amount_cents: int) -> None:
    """Add to what was sold of a product."""
    row = {"sku": sku, "quantity": quantity, "amount_cents": amount_cents}
    connection.execute(ADD[connection.dialect.name], row)


def list_all(connection: Connection) -> list[Sale]:
    """Return the sales of all products."""
    return [Sale(*row) for row in connection.execute(SELECT)]

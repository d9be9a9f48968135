"""Orders of the catalogue's products, and the rules for placing and changing them."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from service.domain import catalogue


@dataclass(frozen=True)
class OrderDraft:
    """What a customer says of an order."""

    reference: str  # the customer's own, unique
    sku: str
    quantity: int
    status: str  # open, paid, shipped
    note: str | None


@dataclass(frozen=True)
class Order(OrderDraft):
    """An order that was placed."""

    amount_cents: int
    id: uuid.UUID
    created_at: datetime
    version: int


class ShippedError(Exception):
    """A shipped order can no longer be changed."""


def place(draft: OrderDraft) -> Order:
    """Make a new order; raise UnknownProductsError."""
    return Order(
        **vars(draft),
        amount_cents=_amount(draft),
        id=uuid.uuid4(),
        created_at=datetime.now(UTC),
        version=1,
    )


def change(order: Order, draft: OrderDraft) -> Order:
    """Return the order's next version; raise ShippedError or UnknownProductsError."""
    if order.status == "shipped":
        raise ShippedError
    changes = {"amount_cents": _amount(draft), "version": order.version + 1}
    return Order(**vars(order) | vars(draft) | changes)


def _amount(draft: OrderDraft) -> int:
    return catalogue.quote([(draft.sku, draft.quantity)]).total_cents

"""Events of orders."""

from uuid import UUID

from sqlalchemy import Connection

from service.chassis.messaging import outbox
from service.chassis.messaging.events import CloudEvent, Event
from service.chassis.project import PROJECT
from service.domain.orders import Order
from service.storage import sales


class OrderPlaced(Event):
    """An order was placed."""

    TYPE = f"{PROJECT.name}.order.placed"

    order_id: UUID
    sku: str
    quantity: int
    amount_cents: int


def publish_placed(connection: Connection, order: Order) -> None:
    """Publish a new order's event, in the transaction that stores the order."""
    placed = OrderPlaced(
        order_id=order.id,
        sku=order.sku,
        quantity=order.quantity,
        amount_cents=order.amount_cents,
    )
    outbox.publish(connection, placed, key=str(order.id))


def count_sale(connection: Connection, event: CloudEvent[OrderPlaced]) -> None:
    """Add an order to the sales of its product."""
    sales.add(connection, event.data.sku, event.data.quantity, event.data.amount_cents)

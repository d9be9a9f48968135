"""The consumer of a baked service, with a handler that calls another service.

The service's interpreter runs it. STOCK_URL is the address of the service that is called.
"""

import sys

from sqlalchemy import Connection

from service import workers
from service.api.catalogue import Product
from service.chassis.client.calls import client
from service.chassis.client.settings import CalleeUrl
from service.chassis.messaging.events import CloudEvent
from service.chassis.messaging.registry import Registry
from service.events.orders import OrderPlaced
from service.events.orders import count_sale
from service.settings import Settings


class Calling(Settings):
    """Those of the service, and the address of another."""

    stock_url: CalleeUrl


def look_up_and_count(connection: Connection, event: CloudEvent[OrderPlaced]) -> None:
    """Handle an order as the service does, once the other service knows its product."""
    client("stock").get(f"/v1/products/{event.data.sku}", Product)
    count_sale(connection, event)


def init_registry() -> Registry:
    """Return this handler alone."""
    registry = Registry()
    registry.handle(look_up_and_count)
    return registry


if __name__ == "__main__":
    workers.make_registry = init_registry
    sys.exit(workers.COMMANDS[sys.argv[1]](Calling.load()))

"""The events: what the service publishes, and the functions that handle those of all services."""

from service.chassis.messaging.registry import Registry
from service.events import orders  # only-if: sample == "yes"


def init_registry(registry: Registry) -> None:
    """Name the events; asyncapi.yaml describes them."""
    registry.publish(orders.OrderPlaced)  # only-if: sample == "yes"
    registry.handle(orders.count_sale)  # only-if: sample == "yes"

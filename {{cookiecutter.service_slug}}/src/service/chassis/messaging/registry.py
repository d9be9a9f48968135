"""What a service publishes, and which function handles which events."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_type_hints

from sqlalchemy import Connection

from service.chassis.messaging.events import CloudEvent, Event

T = TypeVar("T", bound=Event)


class Handler(NamedTuple):
    """A function, and the model of the events that it is called with."""

    function: Callable[[Connection, Any], None]
    data: type[Event]
    model: type[CloudEvent[Any]]


class Registry:
    """The events of one service, by their types."""

    def __init__(self) -> None:
        self.published: dict[str, type[Event]] = {}
        self.handlers: dict[str, Handler] = {}

    def publish(self, event: type[Event]) -> None:
        """Name an event that the service publishes; raise TypeError where its type is taken."""
        if self.published.setdefault(event.TYPE, event) is not event:
            raise TypeError(f"two events are of the type {event.TYPE}")

    def handle(self, function: Callable[[Connection, CloudEvent[T]], None]) -> None:
        """Call `function(connection, event)` with each event of the type that it takes.

        What it does on the connection has its effect once. Raise TypeError where its second
        argument is no CloudEvent of a model, or another function takes this type.
        """
        hints = get_type_hints(function)
        hints.pop("return", None)
        model: Any = list(hints.values())[-1] if hints else None
        arguments = getattr(model, "__pydantic_generic_metadata__", {}).get("args", ())
        if not (arguments and issubclass(arguments[0], Event)):
            raise TypeError(f"{function.__qualname__}: its second argument is no CloudEvent[...]")
        handler = Handler(function, arguments[0], model)
        if self.handlers.setdefault(handler.data.TYPE, handler) is not handler:
            raise TypeError(f"two functions handle the type {handler.data.TYPE}")

"""Events: their envelope, what is refused with which reason, and schemas a release apart."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from messages import Ping
from messages import make_registry
from messages import record
from pydantic import ValidationError
from sqlalchemy import Connection

from service.chassis.messaging import consumer
from service.chassis.messaging.events import MAX_SIZE, Attributes, CloudEvent, Event, RefusedError
from service.chassis.messaging.registry import Registry

EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/lab",
    "type": Ping.TYPE,
    "subject": "a",
    "time": "2026-01-01T00:00:00Z",
    "data": {"number": 7},
}
HANDLERS = make_registry().handlers


def read(event: dict[str, Any]) -> CloudEvent[Any]:
    return consumer.read(orjson.dumps(event), HANDLERS)[0]


def test_an_event_is_read_as_its_handler_takes_it() -> None:
    event, handler = consumer.read(orjson.dumps(EVENT), HANDLERS)
    assert handler.function is record
    assert (event.id, event.key, event.data) == ("1", "a", Ping(number=7))
    assert event.time == datetime(2026, 1, 1, tzinfo=UTC)


def test_what_a_later_release_adds_is_ignored() -> None:
    data = EVENT["data"] | {"colour": "red"}  # type: ignore[operator]
    assert read(EVENT | {"data": data, "partitionkey": "x"}).data == Ping(number=7)


def test_what_an_earlier_release_lacks_has_its_default() -> None:
    assert read(EVENT).data.what == ""


def test_an_event_without_a_subject_is_in_order_with_none_but_itself() -> None:
    assert read({**EVENT, "subject": None}).key == "1"


@pytest.mark.parametrize("context", [{"tracestate": "a=" + "b" * 511}, {"traceparent": 7}])
def test_a_trace_context_that_is_malformed_is_ignored(context: dict[str, Any]) -> None:
    event = read(EVENT | context)
    assert (event.data, event.traceparent, event.tracestate) == (Ping(number=7), None, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed: event: Invalid JSON"),
        (b"\xff\x00", "malformed: event: Invalid JSON"),
        (b"[" * 30_000, "malformed: event: Invalid JSON"),
        (b"7", "malformed: event: Input should be an object"),
        (b" " * (MAX_SIZE + 1), f"oversized: {MAX_SIZE + 1} bytes"),
        (EVENT | {"specversion": "0.3"}, "malformed: specversion: "),
        (EVENT | {"id": ""}, "malformed: id: "),
        (EVENT | {"id": "a\0b"}, "malformed: id: "),
        (EVENT | {"id": 7}, "malformed: id: "),
        (EVENT | {"source": "x" * 256}, "malformed: source: "),
        (EVENT | {"time": "yesterday"}, "malformed: time: "),
        (EVENT | {"type": "lab.unheard"}, "unknown type: lab.unheard"),
        (EVENT | {"data": None}, "wrong schema: data: "),
        (EVENT | {"data": {}}, "wrong schema: data.number: Field required"),
        (EVENT | {"data": {"number": "7"}}, "wrong schema: data.number: "),
        (EVENT | {"data": {"number": 7, "what": "\ud800"}}, "malformed: event: Invalid JSON"),
    ],
)
def test_what_cannot_be_handled_is_refused_with_a_reason(body: Any, reason: str) -> None:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RefusedError) as refused:
        consumer.read(encoded, HANDLERS)
    assert str(refused.value).startswith(reason)


def test_a_reason_holds_nothing_of_the_data() -> None:
    with pytest.raises(RefusedError) as refused:
        read(EVENT | {"data": {"number": "secret"}})
    assert "secret" not in str(refused.value)


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Ping(number=1).number = 2  # type: ignore[misc]


def without_types(connection, event) -> None:  # type: ignore[no-untyped-def]
    """Say not what it takes."""


def of_anything(connection: Connection, event: Attributes) -> None:
    """Take no event of a model."""


@pytest.mark.parametrize("function", [without_types, of_anything, lambda: None])
def test_a_handler_has_to_name_its_event(function: Callable[..., None]) -> None:
    with pytest.raises(TypeError, match="its second argument is no CloudEvent"):
        Registry().handle(function)


def test_a_type_has_one_handler_and_one_event() -> None:
    registry = make_registry()

    def hear_too(connection: Connection, event: CloudEvent[Ping]) -> None:
        """Take the same."""

    class AnotherPing(Event):
        TYPE = Ping.TYPE

    with pytest.raises(TypeError, match=r"two functions handle the type lab\.ping"):
        registry.handle(hear_too)
    with pytest.raises(TypeError, match=r"two events are of the type lab\.ping"):
        registry.publish(AnotherPing)

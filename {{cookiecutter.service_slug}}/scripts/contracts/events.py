"""Compare two AsyncAPI 3 documents: what is sent may narrow, what is handled may widen.

What is handled no more breaks nobody: an event is sent whether or not anyone handles it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from contracts.exchange import unknown_changes
from contracts.flatten import Json, UnreadableError, resolve
from contracts.rules import ANSWER, REQUEST
from contracts.schemas import Comparison, Fault

PROSE = {"name", "summary", "tags"}
# Who handles an event ignores fields that it does not know, and has its own defaults.
HARMLESS = {"default", "input removed"}


class Use(NamedTuple):
    """What says how an event is sent or handled."""

    operation: Json
    channel: Json
    message: Json


def breaking_events(old: Json, new: Json) -> list[Fault]:
    """Return what breaks those who handle or send the events of the old document."""
    for document in (old, new):
        if not str(document.get("asyncapi")).startswith("3."):
            raise UnreadableError("it is no AsyncAPI 3 document")
    try:
        handled = _changes(Comparison(old, as_received(new)), "receive")
        found = [
            *_changes(Comparison(old, new), "send"),
            *(fault for fault in handled if fault.rule not in HARMLESS),
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise UnreadableError(f"it is no valid AsyncAPI document: {error!r}") from error
    return list(dict.fromkeys(found))


def as_received(node: Any) -> Any:
    """Require no field that has a default, as the schema of what is sent does."""
    if isinstance(node, list):
        return [as_received(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: as_received(value) for key, value in node.items()}
    fields = made.get("properties")
    if isinstance(fields, dict) and isinstance(required := made.get("required"), list):
        own = {name for name, one in fields.items() if isinstance(one, dict) and "default" in one}
        made["required"] = [name for name in required if name not in own]
    return made


def _changes(comparison: Comparison, action: str) -> Iterator[Fault]:
    # Of defaultContentType each message says its own.
    known = {"asyncapi", "channels", "components", "defaultContentType", "info", "operations"}
    yield from unknown_changes(comparison, "document", comparison.old, comparison.new, known)
    there = _uses(comparison.new, action)
    for key, one in _uses(comparison.old, action).items():
        where = f"event {key[1]}, {'sent' if action == 'send' else 'handled'}"
        if key in there:
            flow = ANSWER if action == "send" else REQUEST
            yield from _use(comparison, where, flow, one, there[key])
        elif action == "send":
            yield Fault(where, "event removed", "removed")


def _use(comparison: Comparison, where: str, flow: str, old: Use, new: Use) -> Iterator[Fault]:
    """Compare how an event is sent or handled."""
    for part, place in (("payload", where), ("headers", f"{where}, headers")):
        before = old.message.get(part, True)
        yield from comparison.schemas(before, new.message.get(part, True), flow, place)
    for one, other, known in (
        (old.message, new.message, {"headers", "payload", *PROSE}),
        (old.channel, new.channel, {"messages", *PROSE}),
        (old.operation, new.operation, {"action", "channel", "messages", *PROSE}),
    ):
        yield from unknown_changes(comparison, where, one, other, known)


def _uses(document: Json, action: str) -> dict[tuple[str, str], Use]:
    """Return the events that are sent, or handled, by their channel and name."""
    found: dict[tuple[str, str], Use] = {}
    for reference in document.get("operations", {}).values():
        operation: Json = resolve(document, reference)
        if operation["action"] != action:
            continue
        channel: Json = resolve(document, operation["channel"])
        several: list[Any] = operation.get("messages", list(channel.get("messages", {}).values()))
        for one in several:
            message: Json = resolve(document, one)
            key = (operation["channel"]["$ref"], message["name"])
            found[key] = Use(operation, channel, message)
    return found

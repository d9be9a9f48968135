"""The AsyncAPI document of the events that a service publishes and handles.

https://www.asyncapi.com/docs/reference/specification/v3.1.0
"""

import json
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from service.chassis.http.openapi import Schema
from service.chassis.messaging import topology
from service.chassis.messaging.events import CONTENT_TYPE, Attributes, Event
from service.chassis.messaging.registry import Registry
from service.chassis.project import Project

Json = dict[str, Any]

ENVELOPE = "CloudEvent"
REF = "#/components/schemas/"
# What a message must have, whoever sent it.
REQUIRED = ["specversion", "id", "source", "type"]


def make_document(registry: Registry, project: Project) -> Json:
    """Describe the events; a service without any has neither channels nor components."""
    sent = registry.published
    handled = {type_: handler.data for type_, handler in registry.handlers.items()}
    document: Json = {
        "asyncapi": "3.1.0",
        "info": {
            "title": project.title,
            "version": project.version,
            "description": project.description,
        },
        "defaultContentType": CONTENT_TYPE,
    }
    if sent or handled:
        references, schemas = _schemas(sent, handled)
        events = (handled | sent).values()
        messages = {event.TYPE: _message(event, references[event.TYPE]) for event in events}
        document |= {
            "channels": _channels(sent, handled),
            "operations": _operations(sent, handled),
            "components": {"messages": messages, "schemas": schemas},
        }
    return document


def to_yaml(document: Json) -> str:
    """Return a document as YAML whose scalars are JSON, which is quoted alike whatever it says."""
    head = "# Written by `make asyncapi` from the events.\n"
    return head + "".join(f"{line}\n" for line in _lines(document, ""))


def _lines(value: Json, indent: str) -> Iterator[str]:
    for key, item in value.items():
        name = f"{indent}{json.dumps(key, ensure_ascii=False)}:"
        if isinstance(item, dict) and item:
            yield name
            yield from _lines(item, f"{indent}  ")
        else:
            yield f"{name} {json.dumps(item, ensure_ascii=False)}"


def _channels(sent: dict[str, type[Event]], handled: dict[str, type[Event]]) -> Json:
    exchange = {"name": topology.EXCHANGE, "type": "topic", "durable": True, "autoDelete": False}
    channels: Json = {
        type_: {
            "address": type_,
            "messages": {type_: {"$ref": f"#/components/messages/{type_}"}},
            "bindings": _amqp({"is": "routingKey", "exchange": exchange}),
        }
        for type_ in sent
    }
    if handled:
        name = topology.QUEUE
        queue = {"name": name, "durable": True, "exclusive": False, "autoDelete": False}
        channels[name] = {
            "address": name,
            "messages": {type_: {"$ref": f"#/components/messages/{type_}"} for type_ in handled},
            "bindings": _amqp({"is": "queue", "queue": queue}),
        }
    return channels


def _operations(sent: dict[str, type[Event]], handled: dict[str, type[Event]]) -> Json:
    operations: Json = {
        f"publish.{type_}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{type_}"},
            "bindings": _amqp({"deliveryMode": 2, "mandatory": True}),
        }
        for type_ in sent
    }
    if handled:
        operations["handle"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{topology.QUEUE}"},
            "bindings": _amqp({"ack": True}),
        }
    return operations


def _amqp(binding: Json) -> Json:
    return {"amqp": {**binding, "bindingVersion": "0.3.0"}}


def _message(event: type[Event], reference: Json) -> Json:
    properties = {"type": {"const": event.TYPE}, "data": reference}
    data = {"properties": properties, "required": ["data"]}
    message: Json = {"name": event.TYPE, "title": event.__name__, "contentType": CONTENT_TYPE}
    if event.__doc__:
        message["summary"] = event.__doc__.partition("\n")[0]
    return message | {"payload": {"allOf": [{"$ref": f"{REF}{ENVELOPE}"}, data]}}


def _schemas(
    sent: dict[str, type[Event]], handled: dict[str, type[Event]]
) -> tuple[dict[str, Json], Json]:
    """Return a reference for each type, and the schemas.

    What is sent is described as it is, what is only handled as it must be.
    """
    wanted: Any = [(event, "serialization") for event in sent.values()]
    wanted += [(event, "validation") for type_, event in handled.items() if type_ not in sent]
    template = REF + "{model}"
    found, made = models_json_schema(wanted, schema_generator=Schema, ref_template=template)
    references = {event.TYPE: found[event, mode] for event, mode in wanted}
    envelope = Attributes.model_json_schema(schema_generator=Schema, ref_template=template)
    envelope |= {"description": "The envelope of CloudEvents 1.0", "required": REQUIRED}
    return references, {ENVELOPE: envelope, **made["$defs"]}

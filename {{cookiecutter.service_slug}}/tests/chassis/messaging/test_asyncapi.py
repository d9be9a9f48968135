"""The document of the events: whole, right in its references, and the one that is committed."""

import re
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has none
from messages import make_registry
from messages import record
from support import text

from service import workers
from service.__main__ import main
from service.chassis.messaging import asyncapi
from service.chassis.messaging import topology
from service.chassis.messaging.events import Event
from service.chassis.messaging.registry import Registry
from service.chassis.project import PROJECT
from service.chassis.project import Project

DOCUMENT = asyncapi.make_document(make_registry(), Project("lab", "Lab", "1.0.0", "Is tried."))


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_the_committed_document_is_that_of_the_events() -> None:
    document = asyncapi.make_document(workers.make_registry(), PROJECT)
    assert yaml.safe_load(text("asyncapi.yaml")) == document, "run `make asyncapi`"


def test_make_asyncapi_prints_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["asyncapi"]) == 0
    printed = capsys.readouterr().out
    committed = re.sub(r"^# \{.*\n", "", text("asyncapi.yaml"), flags=re.MULTILINE)
    assert printed == committed


def test_every_event_of_the_service_is_in_the_document() -> None:
    workers.make_registry()
    kinds = [kind for kind in Event.__subclasses__() if kind.__module__.startswith("service.")]
    messages = yaml.safe_load(text("asyncapi.yaml")).get("components", {}).get("messages", {})
    assert {kind.TYPE for kind in kinds} == messages.keys()


def test_every_reference_leads_somewhere() -> None:
    references = re.findall(r"'\$ref': '([^']+)'", str(DOCUMENT))
    assert len(references) > 10
    assert all(resolve(reference) for reference in references)


def test_what_is_published_and_what_is_handled_are_operations() -> None:
    operations = {name: one["action"] for name, one in DOCUMENT["operations"].items()}
    published = ("lab.ping", "lab.pong", "lab.unwanted")
    assert operations == {f"publish.{name}": "send" for name in published} | {"handle": "receive"}
    assert DOCUMENT["channels"][topology.QUEUE]["messages"].keys() == {"lab.ping", "lab.pong"}


def test_a_service_without_events_has_a_document() -> None:
    document = asyncapi.make_document(Registry(), PROJECT)
    assert document.keys() == {"asyncapi", "info", "defaultContentType"}


EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/lab",
    "type": "lab.ping",
    "data": {"number": 1, "what": ""},
}


@pytest.mark.parametrize(
    ("changes", "is_valid"),
    [
        ({}, True),
        ({"type": "lab.pong"}, False),
        ({"id": ""}, False),
        ({"data": {"number": "1", "what": ""}}, False),
        ({"data": {"number": 1}}, False),  # what is sent always has it
        ({"data": {"number": 1, "what": "", "later": 1}}, True),
        ({"traceparent": "00-x"}, True),
    ],
)
def test_a_message_is_described_as_it_is_sent(changes: dict[str, Any], is_valid: bool) -> None:
    payload = DOCUMENT["components"]["messages"]["lab.ping"]["payload"]
    validator = Draft202012Validator({**payload, "components": DOCUMENT["components"]})
    assert validator.is_valid(EVENT | changes) is is_valid


def test_what_is_only_handled_is_described_as_it_must_be() -> None:
    registry = Registry()
    registry.handle(record)
    document = asyncapi.make_document(registry, PROJECT)
    assert document["components"]["schemas"]["Ping"]["required"] == ["number"]


def test_two_events_of_one_name_are_told_apart() -> None:
    class Ping(Event):
        """The same name."""

        TYPE = "lab.other"

    registry = make_registry()
    registry.publish(Ping)
    messages = asyncapi.make_document(registry, PROJECT)["components"]["messages"]
    data = [messages[name]["payload"]["allOf"][1] for name in ("lab.ping", "lab.other")]
    assert len({one["properties"]["data"]["$ref"] for one in data}) == 2

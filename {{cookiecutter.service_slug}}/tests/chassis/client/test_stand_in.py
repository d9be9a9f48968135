"""The stand-in answers as a contract says; here it stands in for the lab."""

import json

import pytest
from lab import THING
from lab import Item
from lab import Thing
from lab import lab_app
from pydantic import BaseModel, HttpUrl
from stand_in import StandIn
from stand_in import example

from service.chassis.client.calls import make_clients
from service.chassis.client.failures import BadStatus
from service.chassis.client.settings import CalleeUrl
from service.chassis.client.settings import ClientSettings
from service.chassis.http import openapi


class Calling(ClientSettings):
    """The settings of a service that calls the lab."""

    lab_url: CalleeUrl = HttpUrl("http://127.0.0.1:9")


@pytest.fixture(scope="module")
def contract() -> dict[str, object]:
    """The lab's document, as it is written into a file."""
    document = openapi.make_document(lab_app(), "Lab", "1", "")
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]


def test_each_operation_answers_with_what_the_contract_says(contract: dict[str, object]) -> None:
    with StandIn(contract) as stand_in:
        client = make_clients(Calling(lab_url=HttpUrl(stand_in.url)))["lab"]
        assert client.get("/lab/things/a", Thing)
        assert client.get("/lab/things", list[Thing])
        assert client.post("/lab/items", Item, body={})
        assert client.send("DELETE", "/lab/items/1").status == 204
        with pytest.raises(BadStatus, match="404"):
            client.send("GET", "/elsewhere")


def test_a_test_may_say_what_is_answered(contract: dict[str, object]) -> None:
    with StandIn(contract) as stand_in:
        client = make_clients(Calling(lab_url=HttpUrl(stand_in.url)))["lab"]
        stand_in.answer("GET", "/lab/things/{name}", 200, {"name": "b", "colour": "blue"})
        assert client.get("/lab/things/a", Thing).name == "b"
        stand_in.answer("GET", "/lab/things/{name}", 404)
        with pytest.raises(BadStatus) as failed:
            client.get("/lab/things/a", Thing)
        assert json.loads(failed.value.body).keys() >= {"type", "title", "status"}


class Tree(BaseModel):
    kind: str = "oak"
    height: float
    leaves: list[int]
    name: str | None


def test_an_example_has_every_field() -> None:
    made = example(Tree.model_json_schema(), {})
    assert Tree.model_validate(made, strict=True).kind == "oak"
    assert THING

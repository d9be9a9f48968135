"""Events of orders: what is published with an order, and what follows from it."""

import orjson
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy import Connection

from service.chassis.http.application import Application
from service.chassis.messaging import inbox
from service.chassis.messaging import outbox
from service.chassis.messaging.events import CloudEvent
from service.events.orders import OrderPlaced
from service.events.orders import count_sale

pytestmark = pytest.mark.usefixtures("connection")

TEA = {"reference": "PO-1", "sku": "tea", "quantity": 2}


def published(connection: Connection) -> list[CloudEvent[OrderPlaced]]:
    bodies = connection.scalars(sa.select(outbox.OUTBOX.c.body).order_by(outbox.OUTBOX.c.id))
    return [CloudEvent[OrderPlaced].model_validate_json(body) for body in bodies]


def test_an_order_is_published_with_it(client: FlaskClient, connection: Connection) -> None:
    order = client.post("/v1/orders", json=TEA).get_json()
    (event,) = published(connection)
    assert (event.key, event.type) == (order["id"], OrderPlaced.TYPE)
    data = event.data.model_dump(mode="json")
    assert data == {"order_id": order["id"]} | {name: order[name] for name in data if name in order}


def test_a_repeated_or_refused_order_is_not_published_again(
    client: FlaskClient, connection: Connection
) -> None:
    key = {"Idempotency-Key": "once"}
    answers = [client.post("/v1/orders", json=TEA, headers=key) for _ in range(2)]
    answers.append(client.post("/v1/orders", json=TEA))
    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert len(published(connection)) == 1


def test_an_event_that_comes_twice_is_sold_once(
    app: Application, client: FlaskClient, connection: Connection
) -> None:
    for reference in ("PO-1", "PO-2"):
        client.post("/v1/orders", json=TEA | {"reference": reference})
    for event in published(connection) * 2:
        inbox.handle_once(app.extensions["database"], count_sale, event)
    assert client.get("/v1/sales").get_json() == {
        "items": [{"sku": "tea", "quantity": 4, "amount_cents": 1700}]
    }


def test_a_type_is_its_services_own() -> None:
    assert orjson.dumps(OrderPlaced.TYPE).endswith(b'.order.placed"')

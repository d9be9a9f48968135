"""The resource with a database: its rules, its views as functions, its routes over HTTP."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin, urlsplit
from uuid import UUID
from uuid import uuid4

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound
from werkzeug.test import TestResponse

from service import seed
from service.api import orders as api
from service.chassis.data.connections import Database
from service.chassis.http.application import Application
from service.chassis.resources.preconditions import IfMatch, IfNoneMatch
from service.domain import orders
from service.storage import orders as storage

TEA = {"reference": "PO-1", "sku": "tea", "quantity": 2}
DRAFT = orders.OrderDraft("PO-1", "tea", 2, "open", None)

pytestmark = pytest.mark.usefixtures("connection")


def place(client: FlaskClient, **changes: Any) -> TestResponse:
    return client.post("/v1/orders", json=TEA | {"reference": uuid4().hex} | changes)


def counted(connection: Connection) -> int | None:
    return connection.scalar(sa.select(sa.func.count()).select_from(storage.TABLE))


def next_page(response: TestResponse) -> str | None:
    link = re.match("<(.*)>", response.headers.get("Link", ""))
    return urljoin(response.request.path, link[1]) if link else None


def located(response: TestResponse) -> str:
    """Where the order is, from where it was placed."""
    return urljoin(response.request.path, response.headers["Location"])


def walk(client: FlaskClient, url: str) -> list[dict[str, Any]]:
    """Every item of a list, page by page."""
    items = []
    page: str | None = url
    while page:
        response = client.get(page)
        items += response.get_json()["items"]
        page = next_page(response)
    return items


def store(connection: Connection) -> orders.Order:
    order = orders.place(DRAFT)
    storage.insert(connection, order)
    return order


def test_an_order_costs_what_its_quote_says() -> None:
    assert orders.place(DRAFT).amount_cents == 850


def test_a_changed_order_keeps_what_the_customer_does_not_say() -> None:
    order = orders.place(DRAFT)
    changed = orders.change(order, replace(DRAFT, quantity=3))
    expected = replace(order, quantity=3, amount_cents=1275, version=2)
    assert changed == expected


def test_a_shipped_order_does_not_change() -> None:
    with pytest.raises(orders.ShippedError):
        orders.change(orders.place(replace(DRAFT, status="shipped")), DRAFT)


def test_what_was_stored_is_read_back_as_it_was(connection: Connection) -> None:
    order = store(connection)
    assert storage.get(connection, order.id) == order


def test_a_view_is_a_plain_function(connection: Connection) -> None:
    order = store(connection)
    assert api.get_order(order.id, IfNoneMatch()).body.amount_cents == 850


def test_a_view_aborts_where_there_is_no_order() -> None:
    with pytest.raises(NotFound):
        api.delete_order(uuid4(), IfMatch(if_match="*"))


def test_a_placed_order_is_where_its_location_says(client: FlaskClient) -> None:
    placed = place(client)
    assert placed.status_code == 201
    assert client.get(located(placed)).get_json() == placed.get_json()


def test_addresses_hold_behind_a_gateway_that_strips_a_prefix(client: FlaskClient) -> None:
    placed = place(client)
    place(client)
    link = client.get("/v1/orders?limit=1&sort=-quantity").headers["Link"]
    there = "https://example.org/shop/v1/orders"
    assert urljoin(there, placed.headers["Location"]) == f"{there}/{placed.get_json()['id']}"
    assert re.match(r"<\?limit=1&sort=-quantity&cursor=[\w%-]+>; rel=\"next\"$", link)


def test_a_reference_that_is_taken_is_a_conflict(client: FlaskClient) -> None:
    place(client, reference="PO-1")
    response = place(client, reference="PO-1")
    assert (response.status_code, response.get_json()["detail"]) == (
        409,
        "A unique value is already in use.",
    )


def test_an_unknown_product_is_pointed_at_and_stores_nothing(
    client: FlaskClient, connection: Connection
) -> None:
    response = place(client, sku="gold")
    assert (response.status_code, response.get_json()["errors"][0]["pointer"]) == (422, "/sku")
    assert counted(connection) == 0


@pytest.mark.parametrize(
    "reference", ["'; DROP TABLE orders; --", "a\0b", "\ud800", "x" * 41, 1e400, 10**30]
)
def test_hostile_values_are_problems(client: FlaskClient, reference: object) -> None:
    body = json.dumps(TEA | {"reference": reference})
    assert client.post("/v1/orders", data=body, content_type="application/json").status_code in (
        400,
        422,
    )


@pytest.mark.parametrize("note", ["'; DROP TABLE orders; --", "%s %(x)s :x", "\\", "\u202e 🚀"])
def test_text_comes_back_as_it_was_sent(client: FlaskClient, note: str) -> None:
    assert client.get(located(place(client, note=note))).get_json()["note"] == note


@pytest.mark.parametrize("number", ["1", "x" * 5000, "%00", str(UUID(int=1))])
def test_what_is_no_order_is_not_found(client: FlaskClient, number: str) -> None:
    assert client.get(f"/v1/orders/{number}").status_code == 404


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "quantity", "-quantity"])
def test_a_list_walked_page_by_page_is_whole_and_in_order(client: FlaskClient, sort: str) -> None:
    placed = {place(client, quantity=1 + n % 3).get_json()["id"] for n in range(7)}
    items = walk(client, f"/v1/orders?limit=2&sort={sort}")
    field, descending = sort.lstrip("-"), sort.startswith("-")
    keys = [(item[field], UUID(item["id"])) for item in items]
    assert keys == sorted(keys, reverse=descending)
    assert {item["id"] for item in items} == placed
    assert len(items) == len(placed)


def test_the_last_page_has_no_link(client: FlaskClient) -> None:
    place(client)
    assert next_page(client.get("/v1/orders?limit=1")) is None


def test_filters_hold_on_every_page(client: FlaskClient) -> None:
    for status in ("open", "paid", "open", "paid", "open"):
        place(client, status=status)
    assert [item["status"] for item in walk(client, "/v1/orders?status=open&limit=1")] == [
        "open"
    ] * 3


def test_rows_that_come_and_go_leave_the_walk_whole(client: FlaskClient) -> None:
    stay = [place(client).get_json()["id"] for _ in range(4)]
    first = client.get("/v1/orders?limit=2")
    gone = first.get_json()["items"][0]["id"]
    client.delete(f"/v1/orders/{gone}", headers={"If-Match": "*"})
    place(client)
    rest = walk(client, next_page(first) or "")
    assert [item["id"] for item in rest][:2] == stay[2:]


def test_a_cursor_continues_no_other_list(client: FlaskClient) -> None:
    for _ in range(2):
        place(client)
    link = next_page(client.get("/v1/orders?limit=1&sort=created_at")) or ""
    response = client.get(
        f"/v1/orders?sort=quantity&{urlsplit(link).query.partition('&sort=created_at&')[2]}"
    )
    assert response.status_code == 422


def test_what_the_client_has_is_not_sent_again(client: FlaskClient) -> None:
    location = located(place(client))
    etag = client.get(location).headers["ETag"]
    response = client.get(location, headers={"If-None-Match": etag})
    assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", etag)


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 428), ({"If-Match": '"9"'}, 412), ({"If-Match": 'W/"1"'}, 412)]
)
def test_a_change_needs_the_etag(
    client: FlaskClient, method: str, headers: dict[str, str], status: int
) -> None:
    body = None if method == "delete" else TEA
    response = client.open(located(place(client)), method=method, headers=headers, json=body)
    assert response.status_code == status


def test_the_document_names_the_headers_of_the_answers(client: FlaskClient) -> None:
    place(client)
    placed = place(client)
    location = urljoin("/v1/orders", placed.headers["Location"])
    known = {"If-None-Match": '"1"'}
    change = {"If-Match": "*"}
    paths = client.get("/openapi.json").get_json()["paths"]
    for path, answer, name in (
        ("/v1/orders", placed, "Location"),
        ("/v1/orders", client.get("/v1/orders?limit=1"), "Link"),
        ("/v1/orders/{order_id}", client.get(location), "ETag"),
        ("/v1/orders/{order_id}", client.get(location, headers=known), "ETag"),
        ("/v1/orders/{order_id}", client.patch(location, json={}, headers=change), "ETag"),
    ):
        operation = paths[path][answer.request.method.lower()]
        documented = operation["responses"][str(answer.status_code)]["headers"]
        assert set(documented) == {name} == {name}.intersection(answer.headers.keys())


def test_a_replaced_order_has_a_new_etag(client: FlaskClient) -> None:
    location = located(place(client))
    response = client.put(location, json=TEA | {"quantity": 3}, headers={"If-Match": '"1"'})
    assert (
        response.status_code,
        response.headers["ETag"],
        response.get_json()["amount_cents"],
    ) == (200, '"2"', 1275)


def test_a_patch_changes_only_what_it_names(client: FlaskClient) -> None:
    placed = place(client, note="soon")
    headers = {"If-Match": "*", "Content-Type": "application/merge-patch+json"}
    response = client.patch(located(placed), data='{"quantity": 1}', headers=headers)
    assert response.get_json() == placed.get_json() | {"quantity": 1, "amount_cents": 425}


def test_null_in_a_patch_removes(client: FlaskClient) -> None:
    location = located(place(client, note="soon"))
    assert (
        client.patch(location, json={"note": None}, headers={"If-Match": "*"}).get_json()["note"]
        is None
    )


def test_a_shipped_order_conflicts_with_a_change(client: FlaskClient) -> None:
    location = located(place(client, status="shipped"))
    response = client.patch(location, json={}, headers={"If-Match": "*"})
    assert (response.status_code, response.get_json()["type"]) == (409, api.OrderShipped.type)


def test_a_deleted_order_is_gone(client: FlaskClient) -> None:
    location = located(place(client))
    assert client.delete(location, headers={"If-Match": '"1"'}).status_code == 204
    assert client.get(location).status_code == 404


def send(client: FlaskClient, key: str, **changes: Any) -> TestResponse:
    return client.post("/v1/orders", json=TEA | changes, headers={"Idempotency-Key": key})


def test_a_repeated_request_gets_the_first_answer(
    client: FlaskClient, connection: Connection
) -> None:
    first, again = send(client, "k"), send(client, "k")
    assert (again.status_code, again.data, again.headers["Location"]) == (
        201,
        first.data,
        first.headers["Location"],
    )
    assert counted(connection) == 1


def test_a_request_that_failed_leaves_its_key_free(client: FlaskClient) -> None:
    send(client, "k", sku="gold")
    assert send(client, "k").status_code == 201


def test_no_change_is_lost_among_many_at_once(app: Application) -> None:
    location = located(place(app.test_client(), quantity=1))

    def increment(_: int) -> bool:
        client = app.test_client()
        order = client.get(location)
        more = {"quantity": order.get_json()["quantity"] + 1}
        return (
            client.patch(
                location, json=more, headers={"If-Match": order.headers["ETag"]}
            ).status_code
            == 200
        )

    with ThreadPoolExecutor(4) as pool:
        successes = sum(pool.map(increment, range(40)))
    assert app.test_client().get(location).get_json()["quantity"] == 1 + successes


@pytest.fixture
def database(app: Application) -> Database:
    database: Database = app.extensions["database"]
    return database


def test_seeds_are_stored_once(database: Database) -> None:
    assert (seed.seed(database), seed.seed(database)) == (len(seed.DRAFTS), 0)


def test_a_seed_that_was_deleted_comes_back_alone(database: Database) -> None:
    seed.seed(database)
    with database.transaction() as connection:
        connection.execute(sa.delete(storage.TABLE).where(storage.TABLE.c.reference == "SEED-2"))
    assert seed.seed(database) == 1

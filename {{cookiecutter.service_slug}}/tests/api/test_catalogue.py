"""The catalogue: its rules without the web, its views without an application, its routes."""

import pytest
from flask.testing import FlaskClient
from lab import pointers
from lab import problem
from werkzeug.exceptions import NotFound

from service.api import catalogue as api
from service.chassis.http.validation import Invalid
from service.domain import catalogue


def test_a_quote_adds_up_its_lines() -> None:
    assert catalogue.quote([("tea", 2), ("cocoa", 1)]).total_cents == 2 * 425 + 799


def test_a_quote_names_every_position_that_is_not_for_sale() -> None:
    with pytest.raises(catalogue.UnknownProductsError) as error:
        catalogue.quote([("gold", 1), ("tea", 1), ("silver", 1)])
    assert error.value.positions == [0, 2]


def test_a_view_is_a_plain_function() -> None:
    assert api.get_product("tea") == api.Product(sku="tea", name="Tea, 100 g", price_cents=425)


def test_a_view_aborts_on_an_unknown_product() -> None:
    with pytest.raises(NotFound):
        api.get_product("gold")


def test_a_view_points_at_the_line_with_an_unknown_product() -> None:
    body = api.Basket(lines=[api.Line(sku="tea", quantity=1), api.Line(sku="gold", quantity=1)])
    with pytest.raises(Invalid) as refusal:
        api.create_quote(body)
    assert refusal.value.errors == ({"detail": "Unknown product", "pointer": "/lines/1/sku"},)


def test_products_are_listed_up_to_the_limit(client: FlaskClient) -> None:
    response = client.get("/v1/products?limit=2")
    assert [item["sku"] for item in response.get_json()["items"]] == ["cocoa", "coffee"]


def test_a_product_is_shown(client: FlaskClient) -> None:
    product = {"sku": "tea", "name": "Tea, 100 g", "price_cents": 425}
    assert client.get("/v1/products/tea").get_json() == product


def test_an_unknown_product_is_not_found(client: FlaskClient) -> None:
    document = problem(client.get("/v1/products/gold"), 404)
    assert document.detail == "Product 'gold' not found."


def test_a_basket_is_priced(client: FlaskClient) -> None:
    response = client.post("/v1/quotes", json={"lines": [{"sku": "coffee", "quantity": 3}]})
    assert response.get_json() == {
        "lines": [{"sku": "coffee", "quantity": 3, "amount_cents": 1950}],
        "total_cents": 1950,
    }


@pytest.mark.parametrize("quantity", [0, 1001, "1", True, 1.5, 2.0])
def test_a_quantity_out_of_bounds_is_pointed_at(client: FlaskClient, quantity: object) -> None:
    response = client.post("/v1/quotes", json={"lines": [{"sku": "tea", "quantity": quantity}]})
    problem(response, 422)
    assert pointers(response) == ["/lines/0/quantity"]

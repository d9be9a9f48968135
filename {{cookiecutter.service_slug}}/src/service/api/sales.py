"""Sales over HTTP: what the orders, by their events, add up to."""

from flask import Blueprint

from service.chassis.http.routes import Routes
from service.chassis.http.validation import Model
from service.chassis.resources import database
from service.storage import sales

blueprint = Blueprint("sales", __name__, url_prefix="/v1")
routes = Routes(blueprint)


class Sale(Model):
    sku: str
    quantity: int
    amount_cents: int


class Sales(Model):
    items: list[Sale]


@routes.get("/sales")
def list_sales() -> Sales:
    """List what was sold of each product, as far as the orders' events have arrived."""
    with database.read() as connection:
        return Sales.model_validate({"items": sales.list_all(connection)})

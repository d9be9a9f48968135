"""The catalogue over HTTP: products and quotes."""

from typing import Annotated

from flask import Blueprint, abort
from pydantic import Field

from service.chassis.http.routes import Routes
from service.chassis.http.validation import Invalid, Model
from service.domain import catalogue

blueprint = Blueprint("catalogue", __name__, url_prefix="/v1")
routes = Routes(blueprint)


class ProductsQuery(Model):
    limit: int = Field(20, ge=1, le=100, description="Maximum page size")


class Product(Model):
    sku: str
    name: str
    price_cents: int


class Products(Model):
    items: list[Product]


class Line(Model):
    sku: Annotated[str, Field(pattern="^[a-z0-9-]{1,40}$", examples=["tea"])]
    quantity: Annotated[int, Field(ge=1, le=1000, examples=[2])]


class Basket(Model):
    lines: Annotated[list[Line], Field(min_length=1, max_length=100)]


class PricedLine(Line):
    amount_cents: int


class Quote(Model):
    lines: list[PricedLine]
    total_cents: int


@routes.get("/products")
def list_products(query: ProductsQuery) -> Products:
    """List what is for sale."""
    return Products.model_validate({"items": catalogue.STOCK[: query.limit]})


@routes.get("/products/<sku>")
def get_product(sku: str) -> Product:
    """Show one product."""
    product = catalogue.PRODUCTS.get(sku) or abort(404, f"Product {sku!r} not found.")
    return Product.model_validate(product)


@routes.post("/quotes", raises=(422,))
def create_quote(body: Basket) -> Quote:
    """Price a basket of products."""
    basket = [(line.sku, line.quantity) for line in body.lines]
    try:
        return Quote.model_validate(catalogue.quote(basket))
    except catalogue.UnknownProductsError as error:
        errors = [
            {"detail": "Unknown product", "pointer": f"/lines/{position}/sku"}
            for position in error.positions
        ]
        raise Invalid(*errors) from error

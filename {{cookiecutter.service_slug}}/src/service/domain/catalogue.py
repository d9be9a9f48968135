"""What is for sale and what a basket of it costs, in whole cents."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """One product of the catalogue."""

    sku: str
    name: str
    price_cents: int


@dataclass(frozen=True)
class PricedLine:
    """A line of a basket and what it costs."""

    sku: str
    quantity: int
    amount_cents: int


@dataclass(frozen=True)
class Quote:
    """A basket and what it costs."""

    lines: list[PricedLine]
    total_cents: int


class UnknownProductsError(LookupError):
    """The basket has at `positions` what is not in the catalogue."""

    def __init__(self, positions: list[int]) -> None:
        super().__init__(f"unknown products at {positions}")
        self.positions = positions


STOCK = (
    Product("cocoa", "Cocoa, 500 g", 799),
    Product("coffee", "Coffee, 250 g", 650),
    Product("tea", "Tea, 100 g", 425),
)
PRODUCTS = {product.sku: product for product in STOCK}


def quote(basket: Sequence[tuple[str, int]]) -> Quote:
    """Price pairs of SKU and quantity; raise UnknownProductsError."""
    unknown = [position for position, (sku, _) in enumerate(basket) if sku not in PRODUCTS]
    if unknown:
        raise UnknownProductsError(unknown)
    lines = [
        PricedLine(sku, quantity, quantity * PRODUCTS[sku].price_cents) for sku, quantity in basket
    ]
    return Quote(lines, sum(line.amount_cents for line in lines))

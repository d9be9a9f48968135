"""Orders over HTTP: create, list, read, replace, patch, delete."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from flask import Blueprint, abort
from pydantic import MISSING, Field
from werkzeug.exceptions import Conflict

from service.chassis import database
from service.chassis import idempotency
from service.chassis import preconditions
from service.chassis.contract import Created, Reply, Routes
from service.chassis.idempotency import IdempotencyKey
from service.chassis.merge_patch import merged
from service.chassis.pagination import PageQuery
from service.chassis.preconditions import IfMatch
from service.chassis.preconditions import IfNoneMatch
from service.chassis.validation import Invalid, Model
from service.domain import catalogue
from service.domain import orders

blueprint = Blueprint("orders", __name__, url_prefix="/v1")
routes = Routes(blueprint)

Reference = Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,40}$", examples=["PO-1"])]
Sku = Annotated[str, Field(pattern="^[a-z0-9-]{1,40}$", examples=["tea"])]
Quantity = Annotated[int, Field(ge=1, le=1000, examples=[2])]
Status = Literal["open", "paid", "shipped"]
Note = Annotated[str, Field(max_length=500)]


class NewOrder(Model):
    reference: Reference
    sku: Sku
    quantity: Quantity
    status: Status = "open"
    note: Note | None = None


class OrderPatch(Model):
    reference: Reference | MISSING = MISSING
    sku: Sku | MISSING = MISSING
    quantity: Quantity | MISSING = MISSING
    status: Status | MISSING = MISSING
    note: Note | MISSING | None = MISSING


class Order(NewOrder):
    id: UUID
    amount_cents: int
    created_at: datetime


class Orders(Model):
    items: list[Order]


class OrdersQuery(PageQuery):
    sort: Literal["created_at", "-created_at", "quantity", "-quantity"] = "created_at"
    status: Status | None = None
    sku: Sku | None = None


@routes.post("/orders", raises=(409, 422))
def create_order(body: NewOrder, headers: IdempotencyKey) -> Created[Order]:
    """Place an order; a repetition with the same Idempotency-Key places no second one."""

    def create() -> Created[Order]:
        order = orders.add(connection, wish(body))
        return Created(shown(order), {"Location": f"/v1/orders/{order.id}"})

    with told(), database.transaction() as connection:
        return idempotency.once(connection, headers, body, Order, create)


@routes.get("/orders", raises=(422,))
def list_orders(query: OrdersQuery) -> Reply[Orders]:
    """List orders; the Link header leads to the next page."""
    filters = {name: value for name in orders.FILTERS if (value := getattr(query, name)) is not None}
    with database.read() as connection:
        found = orders.page(connection, query.sort, filters, query.position(), query.limit + 1)
    items = found[: query.limit]
    more = len(found) > query.limit
    link = query.next_link(*orders.position(query.sort, items[-1])) if more else None
    return Reply(Orders(items=[shown(order) for order in items]), link)


@routes.get("/orders/<uuid:number>", raises=(304,))
def get_order(number: UUID, headers: IfNoneMatch) -> Reply[Order]:
    """Show one order."""
    with database.read() as connection:
        order = orders.get(connection, number) or abort(404, "There is no such order.")
    return Reply(shown(order), preconditions.unless_known(headers, order.version))


@routes.put("/orders/<uuid:number>", raises=(409, 412, 422, 428))
def replace_order(number: UUID, body: NewOrder, headers: IfMatch) -> Reply[Order]:
    """Replace an order."""
    return change(number, headers, lambda _order: body)


@routes.patch("/orders/<uuid:number>", raises=(409, 412, 422, 428))
def patch_order(number: UUID, body: OrderPatch, headers: IfMatch) -> Reply[Order]:
    """Change what is named of an order; null removes a note."""
    given = body.model_dump()
    return change(number, headers, lambda order: NewOrder.model_validate(merged(written(order), given)))


@routes.delete("/orders/<uuid:number>", raises=(412, 428))
def delete_order(number: UUID, headers: IfMatch) -> None:
    """Delete an order."""
    preconditions.require(headers)
    with database.transaction() as connection:
        order = orders.lock(connection, number) or abort(404, "There is no such order.")
        preconditions.match(headers, order.version)
        orders.remove(connection, order)


def change(number: UUID, headers: IfMatch, wished: Callable[[orders.Order], NewOrder]) -> Reply[Order]:
    """Lock the order, see that it is the one that the client means, and give it what is wished."""
    preconditions.require(headers)
    with told(), database.transaction() as connection:
        order = orders.lock(connection, number) or abort(404, "There is no such order.")
        preconditions.match(headers, order.version)
        changed = orders.replace(connection, order, wish(wished(order)))
    return Reply(shown(changed), preconditions.etag(changed.version))


@contextmanager
def told() -> Iterator[None]:
    """Tell the client what the domain refuses."""
    try:
        yield
    except catalogue.UnknownProductsError as error:
        raise Invalid({"detail": "Unknown product", "pointer": "/sku"}) from error
    except orders.ShippedError as error:
        raise Conflict("It is shipped: it does not change any more.") from error


def wish(body: NewOrder) -> orders.Wish:
    return orders.Wish(**dict(body))


def written(order: orders.Order) -> dict[str, object]:
    return {name: getattr(order, name) for name in NewOrder.model_fields}


def shown(order: orders.Order) -> Order:
    return Order(amount_cents=order.amount_cents, id=order.id, created_at=order.created_at, **written(order))

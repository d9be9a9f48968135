"""Orders over HTTP: create, list, read, replace, patch, delete."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from flask import Blueprint, abort
from pydantic import MISSING, Field
from sqlalchemy import Connection
from werkzeug.exceptions import Conflict

from service.chassis.http import problems
from service.chassis.http.problems import ProblemType
from service.chassis.http.routes import Created, Routes
from service.chassis.http.validation import Invalid, Model
from service.chassis.resources import database
from service.chassis.resources import idempotency
from service.chassis.resources import preconditions
from service.chassis.resources.idempotency import IdempotencyKey
from service.chassis.resources.pagination import Page, PageQuery
from service.chassis.resources.preconditions import IfMatch, IfNoneMatch, Versioned
from service.domain import catalogue
from service.domain import orders
from service.events import orders as events  # only-if: messaging == "rabbitmq"
from service.storage import orders as storage

blueprint = Blueprint("orders", __name__, url_prefix="/v1")
routes = Routes(blueprint)

Reference = Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,40}$", examples=["PO-1"])]
Sku = Annotated[str, Field(pattern="^[a-z0-9-]{1,40}$", examples=["tea"])]
Quantity = Annotated[int, Field(ge=1, le=1000, examples=[2])]
Status = Literal["open", "paid", "shipped"]
Note = Annotated[str, Field(max_length=500)]


class OrderShipped(ProblemType, Conflict):
    type = "/problems/order-shipped"
    title = "Order shipped"


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
    with database.transaction() as connection:
        return idempotency.run_once(
            connection, headers, body, Order, lambda: _create(connection, body)
        )


@routes.get("/orders", raises=(422,))
def list_orders(query: OrdersQuery) -> Page[Orders]:
    """List orders; the Link header leads to the next page."""
    filters = query.model_dump(include=storage.FILTERS, exclude_none=True)
    after = query.position(storage.SORTS[query.sort.removeprefix("-")], UUID)
    with database.read() as connection:
        found = storage.list_page(connection, query.sort, filters, after, query.limit + 1)
    items = found[: query.limit]
    link = None
    if len(found) > query.limit:
        link = query.next_link(*storage.position(query.sort, items[-1]))
    return Page(Orders.model_validate({"items": items}), link)


@routes.get("/orders/<uuid:order_id>", raises=(304,))
def get_order(order_id: UUID, headers: IfNoneMatch) -> Versioned[Order]:
    """Show one order."""
    with database.read() as connection:
        order = storage.get(connection, order_id) or abort(404, "Order not found.")
    etag = preconditions.unless_known(headers, order.version)
    return Versioned(Order.model_validate(order), etag)


@routes.put("/orders/<uuid:order_id>", raises=(409, OrderShipped, 412, 422, 428))
def replace_order(order_id: UUID, body: NewOrder, headers: IfMatch) -> Versioned[Order]:
    """Replace an order."""
    return _update(order_id, headers, lambda _order: body)


@routes.patch("/orders/<uuid:order_id>", raises=(409, OrderShipped, 412, 422, 428))
def patch_order(order_id: UUID, body: OrderPatch, headers: IfMatch) -> Versioned[Order]:
    """Change what is named of an order; null removes a note."""
    changes = body.model_dump()
    return _update(
        order_id, headers, lambda order: NewOrder.model_validate(order).model_copy(update=changes)
    )


@routes.delete("/orders/<uuid:order_id>", raises=(412, 428))
def delete_order(order_id: UUID, headers: IfMatch) -> None:
    """Delete an order."""
    preconditions.require(headers)
    with database.transaction() as connection:
        order = storage.lock(connection, order_id) or abort(404, "Order not found.")
        preconditions.match(headers, order.version)
        storage.delete(connection, order)


@blueprint.errorhandler(catalogue.UnknownProductsError)
def handle_unknown_product(_error: catalogue.UnknownProductsError) -> Any:
    """Point at the product that is not for sale."""
    return problems.render(Invalid({"detail": "Unknown product", "pointer": "/sku"}))


@blueprint.errorhandler(orders.ShippedError)
def handle_shipped(_error: orders.ShippedError) -> Any:
    """Refuse the change."""
    return problems.render(OrderShipped("A shipped order can no longer be changed."))


def _create(connection: Connection, body: NewOrder) -> Created[Order]:
    order = orders.place(orders.OrderDraft(**dict(body)))
    storage.insert(connection, order)
    events.publish_placed(connection, order)  # only-if: messaging == "rabbitmq"
    return Created(Order.model_validate(order), {"Location": f"orders/{order.id}"})


def _update(
    order_id: UUID, headers: IfMatch, update: Callable[[orders.Order], NewOrder]
) -> Versioned[Order]:
    """Lock the order, see that the client knows its version, and change it."""
    preconditions.require(headers)
    with database.transaction() as connection:
        order = storage.lock(connection, order_id) or abort(404, "Order not found.")
        preconditions.match(headers, order.version)
        changed = orders.change(order, orders.OrderDraft(**dict(update(order))))
        storage.update(connection, changed)
    return Versioned(Order.model_validate(changed), preconditions.etag(changed.version))

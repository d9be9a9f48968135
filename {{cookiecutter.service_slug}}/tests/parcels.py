"""The lab's resource: parcels, in a table that no migration makes."""

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated

import sqlalchemy as sa
from flask import Blueprint, abort
from pydantic import Field
from sqlalchemy import Connection

from service.chassis.data.types import UtcDateTime
from service.chassis.http.routes import Created, Reply, Routes
from service.chassis.http.validation import Model
from service.chassis.resources import database
from service.chassis.resources import idempotency
from service.chassis.resources import preconditions
from service.chassis.resources.idempotency import IdempotencyKey
from service.chassis.resources.pagination import PageQuery
from service.chassis.resources.preconditions import IfMatch, IfNoneMatch

metadata = sa.MetaData()
TABLE = sa.Table(
    "lab_parcels",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("reference", sa.Text, nullable=False, unique=True),
    sa.Column("weight", sa.Integer, nullable=False),
    sa.Column("sent_at", UtcDateTime, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
)
BY_ID = TABLE.c.id == sa.bindparam("wanted")


@dataclass(frozen=True)
class Parcel:
    """A row."""

    id: uuid.UUID
    reference: str
    weight: int
    sent_at: datetime
    version: int


class NewParcel(Model):
    reference: Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,40}$")]
    weight: int


class ParcelBody(NewParcel):
    id: uuid.UUID


class Parcels(Model):
    items: list[ParcelBody]


class ParcelsQuery(PageQuery):
    weight: int | None = None


def make(reference: str = "P-1", weight: int = 1) -> Parcel:
    """Return a parcel that is not stored."""
    return Parcel(uuid.uuid4(), reference, weight, datetime.now(UTC), 1)


def insert(connection: Connection, parcel: Parcel) -> None:
    """Store a new parcel."""
    connection.execute(sa.insert(TABLE), vars(parcel))


def get(connection: Connection, parcel_id: uuid.UUID) -> Parcel:
    """Read a parcel; raise NotFound."""
    row = connection.execute(sa.select(TABLE).where(BY_ID), {"wanted": parcel_id}).one_or_none()
    return Parcel(*row) if row else abort(404)


def lock(connection: Connection, parcel_id: uuid.UUID) -> Parcel:
    """Read a parcel that nobody else can change before this transaction ends."""
    select = sa.select(TABLE).where(BY_ID).with_for_update()
    return Parcel(*connection.execute(select, {"wanted": parcel_id}).one())


def update(connection: Connection, parcel: Parcel) -> None:
    """Store a changed parcel."""
    connection.execute(sa.update(TABLE).where(BY_ID), vars(parcel) | {"wanted": parcel.id})


def count(connection: Connection) -> int:
    """Return how many are stored."""
    return connection.scalar(sa.select(sa.func.count()).select_from(TABLE)) or 0


blueprint = Blueprint("parcels", __name__, url_prefix="/lab/parcels")
routes = Routes(blueprint)


@routes.post("", raises=(409, 422))
def send(body: NewParcel, headers: IdempotencyKey) -> Created[ParcelBody]:
    def create() -> Created[ParcelBody]:
        parcel = make(body.reference, body.weight)
        insert(connection, parcel)
        return Created(to_body(parcel), {"Location": f"parcels/{parcel.id}"})

    with database.transaction() as connection:
        return idempotency.run_once(connection, headers, body, ParcelBody, create)


@routes.get("", raises=(422,))
def list_parcels(query: ParcelsQuery) -> Reply[Parcels]:
    select = sa.select(TABLE).order_by(TABLE.c.id).limit(query.limit + 1)
    if query.weight is not None:
        select = select.where(TABLE.c.weight == query.weight)
    if after := query.position(uuid.UUID):
        select = select.where(TABLE.c.id > after[0])
    with database.read() as connection:
        found = [Parcel(*row) for row in connection.execute(select)]
    items = found[: query.limit]
    link = query.next_link(items[-1].id) if len(found) > query.limit else None
    return Reply(Parcels(items=[to_body(parcel) for parcel in items]), link)


@routes.get("/<uuid:parcel_id>", raises=(304,))
def show(parcel_id: uuid.UUID, headers: IfNoneMatch) -> Reply[ParcelBody]:
    with database.read() as connection:
        parcel = get(connection, parcel_id)
    return Reply(to_body(parcel), preconditions.unless_known(headers, parcel.version))


@routes.put("/<uuid:parcel_id>", raises=(412, 428))
def weigh(parcel_id: uuid.UUID, body: NewParcel, headers: IfMatch) -> Reply[ParcelBody]:
    preconditions.require(headers)
    with database.transaction() as connection:
        parcel = lock(connection, parcel_id)
        preconditions.match(headers, parcel.version)
        changed = replace(parcel, weight=body.weight, version=parcel.version + 1)
        update(connection, changed)
    return Reply(to_body(changed), preconditions.etag(changed.version))


def to_body(parcel: Parcel) -> ParcelBody:
    """Return what clients see."""
    return ParcelBody(id=parcel.id, reference=parcel.reference, weight=parcel.weight)

"""The lab, on which the chassis is tried: a route for all that a typed view takes and returns."""

import enum
import io
from collections.abc import Iterator
from datetime import date, datetime
from typing import Annotated, Literal, TypeVar

import pytest
from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    g,
    make_response,
    request,
    send_file,
)
from flask.testing import FlaskClient
from parcels import blueprint as parcels  # only-if: database == "postgresql"
from pydantic import MISSING, Field
from support import Collector
from werkzeug.datastructures import FileStorage, WWWAuthenticate
from werkzeug.exceptions import Conflict, Forbidden, Unauthorized
from werkzeug.test import TestResponse

from service import app as service_app
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.chassis.http.problems import ProblemType
from service.chassis.http.routes import Created, Reply, Routes, SecurityScheme
from service.chassis.http.uploads import FileLimits
from service.chassis.http.validation import Model
from service.settings import Settings


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Box(Model):
    kind: Literal["box"]
    width: int


class Tube(Model):
    kind: Literal["tube"]
    length: int


class Item(Model):
    name: Annotated[str, Field(min_length=1, max_length=50)]
    qty: Annotated[int, Field(ge=1, le=1000)]
    price: float
    colour: Colour
    at: datetime
    packing: Annotated[Box | Tube, Field(discriminator="kind")]
    counts: dict[str, int]
    lines: list[Box]


class Thing(Model):
    name: str
    colour: Colour


class Change(Model):
    name: Annotated[str, Field(min_length=1)] | MISSING = MISSING


class Search(Model):
    limit: int = Field(20, ge=1, le=100, description="Most to return")
    tag: list[str] = Field(default_factory=list)
    colour: Colour | None = None
    text_part: str | None = None


class Match(Model):
    if_match: Annotated[str, Field(max_length=10)] | None = None


class Stay(Model):
    start: date = Field(alias="from")
    nights: int = 1
    note: str | MISSING = MISSING


class StaysQuery(Model):
    start: date | None = Field(None, alias="from")
    days: list[date] = Field(default_factory=list, alias="day")


class StaysHeaders(Model):
    agent: str | None = Field(None, alias="X-Agent")


class NewPhoto(Model):
    title: Annotated[str, Field(min_length=1, max_length=50)]
    stars: Annotated[int, Field(ge=0, le=5)] = 0
    tag: list[str] = Field(default_factory=list)
    photo: Annotated[FileStorage, FileLimits(20_000, ("image/png", "image/jpeg"))]
    more: Annotated[list[Annotated[FileStorage, FileLimits()]], Field(max_length=2)] = Field(
        default_factory=list
    )
    caption: Annotated[FileStorage, FileLimits(max_size=10)] | None = None


class Login(Model):
    name: Annotated[str, Field(min_length=1)]
    days: int | None = None


class Default(Model):
    default: str
    type: str = "plain"


T = TypeVar("T")


class Counted(Reply[T]):
    sends = ("X-Total", "ETag")


THING = Thing(name="a", colour=Colour.RED)
TREE = {"name": "a", "colour": "red"}  # THING as JSON
ITEM = {
    "name": "a",
    "qty": 1,
    "price": 1.5,
    "colour": "red",
    "at": "2026-01-01T00:00:00Z",
    "packing": {"kind": "box", "width": 1},
    "counts": {},
    "lines": [],
}

blueprint = Blueprint("lab", __name__, url_prefix="/lab")
routes = Routes(blueprint)


@routes.post("/items")
def create_item(body: Item) -> Created[Item]:
    return Created(body, {"Location": f"/lab/items/{body.name}"})


@routes.put("/items")
def replace_items(body: list[Item]) -> list[Item]:
    return body


@routes.patch("/items/<int(max=99):number>", raises=(412,))
def change_item(number: int, body: Change, headers: Match) -> Thing:
    if body.name is not MISSING:
        return Thing(name=f"{body.name} {number} {headers.if_match}", colour=Colour.RED)
    return THING


@routes.delete("/items/<number>")
def delete_item(number: str) -> None:
    """Delete an item.

    It is gone for good.
    """


@routes.get("/items")
def search(query: Search) -> Thing:
    name = f"{query.limit} {query.tag} {query.colour} {query.text_part}"
    return Thing(name=name, colour=Colour.RED)


@routes.post("/jobs")
def start_job(body: Default) -> Created[Thing]:
    return Created(Thing(name=body.default + body.type, colour=Colour.RED))


@routes.post("/stays")
def book_stay(body: Stay) -> Stay:
    return Stay(start=body.start, note="booked")


@routes.get("/stays")
def list_stays(query: StaysQuery, headers: StaysHeaders) -> list[Stay]:
    days = [day for day in (query.start, *query.days) if day]
    return [Stay(start=day, note=headers.agent or "") for day in days]


@routes.get("/things", raises=(304,))
def list_things() -> Counted[list[Thing]]:
    return Counted([THING], {"X-Total": "1"})


@routes.get("/things/<name>")
def show_thing(name: str) -> Thing:
    return Thing(name=name, colour=Colour.RED) if name != "none" else abort(404, "No thing.")


@routes.post("/photos", max_body_size=400_000)
def add_photo(form: NewPhoto) -> Thing:
    sizes = [len(file.read()) for file in (form.photo, *form.more)]
    name = f"{form.title} {form.stars} {form.tag} {form.photo.filename} {sizes} {form.caption}"
    return Thing(name=name, colour=Colour.RED)


@routes.post("/logins")
def log_in(form: Login) -> Thing:
    return Thing(name=f"{form.name} {form.days}", colour=Colour.RED)


@routes.put("/large", max_body_size=5000)
def replace_large(body: list[str]) -> Thing:
    return Thing(name=str(len(body)), colour=Colour.RED)


@routes.get("/export", produces="text/csv")
def export() -> Iterator[str]:
    yield "name,app\r\n"
    yield f"{request.path},{current_app.name}\r\n"


@routes.get("/events", produces="text/event-stream")
def watch() -> Reply[Iterator[bytes]]:
    return Reply(iter([b"data: 1\n\n", b"data: 2\n\n"]), {"Cache-Control": "no-store"})


@routes.get("/file", produces="image/*", raises=(206, 304, 416))
def download() -> Response:
    return send_file(io.BytesIO(b"0123456789"), "image/png", etag="v1", conditional=True)


@routes.get("/raw/", produces="text/html")
def raw() -> Response:
    return make_response("raw")


class OutOfStock(ProblemType, Conflict):
    type = "tag:lab.example,2026:out-of-stock"
    title = "Out of stock"


class OnHold(ProblemType, Conflict):
    type = "/problems/on-hold"
    title = "On hold"


class Closed(ProblemType):
    code = 503
    type = "/problems/closed"
    title = "Closed"


@routes.post("/sales", raises=(409, OutOfStock, OnHold, Closed))
def sell(body: Default) -> None:
    if body.default == "plain":
        raise Conflict("Something else.")
    kinds = {"none": OutOfStock, "held": OnHold, "closed": Closed}
    raise kinds.get(body.default, OnHold)(
        "Two are left.", left=0, until=date(2026, 1, 31), status=200
    )


def check_key(*scopes: str) -> str:
    key = request.headers.get("X-API-Key")
    if key not in ("reader", "writer"):
        raise Unauthorized("Send the key in X-API-Key.", www_authenticate=WWWAuthenticate("key"))
    if "write" in scopes and key != "writer":
        raise Forbidden("This key only reads.")
    return f"the {key}"


API_KEY = SecurityScheme(
    "api_key", {"type": "apiKey", "in": "header", "name": "X-API-Key"}, check_key
)
vault = Routes(blueprint, security=API_KEY)


@vault.get("/vault")
def open_vault() -> Thing:
    return Thing(name=g.caller, colour=Colour.RED)


@vault.post("/vault", security=API_KEY.with_scopes("write"))
def fill_vault(body: Thing) -> Thing:
    return body


@vault.get("/vault/door", security=None)
def show_door() -> Thing:
    return THING


def create_app(settings: Settings | None = None) -> Application:
    """Make the service's application with the lab's routes beside its own."""
    app = service_app.create_app(settings)
    app.register_blueprint(blueprint)
    app.register_blueprint(parcels)  # only-if: database == "postgresql"
    return app


def lab_app() -> Application:
    """Make an application with the lab's routes and with problems, without middleware."""
    app = Application(__name__)
    problems.init_app(app)
    app.register_blueprint(blueprint)
    return app


@pytest.fixture
def app(settings: Settings) -> Application:
    """The service's application, with the lab's routes beside its own."""
    return create_app(settings)


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """The application with a collector; its spans are sent every 20 ms, and 20 may wait."""
    limits = {"SCHEDULE_DELAY": 0.02, "SHUTDOWN_TIMEOUT": 0.1, "MAX_QUEUE_SIZE": 20}
    for name, value in limits.items():
        monkeypatch.setattr(f"service.chassis.telemetry.otlp.{name}", value)
    app = create_app(
        Settings.model_validate(
            {
                "log_format": "json",
                "otel_exporter_otlp_endpoint": collector.url,
                "otel_exporter_otlp_headers": "x-key=a%20b, x-other=2",
                "otel_resource_attributes": "deployment.environment.name=test",
            }
        )
    )
    yield app
    assert app.telemetry.exporter
    app.telemetry.exporter.shutdown()


@pytest.fixture
def lab() -> FlaskClient:
    """A client of the lab."""
    return lab_app().test_client()


def problem(response: TestResponse, status: int) -> problems.Problem:
    """Check that the answer is a problem of this status and read it."""
    found = (response.status_code, response.content_type)
    assert found == (status, problems.MEDIA_TYPE), response.text
    document = problems.Problem.model_validate_json(response.data, strict=True, extra="forbid")
    assert document.status == status
    return document


def pointers(response: TestResponse) -> list[str]:
    """Return the JSON pointers of a problem's errors."""
    return [error["pointer"] for error in response.get_json()["errors"]]


def post(
    lab: FlaskClient, data: bytes, content_type: str | None = "application/json"
) -> TestResponse:
    """Send a body to the route that takes an item."""
    return lab.post("/lab/items", data=data, content_type=content_type)

"""The contract: what is refused, what goes out, how errors look, what the document says, and that both agree."""

import enum
import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import schemathesis
from flask import Blueprint, Response, make_response, session
from flask.testing import FlaskClient
from hypothesis import HealthCheck
from hypothesis import settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import MISSING, Field, create_model
from schemathesis import BaseSchema
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Conflict, InternalServerError, ServiceUnavailable, Unauthorized
from werkzeug.test import TestResponse

from service.app import create_app
from service.chassis import logs
from service.chassis import openapi
from service.chassis import problems
from service.chassis.contract import Contract, Created, Reply, Routes
from service.chassis.framework import Service
from service.chassis.validation import Invalid, Model
from service.settings import Settings

COMMITTED = Path(__file__).parents[1] / "openapi.json"


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


class Ratio(Model):
    value: float


class Secret(Thing):
    secret: str


class Change(Model):
    name: Annotated[str, Field(min_length=1)] | MISSING = MISSING


class Search(Model):
    limit: int = Field(20, ge=1, le=100, description="Most to return")
    tag: list[str] = Field(default_factory=list)
    colour: Colour | None = None
    text_part: str | None = None


class Match(Model):
    if_match: Annotated[str, Field(max_length=10)] | None = None


class Default(Model):
    default: str
    type: str = "plain"


THING = Thing(name="a", colour=Colour.RED)
TREE = {"name": "a", "colour": "red"}
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

api = Blueprint("lab", __name__, url_prefix="/lab")
routes = Routes(api)


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
    return Thing(name=f"{query.limit} {query.tag} {query.colour} {query.text_part}", colour=Colour.RED)


@routes.post("/jobs")
def start_job(body: Default) -> Created[Thing]:
    return Created(Thing(name=body.default + body.type, colour=Colour.RED))


@routes.get("/things")
def list_things() -> Reply[list[Thing]]:
    return Reply([THING], {"X-Total": "1"})


@routes.get("/raw/")
def raw() -> Response:
    return make_response("raw")


def lab_app() -> Service:
    app = Service(__name__)
    problems.init_app(app)
    app.register_blueprint(api)
    return app


@pytest.fixture
def lab() -> FlaskClient:
    return lab_app().test_client()


def problem(response: TestResponse, status: int) -> problems.Problem:
    """Check that the answer is a problem of this status and read it."""
    assert (response.status_code, response.content_type) == (status, problems.MEDIA_TYPE), response.text
    document = problems.Problem.model_validate_json(response.data, strict=True, extra="forbid")
    assert document.status == status
    return document


def pointers(response: TestResponse) -> list[str]:
    return [error["pointer"] for error in response.get_json()["errors"]]


def post(lab: FlaskClient, data: bytes, content_type: str | None = "application/json") -> TestResponse:
    return lab.post("/lab/items", data=data, content_type=content_type)


# What comes in


def test_a_right_body_comes_back_as_it_went_in(lab: FlaskClient) -> None:
    response = lab.post("/lab/items", json=ITEM)
    assert (response.status_code, response.get_json()) == (201, ITEM)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"qty": "1"}, "/qty"),
        ({"qty": True}, "/qty"),
        ({"qty": 1.5}, "/qty"),
        ({"qty": 10**30}, "/qty"),
        ({"price": False}, "/price"),
        ({"price": "1.5"}, "/price"),
        ({"price": float("nan")}, "/price"),
        ({"price": float("inf")}, "/price"),
        ({"name": None}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": "a\0b"}, "/name"),
        ({"colour": "green"}, "/colour"),
        ({"at": 5}, "/at"),
        ({"packing": {"kind": "box", "width": "1"}}, "/packing/width"),
        ({"packing": {"kind": "box"}}, "/packing/width"),
        ({"packing": {"kind": "bag"}}, "/packing"),
        ({"counts": {"a/b~c": "1"}}, "/counts/a~1b~0c"),
        ({"counts": {"a\0": 1}}, "/counts/a\0"),
        ({"lines": [{"kind": "box", "width": 1}, {"kind": "box", "width": "1"}]}, "/lines/1/width"),
        ({"other": 1}, "/other"),
    ],
)
def test_a_wrong_value_is_pointed_at(lab: FlaskClient, change: dict[str, object], pointer: str) -> None:
    response = lab.post("/lab/items", data=json.dumps(ITEM | change), content_type="application/json")
    problem(response, 422)
    assert pointers(response) == [pointer]


def test_a_missing_field_is_pointed_at(lab: FlaskClient) -> None:
    assert pointers(lab.post("/lab/items", json={k: v for k, v in ITEM.items() if k != "qty"})) == ["/qty"]


def test_every_error_is_listed(lab: FlaskClient) -> None:
    assert pointers(lab.post("/lab/items", json=ITEM | {"qty": 0, "price": "1"})) == ["/qty", "/price"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'name': 1}",
        b"\xff",
        b'{"name": "\xff"}',
        rb'{"name": "\ud800"}',
        b'{"name": "\0"}',
        b"[" * 100_000,
        b'{"a":' * 10_000,
        b'{"qty": ' + b"9" * 5000 + b"}",
        b"{} {}",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_not_json_is_a_bad_request(lab: FlaskClient, data: bytes) -> None:
    problem(post(lab, data), 400)


@pytest.mark.parametrize("data", [b'"{}"', b"null", b"1", b"[]"])
def test_json_of_another_type_is_an_error_of_the_whole_body(lab: FlaskClient, data: bytes) -> None:
    response = post(lab, data)
    problem(response, 422)
    assert pointers(response) == [""]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_another_content_type_is_unsupported(lab: FlaskClient, content_type: str | None) -> None:
    problem(post(lab, json.dumps(ITEM).encode(), content_type), 415)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/merge-patch+json"])
def test_a_json_type_is_taken(lab: FlaskClient, content_type: str) -> None:
    assert post(lab, json.dumps(ITEM).encode(), content_type).status_code == 201


@pytest.mark.parametrize("number", ["2.0", "2e0", "0.2E+1", "20e-1"])
def test_a_whole_number_may_be_written_as_a_float(lab: FlaskClient, number: str) -> None:
    data = json.dumps(ITEM | {"name": r'1.0 "2.0"', "qty": "?"}).replace('"?"', number)
    response = post(lab, data.encode())
    assert (response.get_json()["qty"], response.get_json()["name"]) == (2, r'1.0 "2.0"')


def test_an_error_beside_a_whole_float_is_the_only_one_told(lab: FlaskClient) -> None:
    assert pointers(lab.post("/lab/items", json=ITEM | {"qty": 2.0, "price": "x"})) == ["/price"]


def test_a_body_over_the_limit_is_too_large(lab: FlaskClient) -> None:
    lab.application.config["MAX_CONTENT_LENGTH"] = 10
    problem(lab.post("/lab/items", json=ITEM), 413)


def test_half_a_megabyte_of_errors_is_answered_in_a_line(lab: FlaskClient) -> None:
    response = lab.put("/lab/items", data=b"[" + b"0," * 250_000 + b"0]", content_type="application/json")
    problem(response, 422)
    assert len(response.data) < 500


def test_an_error_repeats_neither_input_nor_addresses(lab: FlaskClient) -> None:
    response = lab.post("/lab/items", json=ITEM | {"qty": "hunter2"})
    assert response.get_json()["errors"] == [{"detail": "Input should be a valid integer", "pointer": "/qty"}]


def test_a_patch_tells_absent_from_given(lab: FlaskClient) -> None:
    assert lab.patch("/lab/items/1", json={}).get_json()["name"] == "a"
    assert lab.patch("/lab/items/1", json={"name": "b"}).get_json()["name"] == "b 1 None"


def test_a_patch_with_null_is_refused(lab: FlaskClient) -> None:
    assert "/name" in pointers(lab.patch("/lab/items/1", json={"name": None}))


def test_a_query_is_read_with_defaults_lists_and_enums(lab: FlaskClient) -> None:
    name = lab.get("/lab/items?tag=a&tag=b&colour=red&text_part=%F0%9F%98%80").get_json()["name"]
    assert name == "20 ['a', 'b'] Colour.RED \N{GRINNING FACE}"


def test_a_list_of_one_in_the_query_is_a_list(lab: FlaskClient) -> None:
    assert lab.get("/lab/items?tag=a").get_json()["name"] == "20 ['a'] None None"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("colour=green", "colour"),
        ("other=1", "other"),
        ("text_part=%00", "text_part"),
        ("text_part=a&text_part=b", "text_part"),
        ("tag=%00", "tag"),
    ],
)
def test_a_wrong_query_names_the_parameter(lab: FlaskClient, query: str, parameter: str) -> None:
    response = lab.get(f"/lab/items?{query}")
    problem(response, 422)
    assert [error["parameter"] for error in response.get_json()["errors"]] == [parameter]


def test_many_wrong_parameters_are_answered_in_a_line(lab: FlaskClient) -> None:
    response = lab.get("/lab/items?" + "&".join(f"x{number}=1" for number in range(500)))
    assert (response.status_code, len(response.get_json()["errors"])) == (422, 1)


def test_a_header_is_read_by_its_name(lab: FlaskClient) -> None:
    response = lab.patch("/lab/items/1", json={"name": "b"}, headers={"If-Match": "v1", "X-Other": "1"})
    assert response.get_json()["name"] == "b 1 v1"


def test_a_wrong_header_is_named(lab: FlaskClient) -> None:
    response = lab.patch("/lab/items/1", json={}, headers={"If-Match": "x" * 11})
    assert [error["header"] for error in response.get_json()["errors"]] == ["if-match"]


def test_a_path_with_nul_is_not_found(lab: FlaskClient) -> None:
    problem(lab.delete("/lab/items/a%00b"), 404)


def test_a_field_may_be_called_default_or_type(lab: FlaskClient) -> None:
    assert lab.post("/lab/jobs", json={"default": "a"}).get_json()["name"] == "aplain"
    assert pointers(lab.post("/lab/jobs", json={"default": "\0"})) == ["/default"]


# What goes out


def answer(result: Any, kind: Any = Thing) -> TestResponse:
    """The answer of an application whose only view returns `result` and is annotated with `kind`."""

    def view() -> Any:
        return result

    view.__annotations__["return"] = kind
    app, blueprint = Service(__name__), Blueprint("one", __name__)
    problems.init_app(app)
    Routes(blueprint).get("/")(view)
    app.register_blueprint(blueprint)
    return app.test_client().get("/")


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (TREE, Thing),
        (TREE | {"secret": "hunter2"}, Thing),
        (None, Thing),
        (Box(kind="box", width=1), Thing),
        (Thing.model_construct(**vars(THING) | {"colour": "red"}), Thing),
        (Thing.model_construct(**vars(THING) | {"name": 1}), Thing),
        (Thing.model_construct(**vars(THING) | {"name": "\ud800"}), Thing),
        (THING, list[Thing]),
        ([THING, None], list[Thing]),
        ([TREE], list[Thing]),
        (THING, Created[Thing]),
        (Reply(THING), Created[Thing]),
        (Created(None), Created[Thing]),
        (Created([None]), Created[list[Thing]]),
        (THING, None),
        (THING, Response),
    ],
    ids=repr,
)
def test_a_result_of_another_type_is_an_internal_error(result: object, kind: object) -> None:
    response = answer(result, kind)
    problem(response, 500)
    assert not re.search("hunter2|Thing|pydantic", response.text)


def test_a_field_that_a_subclass_adds_does_not_go_out() -> None:
    assert answer(Secret(name="a", colour=Colour.RED, secret="hunter2")).get_json() == TREE  # noqa: S106


def test_a_model_refuses_to_hold_nan() -> None:
    with pytest.raises(ValueError, match="finite"):
        Ratio(value=float("nan"))


def test_a_list_goes_out() -> None:
    assert answer([THING], list[Thing]).get_json() == [TREE]


def test_a_reply_adds_headers(lab: FlaskClient) -> None:
    assert lab.get("/lab/things").headers["X-Total"] == "1"


def test_created_is_201_with_its_location(lab: FlaskClient) -> None:
    response = lab.post("/lab/items", json=ITEM)
    assert (response.status_code, response.headers["Location"]) == (201, "/lab/items/a")


def test_none_is_204_without_a_type(lab: FlaskClient) -> None:
    response = lab.delete("/lab/items/a")
    assert (response.status_code, response.data, "Content-Type" in response.headers) == (204, b"", False)


def test_a_response_goes_out_as_it_is() -> None:
    assert answer(Response("raw", 218), Response).status_code == 218


# What is refused at import


async def asynchronous() -> Thing:
    return THING


def unannotated(number):  # type: ignore[no-untyped-def]
    return number


def surplus(number: str, other: str) -> Thing:
    return Thing(name=number + other, colour=Colour.RED)


def mistyped(number: int) -> Thing:
    return Thing(name=str(number), colour=Colour.RED)


def with_body(number: str, body: Thing) -> Thing:
    return Thing(name=number, colour=body.colour)


def with_dict(number: str, query: dict[str, str]) -> Thing:
    return Thing(name=number, colour=Colour(query["colour"]))


def union(number: str) -> Thing | Box:
    return THING if number else Box(kind="box", width=1)


def plain(number: str) -> list[int]:
    return [int(number)]


def bare(number: str) -> Created:  # type: ignore[type-arg]
    return Created(Thing(name=number, colour=Colour.RED))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (asynchronous, "asynchronous is async"),
        (unannotated, r"unannotated has no annotation for \['number', 'return'\]"),
        (surplus, r"surplus and its rule /<number> do not agree: \['other'\] must be in both"),
        (mistyped, r"mistyped takes \['number'\] as another type than its rule /<number> gives"),
        (with_body, "with_body takes a body, which a GET request has not"),
        (with_dict, "with_dict must take query and headers as models"),
        (union, "union returns .*must be a model"),
        (plain, "plain returns .*must be a model"),
        (bare, "bare returns .*must be a model"),
    ],
)
def test_a_view_without_a_clear_contract_is_refused(view: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Contract(view, "GET", "/<number>", ())


def test_a_decorated_view_is_the_function_itself() -> None:
    assert create_item(Item.model_validate_json(json.dumps(ITEM))).status == 201


# How errors look


IDS = {"request_id": "r1", "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}


def failing(error: BaseException) -> Service:
    app = Service(__name__)
    problems.init_app(app)

    @app.get("/fail")
    def fail() -> Response:
        raise error

    return app


def test_an_unknown_path_is_a_problem(lab: FlaskClient) -> None:
    assert problem(lab.get("/v%C3%A9"), 404).instance == "/v\N{LATIN SMALL LETTER E WITH ACUTE}"


def test_a_path_that_is_not_utf8_is_a_problem(lab: FlaskClient) -> None:
    assert problem(lab.get("/%ff"), 404).instance == "/\N{REPLACEMENT CHARACTER}"


def test_a_wrong_method_is_a_problem_that_lists_the_right_ones(lab: FlaskClient) -> None:
    response = lab.put("/lab/jobs")
    problem(response, 405)
    assert response.allow == {"POST", "OPTIONS"}


def test_a_foreign_host_is_a_problem(lab: FlaskClient) -> None:
    lab.application.config["TRUSTED_HOSTS"] = ["example.org"]
    problem(lab.get("/lab/things"), 400)


def test_a_doubled_slash_is_not_found(lab: FlaskClient) -> None:
    problem(lab.get("/lab//things"), 404)


def test_a_trailing_slash_too_much_is_not_found(lab: FlaskClient) -> None:
    problem(lab.get("/lab/things/"), 404)


def test_a_trailing_slash_too_few_is_a_redirect_without_html(lab: FlaskClient) -> None:
    response = lab.get("/lab/raw")
    assert (response.status_code, response.location, response.data) == (308, "http://localhost/lab/raw/", b"")


def test_head_has_the_headers_of_get(lab: FlaskClient) -> None:
    get, head = lab.get("/lab/things"), lab.head("/lab/things")
    assert (head.status_code, head.data, list(head.headers)) == (200, b"", list(get.headers))


def test_head_of_a_problem_has_no_body(lab: FlaskClient) -> None:
    response = lab.head("/none")
    assert (response.status_code, response.content_type, response.data) == (404, problems.MEDIA_TYPE, b"")


def test_options_lists_the_methods(lab: FlaskClient) -> None:
    response = lab.options("/lab/jobs")
    assert (response.status_code, response.allow, response.data) == (204, {"POST", "OPTIONS"}, b"")
    assert "Content-Type" not in response.headers


def test_an_unexpected_error_tells_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    response = failing(ZeroDivisionError("hunter2")).test_client().get("/fail")
    assert problem(response, 500).detail is MISSING
    assert [(r.name, r.levelno, r.exc_info is not None) for r in caplog.records] == [("service", logging.ERROR, True)]


def test_the_validation_of_other_data_is_an_internal_error() -> None:
    with pytest.raises(ValueError, match="validation") as error:
        Thing.model_validate({})
    problem(failing(error.value).test_client().get("/fail"), 500)


def test_a_server_error_keeps_its_detail_to_itself() -> None:
    response = failing(ServiceUnavailable("hunter2", retry_after=3)).test_client().get("/fail")
    assert problem(response, 503).detail is MISSING


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (ServiceUnavailable(retry_after=3), ("Retry-After", "3")),
        (
            Unauthorized(www_authenticate=WWWAuthenticate("bearer", {"realm": "a"})),
            ("WWW-Authenticate", "Bearer realm=a"),
        ),
    ],
)
def test_an_error_keeps_its_headers(error: Exception, header: tuple[str, str]) -> None:
    assert header in failing(error).test_client().get("/fail").headers.items()


def test_an_error_with_a_response_of_its_own_goes_out_as_it_is() -> None:
    assert failing(Conflict(response=Response("mine"))).test_client().get("/fail").text == "mine"


def test_a_view_can_point_at_what_is_wrong() -> None:
    response = failing(Invalid({"detail": "no", "pointer": "/a"})).test_client().get("/fail")
    problem(response, 422)
    assert response.get_json()["errors"] == [{"detail": "no", "pointer": "/a"}]


def test_a_problem_carries_the_ids_of_its_request(lab: FlaskClient) -> None:
    logs.request_ids.set(IDS)
    document = problem(lab.get("/none"), 404)
    logs.request_ids.set({})
    assert (document.request_id, document.trace_id) == (IDS["request_id"], IDS["trace_id"])


def test_an_error_outside_flask_is_the_same_problem() -> None:
    environ = {"PATH_INFO": "/\u00c3\u00a9"}
    status, body, headers = problems.outside_flask(ServiceUnavailable("hunter2", retry_after=1), environ)
    document = problems.Problem.model_validate_json(body, extra="forbid")
    assert (status, document.instance, document.detail) == ("503 Service Unavailable", "/\u00e9", MISSING)
    assert {("Retry-After", "1"), ("Content-Type", problems.MEDIA_TYPE)} <= set(headers)


def test_an_unexpected_error_outside_flask_is_a_500() -> None:
    assert problems.outside_flask(InternalServerError(), {"PATH_INFO": "/"})[0] == "500 Internal Server Error"


def test_an_empty_path_is_the_root() -> None:
    body = problems.outside_flask(InternalServerError(), {"PATH_INFO": ""})[1]
    assert problems.Problem.model_validate_json(body).instance == "/"


# What stock Flask does and a service does not


def test_no_cookie_is_set_and_the_session_refuses_changes() -> None:
    app = Service(__name__)
    app.secret_key = "x"  # noqa: S105

    @app.get("/")
    def change() -> dict[str, bool]:
        with pytest.raises(RuntimeError):
            session["a"] = 1
        return {"empty": not session}

    response = app.test_client().get("/")
    assert (response.get_json(), "Set-Cookie" in response.headers) == ({"empty": True}, False)


def test_an_empty_service_has_no_routes_of_its_own() -> None:
    assert list(Service(__name__).url_map.iter_rules()) == []


def test_a_plain_view_answers_with_strict_json() -> None:
    app = Service(__name__)
    app.add_url_rule("/", view_func=lambda: {"at": datetime(2026, 1, 1, tzinfo=UTC)})
    assert app.test_client().get("/").get_json() == {"at": "2026-01-01T00:00:00+00:00"}


def test_json_can_be_written_and_read() -> None:
    assert Service(__name__).json.loads(Service(__name__).json.dumps({"a": 1})) == {"a": 1}


# What the document says


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document(lab_app(), "Lab", "1", "Try")


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_the_served_document_is_valid(client: FlaskClient) -> None:
    OpenAPIV31SpecValidator(client.get("/openapi.json").get_json()).validate()


def test_the_served_document_is_the_committed_one(client: FlaskClient) -> None:
    assert client.get("/openapi.json").get_json() == json.loads(COMMITTED.read_text("utf-8")), "run `make openapi`"


def test_the_document_names_each_operation_after_its_view(document: dict[str, Any]) -> None:
    operation = document["paths"]["/lab/items/{number}"]["delete"]
    names = {"operationId": "lab_delete_item", "tags": ["lab"], "summary": "Delete an item."}
    assert {**operation, **names, "description": "It is gone for good."} == operation


def test_the_document_describes_every_method_and_no_other(document: dict[str, Any]) -> None:
    assert {path: set(item) for path, item in document["paths"].items()} == {
        "/lab/items": {"get", "post", "put"},
        "/lab/items/{number}": {"patch", "delete"},
        "/lab/jobs": {"post"},
        "/lab/things": {"get"},
        "/lab/raw/": {"get"},
    }


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/lab/items", "post", ["201", "400", "413", "415", "422", "default"]),
        ("/lab/items", "get", ["200", "422", "default"]),
        ("/lab/items/{number}", "patch", ["200", "400", "404", "412", "413", "415", "422", "default"]),
        ("/lab/items/{number}", "delete", ["204", "404", "default"]),
        ("/lab/jobs", "post", ["201", "400", "413", "415", "422", "default"]),
        ("/lab/things", "get", ["200", "default"]),
    ],
)
def test_the_document_lists_the_statuses(document: dict[str, Any], path: str, method: str, statuses: list[str]) -> None:
    assert list(document["paths"][path][method]["responses"]) == statuses


def test_the_document_describes_errors_as_problems(document: dict[str, Any]) -> None:
    responses = document["paths"]["/lab/items/{number}"]["delete"]["responses"]
    assert responses["404"] == responses["default"] == {"$ref": "#/components/responses/Problem"}
    assert list(document["components"]["responses"]["Problem"]["content"]) == [problems.MEDIA_TYPE]


def test_the_document_gives_parameters_their_bounds_and_never_null(document: dict[str, Any]) -> None:
    assert document["paths"]["/lab/items"]["get"]["parameters"] == [
        {
            "name": "limit",
            "in": "query",
            "required": False,
            "description": "Most to return",
            "schema": {"default": 20, "maximum": 100, "minimum": 1, "type": "integer"},
        },
        {
            "name": "tag",
            "in": "query",
            "required": False,
            "schema": {"items": {"pattern": "^[^\\x00]*$", "type": "string"}, "type": "array"},
        },
        {"name": "colour", "in": "query", "required": False, "schema": {"$ref": "#/components/schemas/Colour"}},
        {
            "name": "text_part",
            "in": "query",
            "required": False,
            "schema": {"pattern": "^[^\\x00]*$", "type": "string"},
        },
    ]


def test_the_document_gives_path_and_header_their_names(document: dict[str, Any]) -> None:
    number, match = document["paths"]["/lab/items/{number}"]["patch"]["parameters"]
    assert number["schema"] == {"type": "integer", "minimum": 0, "maximum": 99}
    assert (match["name"], match["in"], match["schema"]) == (
        "if-match",
        "header",
        {"maxLength": 10, "pattern": "^[^\\x00]*$", "type": "string"},
    )


def test_the_document_has_each_model_once_and_no_parameters_among_them(document: dict[str, Any]) -> None:
    models = set(document["components"]["schemas"])
    assert models == {"Box", "Change", "Colour", "Default", "Fault", "Item", "Problem", "Thing", "Tube"}


def test_the_document_announces_the_location_of_what_was_created(document: dict[str, Any]) -> None:
    assert "Location" in document["paths"]["/lab/items"]["post"]["responses"]["201"]["headers"]


def test_the_document_knows_no_null_where_a_field_may_be_absent(document: dict[str, Any]) -> None:
    assert "null" not in json.dumps(document["components"]["schemas"]["Change"])


def test_two_models_of_one_name_are_refused() -> None:
    other = create_model("Thing", __base__=Model, __module__="elsewhere", other=(int, ...))
    app, blueprint = lab_app(), Blueprint("other", __name__)

    def view() -> Any:
        return other.model_construct()

    view.__annotations__["return"] = other
    Routes(blueprint).get("/other")(view)
    app.register_blueprint(blueprint)
    with pytest.raises(TypeError, match="two models are called Thing"):
        openapi.document(app, "Lab", "1", "Try")


# The page


def test_the_page_needs_no_other_host_and_no_inline_script(client: FlaskClient) -> None:
    response = client.get("/docs/")
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' data:;")
    assert not re.search(r"https?:|//|<script>|<style|\son\w+=", response.text)


def test_the_page_gets_all_it_links_to(client: FlaskClient) -> None:
    links = re.findall(r'(?:href|src)="(?!data:)([^"]+)"', client.get("/docs/").text)
    answers = [client.get(f"/docs/{link}") for link in links]
    types = {"css": "text/css", "js": "text/javascript"}
    assert [(a.status_code, a.mimetype) for a in answers] == [(200, types[n.split(".")[-1]]) for n in links]
    assert len(links) == 4


def test_an_asset_is_sent_once(client: FlaskClient) -> None:
    tag = client.get("/docs/swagger-ui.css").headers["ETag"]
    assert client.get("/docs/swagger-ui.css", headers={"If-None-Match": tag}).status_code == 304


def test_the_page_has_no_other_files(client: FlaskClient) -> None:
    problem(client.get("/docs/LICENSE"), 404)


# That the document and the service agree, on every route there is


def fuzzed(app: Service) -> BaseSchema:
    """The document that `app` serves, and with which statuses it may refuse a request that the document allows."""
    allowed = ["2xx", 401, 403, 404, 409, 412, 428, 429]
    views = ((rule, app.view_functions[rule.endpoint]) for rule in app.url_map.iter_rules())
    # They raise 422 themselves, by rules that no schema can state.
    refusing = [rule.endpoint.replace(".", "_") for rule, v in views if isinstance(v, Contract) and 422 in v.raises]
    by_rule = {
        "include-operation-id": refusing,
        "checks": {"positive_data_acceptance": {"expected-statuses": [*allowed, 422]}},
    }
    config = {
        "checks": {"positive_data_acceptance": {"expected-statuses": allowed}},
        "operations": [by_rule] if refusing else [],
    }
    return schemathesis.openapi.from_wsgi("/openapi.json", app, config=SchemathesisConfig.from_dict(config))


@fuzzed(create_app(Settings(log_level="ERROR"))).parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_conforms_to_the_document(case: Case[Any]) -> None:
    case.call_and_validate()

"""Typed views: what goes out, which views are refused at import, and how errors look."""

import functools
import json
import logging
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Unpack

import pytest
from flask import Blueprint, Response, abort
from flask.testing import FlaskClient
from lab import ITEM
from lab import THING
from lab import TREE
from lab import Box
from lab import Closed
from lab import Colour
from lab import Item
from lab import NewPhoto
from lab import OnHold
from lab import OutOfStock
from lab import Thing
from lab import create_item
from lab import fill_vault
from lab import lab_app
from lab import problem
from pydantic import MISSING
from support import SAMPLED
from support import TRACE
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    Conflict,
    HTTPException,
    InternalServerError,
    ServiceUnavailable,
    Unauthorized,
)
from werkzeug.test import TestResponse
from werkzeug.wrappers import Response as BaseResponse

from service.chassis.http import middleware
from service.chassis.http import problems
from service.chassis.http.access import Access
from service.chassis.http.application import Application
from service.chassis.http.problems import ProblemType
from service.chassis.http.routes import Contract, Created, Reply, Routes, TypedView
from service.chassis.http.validation import Invalid, Model
from service.chassis.server.settings import ServerSettings


class Ratio(Model):
    value: float


class Secret(Thing):
    secret: str


def answer(result: Any, kind: Any = Thing, **contract: Unpack[Contract]) -> TestResponse:
    """Return what is sent where the only view returns `result` and is annotated with `kind`."""

    def view() -> Any:
        return result

    view.__annotations__["return"] = kind
    app = Application(__name__)
    blueprint = Blueprint("one", __name__)
    problems.init_app(app)
    Routes(blueprint).get("/", **contract)(view)
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
        (Reply(TREE, encoded=b"{}"), Reply[Thing]),
        (Reply([None], encoded=b"[]"), Reply[list[Thing]]),
        (THING, None),
        (THING, Response),
    ],
    ids=repr,
)
def test_a_result_of_another_type_is_an_internal_error(result: object, kind: object) -> None:
    response = answer(result, kind)
    problem(response, 500)
    assert not re.search("hunter2|Thing|pydantic", response.text)


def test_the_encoded_body_of_a_reply_goes_out_as_it_is() -> None:
    response = answer(Reply(THING, encoded=b'{"name" : "stored"}'), Reply[Thing])
    assert (response.data, response.mimetype) == (b'{"name" : "stored"}', "application/json")


def test_a_field_that_a_subclass_adds_does_not_go_out() -> None:
    thing = Secret(name="a", colour=Colour.RED, secret="hunter2")  # noqa: S106
    assert answer(thing).get_json() == TREE


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
    assert (response.status_code, response.data) == (204, b"")
    assert "Content-Type" not in response.headers


def test_a_response_goes_out_as_it_is() -> None:
    assert answer(Response("raw", 218), Response, produces="text/html").status_code == 218


def test_a_stream_goes_out_with_its_type_and_in_the_context_of_its_request(
    lab: FlaskClient,
) -> None:
    response = lab.get("/lab/export")
    assert (response.status_code, response.mimetype) == (200, "text/csv")
    assert response.text == "name,app\r\n/lab/export,lab\r\n"


def test_a_stream_may_be_a_reply_with_headers(lab: FlaskClient) -> None:
    response = lab.get("/lab/events")
    assert (response.mimetype, response.data) == (
        "text/event-stream",
        b"data: 1\n\ndata: 2\n\n",
    )
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/lab/export", "/lab/events", "/lab/file"])
def test_what_is_streamed_gives_its_slot_back_when_a_test_client_has_read_it(path: str) -> None:
    app = lab_app()
    middleware.init_app(app, ServerSettings(concurrency=1))
    client = app.test_client()
    for _ in range(3):
        response = client.get(path)
        assert (response.status_code, bool(response.data)) == (200, True)
        assert client.head(path).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status", "data"),
    [
        ({}, 200, b"0123456789"),
        ({"Range": "bytes=2-4"}, 206, b"234"),
        ({"Range": "bytes=2-4", "If-Range": '"v0"'}, 200, b"0123456789"),
        ({"If-None-Match": '"v1"'}, 304, b""),
    ],
)
def test_a_file_is_sent_in_parts_and_only_where_it_is_not_known(
    lab: FlaskClient, headers: dict[str, str], status: int, data: bytes
) -> None:
    response = lab.get("/lab/file", headers=headers)
    assert (response.status_code, response.data) == (status, data)
    assert response.headers["ETag"] == '"v1"'


def test_a_range_that_a_file_has_not_is_a_problem_with_its_length(lab: FlaskClient) -> None:
    response = lab.get("/lab/file", headers={"Range": "bytes=20-30"})
    problem(response, 416)
    assert response.headers["Content-Range"] == "bytes */10"


@pytest.mark.parametrize(
    ("result", "kind", "produces", "status"),
    [
        (Response("x", mimetype="text/csv"), Response, "text/csv", 200),
        (Response("x", mimetype="image/png"), Response, "image/*", 200),
        (Response(iter("x"), mimetype="text/csv"), Response, "text/plain", 500),
        (Response("x", mimetype="text/csv"), Response, "image/*", 500),
        (Response("x", mimetype="text/csv"), Response, "", 500),
        (Response("{}", mimetype="application/json"), Thing, "", 200),
        (Response("x", mimetype="text/csv"), Thing, "", 500),
        (Response(status=202), Response, "", 202),
        (Response("gone", 303), Response, "text/csv", 303),
        (["x"], Iterator[str], "text/csv", 500),
        (Response("x", mimetype="text/csv"), Iterator[str], "text/csv", 200),
        (Response("x", mimetype="text/html"), Iterator[str], "text/csv", 500),
    ],
)
def test_an_answer_of_a_type_that_is_not_declared_is_an_internal_error(
    result: Any, kind: Any, produces: str, status: int
) -> None:
    assert answer(result, kind, produces=produces).status_code == status


def test_a_stream_of_a_decorated_view_is_of_the_declared_type_too() -> None:
    def view() -> Iterator[str]:
        yield "x"

    wrapped = deciding(Response("no", mimetype="text/html"))(view)
    with pytest.raises(TypeError, match="view answered with text/html: must say so"):
        TypedView(wrapped, "GET", "/", produces="text/csv")()


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


def with_form(number: str, form: Thing) -> Thing:
    return Thing(name=number, colour=form.colour)


def with_both(number: str, body: Thing, form: Thing) -> Thing:
    return Thing(name=number + body.name, colour=form.colour)


def with_fields(number: str, form: dict[str, str]) -> Thing:
    return Thing(name=number, colour=Colour(form["colour"]))


def with_file(number: str, form: NewPhoto) -> Thing:
    return Thing(name=number + form.title, colour=Colour.RED)


def untyped(number: str) -> Iterator[str]:
    yield number


def endless(number: str) -> Iterator:  # type: ignore[type-arg]
    yield number


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
        (with_dict, "with_dict must take form, query and headers as models"),
        (with_form, "with_form takes a body, which a GET request has not"),
        (untyped, "untyped streams: must say what"),
        (endless, "endless returns .*must be a model"),
        (union, "union returns .*must be a model"),
        (plain, "plain returns .*must be a model"),
        (bare, "bare returns .*must be a model"),
    ],
)
def test_a_view_without_a_clear_contract_is_refused(view: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TypedView(view, "GET", "/<number>")


@pytest.mark.parametrize(
    ("view", "contract", "message"),
    [
        (with_both, {}, "with_both takes a body and a form: a request has one"),
        (with_fields, {}, "with_fields must take form, query and headers as models"),
        (with_file, {}, "with_file takes files: must say how much, as in max_body_size="),
        (with_form, {"produces": "text/csv"}, "with_form returns models, which are JSON"),
        (untyped, {"produces": "text/*"}, "untyped streams: must say what"),
        (untyped, {"produce": "text/csv"}, "unexpected keyword argument 'produce'"),
    ],
)
def test_a_contract_that_does_not_fit_its_view_is_refused(
    view: Any, contract: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        TypedView(view, "POST", "/<number>", **contract)


def test_a_decorated_view_is_the_function_itself() -> None:
    assert create_item(Item.model_validate_json(json.dumps(ITEM))).status == 201


def deciding(decision: Any) -> Callable[[Any], Any]:
    """Make a decorator that answers in place of the view, as those of extensions do."""

    def decorate(view: Any) -> Any:
        @functools.wraps(view)
        def decide(**arguments: Any) -> Any:
            return decision or view(**arguments)

        return decide

    return decorate


@pytest.mark.parametrize(
    ("decision", "status", "text"),
    [
        (None, 200, "raw"),
        (Response("no", 401), 401, "no"),
        (BaseResponse("no", 401), 401, "no"),
        (("no", 401), 401, "no"),
        (({"a": 1}, 401, {"X-A": "1"}), 401, '{"a":1}\n'),
    ],
)
@pytest.mark.parametrize("kind", [Response, Thing, Created[Thing], None])
def test_an_answer_of_a_decorator_goes_out(
    decision: Any, status: int, text: str, kind: Any
) -> None:
    def view() -> Any:
        return Response("raw")

    view.__annotations__["return"] = kind
    app = Application(__name__)
    blueprint = Blueprint("one", __name__)
    Routes(blueprint).get("/")(deciding(decision)(view))
    app.register_blueprint(blueprint)
    answered = app.test_client().get("/")
    assert (answered.status_code, answered.text) == (status, text)


def test_a_view_itself_gives_no_tuple() -> None:
    problem(answer((TREE, 201), Response), 500)


def fail_with(error: BaseException) -> TestResponse:
    """Return what is sent where the only view raises `error`."""
    app = Application(__name__)
    problems.init_app(app)

    @app.get("/fail/<secret>")
    def fail(secret: str) -> Response:
        raise error

    return app.test_client().get("/fail/hunter2")


@pytest.mark.parametrize(
    ("given", "kind"), [("none", OutOfStock), ("held", OnHold), ("closed", Closed)]
)
def test_a_problem_type_of_ones_own_has_type_title_and_members(
    lab: FlaskClient, given: str, kind: type[ProblemType]
) -> None:
    response = lab.post("/lab/sales", json={"default": given})
    detail = {"detail": "Two are left."} if kind.code < 500 else {}
    assert (response.status_code, response.mimetype) == (kind.code, problems.MEDIA_TYPE)
    assert response.get_json() == {
        "type": kind.type,
        "title": kind.title,
        "status": kind.code,
        "instance": "/lab/sales",
        "left": 0,
        "until": "2026-01-31",
        **detail,
    }


def test_a_problem_without_a_type_of_its_own_is_told_by_its_status(lab: FlaskClient) -> None:
    document = problem(lab.post("/lab/sales", json={"default": "plain"}), 409)
    assert (document.type, document.title) == ("about:blank", "Conflict")


@pytest.mark.parametrize("code", [409, Conflict, OutOfStock])
def test_a_handler_of_the_owner_may_answer_a_type_of_ones_own(code: Any) -> None:
    app = lab_app()
    app.register_error_handler(code, lambda error: {"mine": error.title})
    answered = app.test_client().post("/lab/sales", json={"default": "none"})
    assert answered.get_json() == {"mine": "Out of stock"}


def test_a_problem_type_says_at_once_what_it_lacks() -> None:
    with pytest.raises(TypeError, match=r"Nameless must set \['type', 'title'\]"):
        type("Nameless", (ProblemType,), {"code": 409})


def test_a_member_of_any_kind_goes_out() -> None:
    response = fail_with(OutOfStock(price=Decimal("1.10")))
    assert response.get_json()["price"] == "1.10"


def test_a_route_with_a_scheme_lets_in_whom_its_check_knows(lab: FlaskClient) -> None:
    assert lab.get("/lab/vault", headers={"X-API-Key": "reader"}).get_json()["name"] == "the reader"


def test_a_route_with_a_scheme_refuses_others_before_it_looks_at_the_request(
    lab: FlaskClient,
) -> None:
    for response in (lab.get("/lab/vault"), lab.post("/lab/vault", data=b"{")):
        problem(response, 401)
        assert response.headers["WWW-Authenticate"].lower() == "key"


def test_a_route_asks_for_its_scopes(lab: FlaskClient) -> None:
    def fill(key: str) -> TestResponse:
        return lab.post("/lab/vault", json=TREE, headers={"X-API-Key": key})

    problem(fill("reader"), 403)
    assert fill("writer").get_json() == TREE


def test_a_route_may_be_open_where_its_blueprint_is_not(lab: FlaskClient) -> None:
    assert lab.get("/lab/vault/door").get_json() == TREE


def test_a_view_with_a_scheme_is_a_plain_function() -> None:
    assert fill_vault(THING) == THING


def test_a_scheme_that_is_only_named_is_refused() -> None:
    with pytest.raises(TypeError, match="surplus has security='key', which is no Security"):
        TypedView(surplus, "GET", "/", security="key")  # type: ignore[arg-type]


def test_an_unknown_path_is_a_problem(lab: FlaskClient) -> None:
    document = problem(lab.get("/v%C3%A9"), 404)
    assert document.instance == "/v\N{LATIN SMALL LETTER E WITH ACUTE}"


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


def test_a_trailing_slash_too_few_leads_to_it(lab: FlaskClient) -> None:
    response = lab.get("/lab/raw")
    assert (response.status_code, response.mimetype) == (308, "text/html")
    assert response.location == "raw/"


def test_head_has_the_headers_of_get(lab: FlaskClient) -> None:
    get = lab.get("/lab/things")
    head = lab.head("/lab/things")
    assert (head.status_code, head.data, list(head.headers)) == (200, b"", list(get.headers))


def test_head_of_a_problem_has_no_body(lab: FlaskClient) -> None:
    response = lab.head("/none")
    assert (response.status_code, response.data) == (404, b"")
    assert response.content_type == problems.MEDIA_TYPE


def test_options_lists_the_methods(lab: FlaskClient) -> None:
    response = lab.options("/lab/jobs")
    assert (response.status_code, response.data) == (200, b"")
    assert response.allow == {"POST", "OPTIONS"}


def test_an_unexpected_error_tells_nothing_and_is_logged_once_by_flask(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert problem(fail_with(ZeroDivisionError("lost")), 500).detail is MISSING
    (record,) = caplog.records
    assert (record.name, record.levelno) == (__name__, logging.ERROR)
    assert record.getMessage() == "Exception on /fail/hunter2 [GET]"
    assert record.exc_info


def test_an_unexpected_error_of_the_service_is_logged_by_the_applications_logger(
    app: Application, caplog: pytest.LogCaptureFixture
) -> None:
    app.add_url_rule("/fail", "fail", lambda: str(1 / 0))
    problem(app.test_client().get("/fail"), 500)
    assert [record.name for record in caplog.records] == ["service.app"]


@pytest.mark.parametrize("code", [404, HTTPException, Exception])
def test_a_handler_of_the_owner_answers_before_problems(code: Any) -> None:
    app = Application(__name__)
    problems.init_app(app)
    app.register_error_handler(code, lambda error: (f"mine: {error.code}", 404))
    assert app.test_client().get("/none").text == "mine: 404"


@pytest.mark.parametrize(
    ("give", "media_type"),
    [
        (lambda error: error, problems.MEDIA_TYPE),
        (lambda error: error.get_response(), "text/html"),
        (lambda error: ({"mine": error.code}, error.code), "application/json"),
    ],
    ids=["error", "page", "dictionary"],
)
def test_a_handler_may_give_all_that_flask_takes(give: Any, media_type: str) -> None:
    app = Application(__name__)
    problems.init_app(app)
    app.register_error_handler(404, give)
    answered = app.test_client().get("/none")
    assert (answered.status_code, answered.mimetype) == (404, media_type)


def test_an_error_that_a_view_returns_is_a_problem() -> None:
    app = Application(__name__)
    problems.init_app(app)
    app.add_url_rule("/", view_func=lambda: Conflict("taken"))
    assert problem(app.test_client().get("/"), 409).detail == "taken"


def test_an_error_without_a_status_is_an_internal_error() -> None:
    problem(fail_with(HTTPException("lost")), 500)


def test_the_validation_of_other_data_is_an_internal_error() -> None:
    with pytest.raises(ValueError, match="validation") as error:
        Thing.model_validate({})
    problem(fail_with(error.value), 500)


def test_a_server_error_keeps_its_detail_to_itself() -> None:
    response = fail_with(ServiceUnavailable("out of spoons", retry_after=3))
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
    assert header in fail_with(error).headers.items()


def test_an_error_with_a_response_of_its_own_goes_out_as_it_is() -> None:
    assert fail_with(Conflict(response=Response("mine"))).text == "mine"


class OwnBody(Conflict):
    """An error that writes its own answer."""

    def get_body(self, *_: object, **_options: object) -> str:
        return "own"


class OddErrors(Conflict):
    """An error with a method of the name of ours."""

    def errors(self) -> list[str]:
        return ["secret"]


def test_an_error_that_writes_its_own_answer_goes_out_as_it_is() -> None:
    response = fail_with(OwnBody())
    assert (response.status_code, response.text) == (409, "own")


@pytest.mark.parametrize("description", [ValueError("why"), b"why"], ids=repr)
@pytest.mark.parametrize("kind", [Conflict, OddErrors])
def test_whatever_describes_an_error_is_text(kind: type[Conflict], description: Any) -> None:
    assert "why" in str(problem(fail_with(kind(description)), 409).detail)


def test_a_view_can_point_at_what_is_wrong() -> None:
    response = fail_with(Invalid({"detail": "no", "pointer": "/a"}))
    problem(response, 422)
    assert response.get_json()["errors"] == [{"detail": "no", "pointer": "/a"}]


def test_a_problem_carries_the_ids_of_its_request() -> None:
    app = lab_app()
    access = Access(app.wsgi_app, app.readiness, app.telemetry)
    app.wsgi_app = access  # type: ignore[method-assign]
    headers = {"X-Request-ID": "r1", **SAMPLED}
    document = problem(app.test_client().get("/none", headers=headers), 404)
    assert (document.request_id, document.trace_id) == ("r1", TRACE)


def test_an_error_outside_flask_is_the_same_problem() -> None:
    error = ServiceUnavailable("out of spoons", retry_after=1)
    status, body, headers = problems.describe(error, {"PATH_INFO": "/\u00c3\u00a9"})
    document = problems.Problem.model_validate_json(body, extra="forbid")
    assert status == "503 Service Unavailable"
    assert (document.instance, document.detail) == ("/\u00e9", MISSING)
    assert {("Retry-After", "1"), ("Content-Type", problems.MEDIA_TYPE)} <= set(headers)


def test_an_unexpected_error_outside_flask_is_a_500() -> None:
    status, _, _ = problems.describe(InternalServerError(), {"PATH_INFO": "/"})
    assert status == "500 Internal Server Error"


def test_an_empty_path_is_the_root() -> None:
    _, body, _ = problems.describe(InternalServerError(), {"PATH_INFO": ""})
    assert problems.Problem.model_validate_json(body).instance == "/"


def test_an_error_before_the_first_piece_of_a_stream_is_the_answer() -> None:
    def view(number: int) -> Iterator[str]:
        if number:
            abort(404, "No such export.")
        yield "a"
        yield "b"

    app = Application(__name__)
    blueprint = Blueprint("late", __name__)
    Routes(blueprint).get("/late/<int:number>", produces="text/csv")(view)
    app.register_blueprint(blueprint)
    client = app.test_client()
    assert [client.get(f"/late/{number}").status_code for number in (0, 1)] == [200, 404]
    assert client.get("/late/0").data == b"ab"

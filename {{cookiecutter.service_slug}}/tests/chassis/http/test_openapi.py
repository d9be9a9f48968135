"""The API's document and its page, and that the document and the service agree."""

import json
import re
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urljoin

import pytest
import schemathesis
from flask import Blueprint, abort
from flask.testing import FlaskClient
from hypothesis import HealthCheck
from hypothesis import settings
from lab import API_KEY
from lab import Closed
from lab import OnHold
from lab import OutOfStock
from lab import lab_app
from lab import list_things
from lab import problem
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import MISSING, Field, create_model
from schemathesis import BaseSchema
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from support import ROOT
from werkzeug.datastructures import FileStorage

from service.app import create_app
from service.chassis.http import openapi
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.chassis.http.routes import Routes, SecurityScheme, TypedView
from service.chassis.http.uploads import FileLimits
from service.chassis.http.validation import Model
from service.chassis.telemetry import logs
from service.settings import Settings

TEXT = {"pattern": "^[^\\x00]*$", "type": "string"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The lab's document."""
    return openapi.make_document(lab_app(), "Lab", "1", "Try")


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_the_served_document_is_valid(client: FlaskClient) -> None:
    OpenAPIV31SpecValidator(client.get("/openapi.json").get_json()).validate()


def test_the_served_document_is_the_committed_one(client: FlaskClient) -> None:
    committed = json.loads((ROOT / "openapi.json").read_text("utf-8"))
    assert client.get("/openapi.json").get_json() == committed, "run `make openapi`"


def test_the_document_names_each_operation_after_its_view(document: dict[str, Any]) -> None:
    operation = document["paths"]["/lab/items/{number}"]["delete"]
    names = {
        "operationId": "lab_delete_item",
        "tags": ["lab"],
        "summary": "Delete an item.",
        "description": "It is gone for good.",
    }
    assert operation | names == operation


def test_the_document_describes_every_method_and_no_other(document: dict[str, Any]) -> None:
    assert {path: set(item) for path, item in document["paths"].items()} == {
        "/lab/items": {"get", "post", "put"},
        "/lab/items/{number}": {"patch", "delete"},
        "/lab/jobs": {"post"},
        "/lab/sales": {"post"},
        "/lab/stays": {"get", "post"},
        "/lab/things": {"get"},
        "/lab/things/{name}": {"get"},
        "/lab/photos": {"post"},
        "/lab/logins": {"post"},
        "/lab/large": {"put"},
        "/lab/export": {"get"},
        "/lab/events": {"get"},
        "/lab/file": {"get"},
        "/lab/raw/": {"get"},
        "/lab/vault": {"get", "post"},
        "/lab/vault/door": {"get"},
    }


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/lab/items", "post", "201 400 413 415 422 default"),
        ("/lab/items", "get", "200 422 default"),
        ("/lab/items/{number}", "patch", "200 400 404 412 413 415 422 default"),
        ("/lab/items/{number}", "delete", "204 404 default"),
        ("/lab/jobs", "post", "201 400 413 415 422 default"),
        ("/lab/things", "get", "200 304 default"),
        ("/lab/sales", "post", "204 400 409 413 415 422 503 default"),
        ("/lab/vault", "get", "200 401 403 default"),
        ("/lab/vault/door", "get", "200 default"),
        ("/lab/photos", "post", "200 400 413 415 422 default"),
        ("/lab/file", "get", "200 206 304 416 default"),
    ],
)
def test_the_document_lists_the_statuses(
    document: dict[str, Any], path: str, method: str, statuses: str
) -> None:
    assert " ".join(document["paths"][path][method]["responses"]) == statuses


def test_the_document_describes_a_form_with_files(document: dict[str, Any]) -> None:
    body = document["paths"]["/lab/photos"]["post"]["requestBody"]
    (content,) = [body["content"].pop("multipart/form-data")]
    assert body == {"required": True, "content": {}}
    assert content["encoding"] == {"photo": {"contentType": "image/png, image/jpeg"}}
    file = {
        "type": "string",
        "format": "binary",
        "contentMediaType": "application/octet-stream",
    }
    fields = content["schema"]["properties"]
    assert fields["photo"] == file | {"maxLength": 20_000}
    assert fields["more"] == {"type": "array", "items": file, "maxItems": 2}
    assert fields["caption"] == file | {"maxLength": 10}
    assert content["schema"]["required"] == ["title", "photo"]
    assert content["schema"]["additionalProperties"] is False


def test_the_document_gives_the_types_of_a_file_under_its_alias() -> None:
    alone = FileLimits(media_types=("text/csv",))
    table: Any = (Annotated[FileStorage, alone], Field(validation_alias="from"))
    sheet = create_model("Sheet", __base__=Model, table=table)

    def send(form: Any) -> None:
        """Send a sheet."""

    send.__annotations__["form"] = sheet
    app = Application(__name__)
    blueprint = Blueprint("sheets", __name__)
    Routes(blueprint).post("/", max_body_size=1000)(send)
    app.register_blueprint(blueprint)
    body = openapi.make_document(app, "Lab", "1", "Try")["paths"]["/"]["post"]["requestBody"]
    content = body["content"]["multipart/form-data"]
    assert set(content["schema"]["properties"]) == {"from"}
    assert content["encoding"] == {"from": {"contentType": "text/csv"}}


def test_the_document_describes_a_form_without_files_in_both_types(
    document: dict[str, Any],
) -> None:
    content = document["paths"]["/lab/logins"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/x-www-form-urlencoded"}
    fields = content["application/x-www-form-urlencoded"]["schema"]["properties"]
    assert fields == {"name": TEXT | {"minLength": 1}, "days": {"type": "integer"}}


@pytest.mark.parametrize(
    ("path", "status", "media_type", "content"),
    [
        ("/lab/export", "200", "text/csv", {"schema": {"type": "string"}}),
        ("/lab/events", "200", "text/event-stream", {}),
        ("/lab/file", "200", "image/*", {"schema": {"type": "string", "format": "binary"}}),
        ("/lab/file", "206", "image/*", {"schema": {"type": "string", "format": "binary"}}),
    ],
)
def test_the_document_names_what_a_route_produces(
    document: dict[str, Any], path: str, status: str, media_type: str, content: dict[str, Any]
) -> None:
    answer = document["paths"][path]["get"]["responses"][status]
    assert answer["content"] == {media_type: content}


def test_the_document_describes_errors_as_problems(document: dict[str, Any]) -> None:
    responses = document["paths"]["/lab/items/{number}"]["delete"]["responses"]
    assert responses["404"] == responses["default"] == {"$ref": "#/components/responses/Problem"}
    content = document["components"]["responses"]["Problem"]["content"]
    assert list(content) == [problems.MEDIA_TYPE]


def test_the_document_gives_parameters_their_bounds_and_never_null(
    document: dict[str, Any],
) -> None:
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
            "schema": {"items": TEXT, "type": "array"},
        },
        {
            "name": "colour",
            "in": "query",
            "required": False,
            "schema": {"$ref": "#/components/schemas/Colour"},
        },
        {"name": "text_part", "in": "query", "required": False, "schema": TEXT},
    ]


def test_a_parameter_keeps_its_types_and_a_default_that_is_not_null() -> None:
    class Sizes(Model):
        size: int | bool | None = Field(5, deprecated=True)

    app = Application(__name__)
    blueprint = Blueprint("sizes", __name__)

    def search(query: Sizes) -> None:
        """Search."""

    search.__annotations__["query"] = Sizes
    Routes(blueprint).get("/")(search)
    app.register_blueprint(blueprint)
    paths = openapi.make_document(app, "Lab", "1", "Try")["paths"]
    (parameter,) = paths["/"]["get"]["parameters"]
    assert parameter["deprecated"]
    assert parameter["schema"] == {
        "anyOf": [{"type": "integer"}, {"type": "boolean"}],
        "default": 5,
    }


def test_the_document_gives_path_and_header_their_names(document: dict[str, Any]) -> None:
    number, match = document["paths"]["/lab/items/{number}"]["patch"]["parameters"]
    assert number["schema"] == {"type": "integer", "minimum": 0, "maximum": 99}
    assert (match["name"], match["in"]) == ("if-match", "header")
    assert match["schema"] == {"maxLength": 10, **TEXT}


def test_the_document_gives_fields_and_parameters_their_aliases(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/lab/stays"]["get"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["from", "day", "X-Agent"]
    assert "from" in document["components"]["schemas"]["Stay-Output"]["properties"]


@pytest.mark.parametrize(
    ("name", "required", "is_closed"),
    [
        ("Stay-Input", ["from"], True),
        ("Stay-Output", ["from", "nights"], False),
        ("Change", [], True),
        ("Thing-Output", ["name", "colour"], False),
        ("Problem", ["type", "title", "status", "instance"], False),
    ],
)
def test_requests_are_closed_and_answers_may_get_more_fields(
    document: dict[str, Any], name: str, required: list[str], is_closed: bool
) -> None:
    model = document["components"]["schemas"][name]
    found = (model.get("required", []), model.get("additionalProperties") is False)
    assert found == (required, is_closed)


@pytest.mark.parametrize(
    ("hint", "default", "is_required"),
    [
        (str | None, None, True),
        (str | MISSING, MISSING, False),
        (str | MISSING | None, None, False),
        (Annotated[str | MISSING, Field(description="Why")], MISSING, False),
        (datetime | MISSING, MISSING, False),
    ],
)
def test_an_answer_always_has_what_cannot_be_missing(
    hint: Any, default: Any, is_required: bool
) -> None:
    model = create_model("Answer", __base__=Model, value=(hint, default))
    schema = model.model_json_schema(mode="serialization", schema_generator=openapi.Schema)
    assert ("value" in schema.get("required", ())) == is_required


def test_the_document_has_each_model_once_and_no_parameters_among_them(
    document: dict[str, Any],
) -> None:
    in_both_directions = {"Box", "Item", "Stay", "Thing", "Tube"}
    others = {"Change", "Colour", "Default", "Problem", "ProblemError"}
    split = {f"{name}-{way}" for name in in_both_directions for way in ("Input", "Output")}
    assert set(document["components"]["schemas"]) == others | split


def test_the_document_announces_the_location_of_what_was_created(document: dict[str, Any]) -> None:
    created = document["paths"]["/lab/items"]["post"]["responses"]["201"]
    assert "Location" in created["headers"]


def test_the_document_names_the_headers_of_an_answer(document: dict[str, Any]) -> None:
    responses = document["paths"]["/lab/things"]["get"]["responses"]
    assert set(responses["200"]["headers"]) == {"ETag", "X-Total"}
    assert set(responses["304"]["headers"]) == {"ETag"}
    assert "headers" not in document["paths"]["/lab/stays"]["get"]["responses"]["200"]


def test_the_document_says_that_a_refusal_may_name_a_time_to_wait(document: dict[str, Any]) -> None:
    assert set(document["components"]["responses"]["Problem"]["headers"]) == {"Retry-After"}


@pytest.mark.parametrize(
    ("status", "description", "types"),
    [
        (
            "409",
            "Out of stock, or On hold, or Conflict",
            [OutOfStock.type, OnHold.type, "about:blank"],
        ),
        ("503", "Closed", [Closed.type]),
    ],
)
def test_the_document_lists_the_problem_types_of_a_status(
    document: dict[str, Any], status: str, description: str, types: list[str]
) -> None:
    response = document["paths"]["/lab/sales"]["post"]["responses"][status]
    base, own = response["content"][problems.MEDIA_TYPE]["schema"]["allOf"]
    assert response["description"] == description
    assert base == {"$ref": "#/components/schemas/Problem"}
    assert own["properties"]["type"] == {"enum": types}


def test_the_document_says_who_may_call(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"] == {"api_key": API_KEY.document}
    paths = document["paths"]
    assert paths["/lab/vault"]["get"]["security"] == [{"api_key": []}]
    assert paths["/lab/vault"]["post"]["security"] == [{"api_key": ["write"]}]
    assert "security" not in paths["/lab/vault/door"]["get"]


def test_two_security_schemes_of_one_name_are_refused() -> None:
    app = lab_app()
    blueprint = Blueprint("other", __name__)
    other = SecurityScheme("api_key", {"type": "http", "scheme": "bearer"}, str)
    Routes(blueprint, security=other).get("/other")(list_things)
    app.register_blueprint(blueprint)
    with pytest.raises(TypeError, match="two security schemes are called api_key"):
        openapi.make_document(app, "Lab", "1", "Try")


def test_the_document_knows_no_null_where_a_field_may_be_absent(document: dict[str, Any]) -> None:
    assert "null" not in json.dumps(document["components"]["schemas"]["Change"])


def test_two_models_of_one_name_are_refused() -> None:
    other = create_model("Thing", __base__=Model, __module__="elsewhere", other=(int, ...))
    app = lab_app()
    blueprint = Blueprint("other", __name__)

    def view() -> Any:
        return other.model_construct()

    view.__annotations__["return"] = other
    Routes(blueprint).get("/other")(view)
    app.register_blueprint(blueprint)
    with pytest.raises(TypeError, match="two models are called Thing"):
        openapi.make_document(app, "Lab", "1", "Try")


def test_two_routes_of_one_path_are_refused() -> None:
    def show(number: int) -> None:
        """Do nothing."""

    def name(number: str) -> None:
        """Do nothing."""

    app = Application(__name__)
    blueprint = Blueprint("twice", __name__)
    Routes(blueprint).get("/things/<int:number>")(show)
    Routes(blueprint).get("/things/<number>")(name)
    app.register_blueprint(blueprint)
    with pytest.raises(TypeError, match="two routes are GET /things/"):
        openapi.make_document(app, "Lab", "1", "Try")


def test_the_page_needs_no_other_host_and_no_inline_script(client: FlaskClient) -> None:
    response = client.get("/docs/")
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' data:;")
    assert not re.search(r"https?:|//|<script>|<style|\son\w+=", response.text)


def test_the_page_gets_all_it_links_to(client: FlaskClient) -> None:
    links = re.findall(r'(?:href|src)="(?!data:)([^"]+)"', client.get("/docs/").text)
    answers = [client.get(f"/docs/{link}") for link in links]
    types = {"css": "text/css", "js": "text/javascript"}
    expected = [(200, types[link.rpartition(".")[2]]) for link in links]
    assert [(answer.status_code, answer.mimetype) for answer in answers] == expected
    assert len(links) == 4


def test_an_asset_is_sent_once(client: FlaskClient) -> None:
    tag = client.get("/docs/swagger-ui.css").headers["ETag"]
    answer = client.get("/docs/swagger-ui.css", headers={"If-None-Match": tag})
    assert answer.status_code == 304


def test_the_root_leads_to_the_page() -> None:
    app = lab_app()
    openapi.init_app(app)
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "docs/")
    problem(app.test_client().post("/"), 404)


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("POST", 405)])
def test_a_view_of_the_root_comes_first(method: str, status: int) -> None:
    app = lab_app()
    openapi.init_app(app)
    app.add_url_rule("/", "mine", lambda: abort(404), methods=[method])
    problem(app.test_client().get("/"), status)


def test_the_document_names_paths_from_its_own_address(document: dict[str, Any]) -> None:
    address = "https://example.org/shop/openapi.json"
    assert urljoin(address, document["servers"][0]["url"]) == "https://example.org/shop/"


def test_the_page_has_no_other_files(client: FlaskClient) -> None:
    problem(client.get("/docs/LICENSE"), 404)


def load_schema(app: Application) -> BaseSchema:
    """Load what `app` serves, and with which statuses it may refuse what that allows."""
    allowed = ["2xx", 401, 403, 404, 409, 412, 428, 429]
    views = {
        endpoint.replace(".", "_"): view
        for endpoint, view in app.view_functions.items()
        if isinstance(view, TypedView)
    }
    # They raise 422 by rules that no schema can state; in a body, 5.0 is an integer for schemas.
    refusing = [name for name, view in views.items() if 422 in view.raises or "body" in view.inputs]
    # They call others, who need not be there.
    calling = [name for name, view in views.items() if 503 in view.raises]
    # All values of a form are text: what is sent as another type is none.
    forms = [name for name, view in views.items() if "form" in view.inputs]
    positive = {"positive_data_acceptance": {"expected-statuses": [*allowed, 422]}}
    failing = {
        "not_a_server_error": {"enabled": False},
        "positive_data_acceptance": {"expected-statuses": [*allowed, 422, 503]},
    }
    negative = {"negative_data_rejection": {"enabled": False}}
    by_rule = [
        {"include-operation-id": names, "checks": checks}
        for names, checks in ((calling, failing), (refusing, positive), (forms, negative))
        if names
    ]
    config = SchemathesisConfig.from_dict(
        {
            "checks": {"positive_data_acceptance": {"expected-statuses": allowed}},
            "operations": by_rule,
        }
    )
    return schemathesis.openapi.from_wsgi("/openapi.json", app, config=config)


def make_lab() -> Application:
    """Make an application with the lab's routes and their document."""
    app = lab_app()
    openapi.init_app(app)
    return app


def make_app() -> Application:
    """Make the service's application; tests are being collected, so no logging is set up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "configure", lambda _settings: None)
        app = create_app(Settings(log_level="ERROR"))
    return make_lab() if b'"paths": {}' in app.extensions["openapi"] else app


# Without a parameter all operations share one test id, of which xdist would run one.
of_its_own = pytest.mark.parametrize("place", ["here"])


@load_schema(make_lab()).exclude(path_regex="items|jobs|raw|sales|stays|things|vault").parametrize()
@of_its_own
@settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_forms_streams_and_files_conform_to_the_document(case: Case[Any], place: str) -> None:
    case.call_and_validate()


def is_declared(kind: str, operation: dict[str, Any]) -> bool:
    """Return whether an operation may answer with this type of problem."""
    return kind == "about:blank" or json.dumps(kind) in json.dumps(operation["responses"])


def test_a_problem_type_that_a_route_does_not_declare_is_seen(document: dict[str, Any]) -> None:
    operation = document["paths"]["/lab/sales"]["post"]
    kinds = (OutOfStock.type, "about:blank", "tag:lab.example,2026:out")
    assert [is_declared(kind, operation) for kind in kinds] == [True, True, False]


# While the API has no route, something of the lab is tried.
@load_schema(make_app()).exclude(path_regex="^/lab/(?!things)").parametrize()
@of_its_own
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_conforms_to_the_document(case: Case[Any], place: str) -> None:
    answer = case.call()
    if answer.status_code in (503, 504) and "dependency" in answer.json():
        return  # the service that it calls, which is not there
    case.validate_response(answer)
    if answer.status_code >= 400:
        assert is_declared(answer.json()["type"], case.operation.definition.raw)

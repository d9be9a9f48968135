"""Contracts between baked services: what `make contract-check` and `make client` do."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request
from urllib.request import urlopen

import pytest

from tests.conftest import Bake
from tests.conftest import commit
from tests.conftest import installed
from tests.conftest import make
from tests.conftest import make_passes

pytestmark = pytest.mark.slow

Json = dict[str, Any]


def git(folder: Path, *arguments: str) -> None:
    """Run git, which must succeed."""
    subprocess.run(("git", "-C", str(folder), *arguments), check=True, capture_output=True)


def change(path: Path, edit: Callable[[Json], object]) -> None:
    """Edit a file of JSON."""
    document = json.loads(path.read_text("utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.fixture
def released(bake: Bake, service_python: Path, tmp_path: Path) -> Path:
    """A service with a database, one release and a commit after it."""
    service = installed(bake(database="postgresql"), service_python, tmp_path)
    git(service, "tag", "v1.0.0")
    return commit(service)


def schemas(document: Json) -> Json:
    """Return a document's models."""
    made: Json = document["components"]["schemas"]
    return made


BREAKING: dict[str, tuple[Callable[[Json], object], str]] = {
    "a field removed": (
        lambda document: schemas(document)["Product"]["properties"].pop("name"),
        "GET /v1/products, answer 200 /items/*: no longer has name; "
        "go on sending it, marked as deprecated",
    ),
    "a narrower type": (
        lambda document: schemas(document)["Line"]["properties"]["quantity"].update(maximum=9),
        "POST /v1/quotes, request /lines/*/quantity: maximum 1000 became 9; keep the limit",
    ),
    "a new required input": (
        lambda document: schemas(document)["Basket"]["required"].append("currency"),
        "POST /v1/quotes, request: requires currency; give it a default",
    ),
    "fewer answers": (
        lambda document: document["paths"]["/v1/orders/{order_id}"]["get"]["responses"].pop("304"),
        "GET /v1/orders/{order_id}, answer 304: removed; "
        "go on documenting it, in raises= or by the view's return type",
    ),
    "a path removed": (
        lambda document: document["paths"].pop("/v1/quotes"),
        "POST /v1/quotes: removed; keep the path, marked as deprecated",
    ),
}


CONTRACTS = ("openapi.json", "asyncapi.yaml")


def test_without_a_release_any_change_is_compatible(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    service = installed(bake(), service_python, tmp_path)
    change(service / "openapi.json", lambda document: document["paths"].clear())
    told = "no release has a tag yet: any change is compatible\n"
    assert make(service, "contract-check") == (0, told)


def test_what_adds_is_compatible(released: Path) -> None:
    def add(document: Json) -> None:
        document["paths"]["/v1/news"] = {"get": {"responses": {"200": {}}}}
        schemas(document)["Product"]["properties"]["note"] = {"type": "string"}
        schemas(document)["Line"]["properties"]["quantity"]["maximum"] = 2000

    change(released / "openapi.json", add)
    told = "openapi.json: breaking changes since v1.0.0: none\n"
    assert make(released, "contract-check") == (0, told)


@pytest.mark.parametrize("name", BREAKING)
def test_a_breaking_change_fails_with_one_line(released: Path, name: str) -> None:
    edit, told = BREAKING[name]
    change(released / "openapi.json", edit)
    code, output = make(released, "contract-check")
    lines = output.splitlines()
    assert code == 2
    assert lines[0] == f"openapi.json: {told}"
    assert lines[-3].startswith("openapi.json: breaking changes since v1.0.0: ")
    assert lines[-2].startswith("Undo them, or make a new major version")


def test_a_later_prefix_is_a_new_major_version(released: Path) -> None:
    manifest = released / "service.yaml"
    text = manifest.read_text("utf-8")
    change(released / "openapi.json", lambda document: document["paths"].clear())
    manifest.write_text(text.replace("/v1", "/v2"), encoding="utf-8")
    code, output = make(released, "contract-check")
    assert (code, output.startswith("/v2 is a new major version, v1.0.0 has /v1")) == (0, True)
    manifest.write_text(text.replace("/v1", "/v0"), encoding="utf-8")
    assert make(released, "contract-check")[0] == 2


def test_an_event_that_breaks_its_receivers_fails_with_one_line(
    bake: Bake, service_python: Path, tmp_path: Path
) -> None:
    answers = {"database": "postgresql", "messaging": "rabbitmq"}
    service = installed(bake(**answers), service_python, tmp_path)
    git(service, "tag", "v1.0.0")
    source = service / "src/service/events/orders.py"
    text = source.read_text("utf-8")
    added = text.replace("    amount_cents: int", '    amount_cents: int\n    note: str = "none"')
    source.write_text(added, encoding="utf-8")
    make_passes(service, "asyncapi")
    told = [f"{name}: breaking changes since v1.0.0: none" for name in CONTRACTS]
    assert make(service, "contract-check") == (0, "".join(f"{line}\n" for line in told))
    source.write_text(text.replace("    amount_cents: int\n", ""), encoding="utf-8")
    make_passes(service, "asyncapi")
    manifest = service / "service.yaml"
    manifest.write_text(manifest.read_text("utf-8").replace("/v1", "/v2"), encoding="utf-8")
    code, output = make(service, "contract-check")
    assert (code, output.splitlines()[1:-1]) == (
        2,
        [
            "asyncapi.yaml: event flask-microservice.order.placed, sent /data: "
            "no longer has amount_cents; go on sending it, marked as deprecated",
            "asyncapi.yaml: breaking changes since v1.0.0: 1",
            "Undo them, or send a new type beside the old",
        ],
    )


def test_what_cannot_be_compared_is_no_success(released: Path, tmp_path: Path) -> None:
    document = released / "openapi.json"
    text = document.read_text("utf-8")
    for broken in ("{", "[]", text.replace('"3.1.1"', '"3.0.3"')):
        document.write_text(broken, encoding="utf-8")
        code, output = make(released, "contract-check")
        assert (code, output.splitlines()[0].startswith("contract-check: ")) == (2, True)
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", "--no-tags", released.as_uri(), str(shallow))
    (shallow / ".venv").symlink_to(released / ".venv")
    code, output = make(shallow, "contract-check")
    assert (code, "git fetch --unshallow" in output) == (2, True)


def test_the_checks_of_ci_include_the_contract(released: Path) -> None:
    code, output = make(released, "--dry-run", "check")
    assert (code, "contracts.check" in output) == (0, True)


@pytest.fixture(scope="module")
def fleet(bake: Bake, service_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a service that is called, `invoices`, and one that calls, `my service`."""
    folder = tmp_path_factory.mktemp("fleet")
    called = bake(service_slug="invoices", service_name="Invoices", database="postgresql")
    installed(called, service_python, folder).rename(folder / "invoices")
    installed(bake(), service_python, folder)
    return folder


@pytest.fixture
def services(fleet: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return copies of the service that calls and of the one that is called."""
    for name in ("invoices", "my service"):
        shutil.copytree(fleet / name, tmp_path / name, symlinks=True)
    return tmp_path / "my service", tmp_path / "invoices"


def state(service: Path) -> str:
    """Return what git sees changed in a service."""
    command = ("git", "-C", str(service), "status", "--porcelain", "--untracked-files=all")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


WRITTEN = [
    "contracts/invoices.json",
    "src/service/clients/__init__.py",
    "src/service/clients/invoices.py",
    "src/service/settings.py",
    "README.md",
    "compose.yaml",
    "compose.swarm.yaml",
]


def test_whatever_runs_the_code_gets_the_address_of_the_callee(bake: Bake) -> None:
    service = bake(database="postgresql", messaging="rabbitmq")
    script = (
        "from contracts import project; from pathlib import Path; import yaml\n"
        "for path in project.COMPOSE:\n"
        "    text = project.with_variables(path.read_text('utf-8'), 'INVOICES_URL')\n"
        "    for name, one in yaml.safe_load(text)['services'].items():\n"
        "        if 'INVOICES_URL' in one.get('environment', []): print(name)\n"
    )
    command = (sys.executable, "-B", "-c", script)
    environment = {"PYTHONPATH": "scripts"}
    told = subprocess.run(command, cwd=service, env=environment, capture_output=True, text=True)
    name = service.name
    all_of_it = [name, f"{name}-relay", f"{name}-consumer"]
    assert told.stdout.split() == all_of_it * 2, told.stderr


def test_a_client_is_made_of_a_folder_passes_all_checks_and_is_made_once(
    services: tuple[Path, Path],
) -> None:
    service, _ = services
    code, output = make(service, "client", "OF=../invoices")
    assert (code, output.splitlines()) == (0, [f"written: {name}" for name in WRITTEN])
    make_passes(service, "lint")
    make_passes(service, "test", "ARGS=-q tests/test_consistency.py tests/test_app.py")
    commit(service)
    assert make(service, "client", "OF=../invoices") == (0, "invoices: nothing changed\n")
    assert state(service) == ""
    change(service / "contracts/invoices.json", lambda document: document.update(tags=[]))
    code, output = make(service, "test", "ARGS=-q tests/test_consistency.py -k client")
    assert (code, "make client renews src/service/clients/invoices.py" in output) == (2, True)


@contextmanager
def served(text: str) -> Iterator[str]:
    """Serve a text on 127.0.0.1; /missing is 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_a_url_and_a_folder_make_the_same_client(services: tuple[Path, Path]) -> None:
    service, callee = services
    contract = callee / "openapi.json"
    assert make(service, "client", f"OF={contract}")[0] == 0
    commit(service)
    with served(contract.read_text("utf-8")) as url:
        same = (0, "invoices: nothing changed\n")
        assert make(service, "client", f"OF={url}/openapi.json") == same
        assert make(service, "client", "OF=../invoices/") == same
        assert make(service, "client", f"OF={url}/openapi.json", "AS=bills")[0] == 0
    assert (service / "src/service/clients/bills.py").exists()


# What OF and AS name, and what is said of it.
REFUSED = {
    "": "name the other service: OF=../invoices, a file or a URL",
    "OF=../nobody": "../nobody does not exist",
    "OF=contracts-of-nobody.json": "contracts-of-nobody.json does not exist",
    "OF=src": "src/openapi.json does not exist",
    "OF=README.md": "README.md is no JSON",
    "OF=list.json": "list.json: it is no OpenAPI 3.1 document: `openapi` is missing",
    "OF=old.json": "old.json: it is no OpenAPI 3.1 document: `openapi` is 3.0.3",
    "OF=nothing.json": "nothing has no operation that can be called",
    "OF=invalid.json": "it is no valid OpenAPI document",
    "OF=nameless.json": "nameless.json: '' names no service: add AS=its-name",
    "OF=.": "flask-microservice is this service itself",
    "OF=../invoices AS=../../evil": "'../../evil' names no service: add AS=its-name",
    "OF=../invoices AS=import": "import is no name for a module: add AS=another-name",
    "OF=../invoices AS=weather": "src/service/clients/weather.py is your own: move it",
    "OF=http://127.0.0.1:9/openapi.json": "http://127.0.0.1:9/openapi.json gives no answer",
    "OF=URL/missing": "/missing gives no answer: HTTP Error 404",
    "OF=URL/text": "/text is no JSON",
}


def test_what_is_no_contract_is_refused_with_one_line_and_nothing_written(
    services: tuple[Path, Path],
) -> None:
    service, _ = services
    info = {"title": "Nothing"}
    valid = {"openapi": "3.1.0", "info": info, "paths": {}}
    for name, document in {
        "list.json": [],
        "old.json": {"openapi": "3.0.3"},
        "nothing.json": valid,
        "invalid.json": {**valid, "paths": {"/a": {"get": {"parameters": [1]}}}},
        "nameless.json": {**valid, "info": {}},
    }.items():
        (service / name).write_text(json.dumps(document), encoding="utf-8")
    (service / "src/service/clients").mkdir()
    (service / "src/service/clients/weather.py").write_text('"""Mine."""\n', encoding="utf-8")
    commit(service)
    with served("no json") as url:
        for arguments, told in REFUSED.items():
            code, output = make(service, "client", *arguments.replace("URL", url).split())
            first, second = output.splitlines()
            assert code == 2
            assert first.startswith("client: ")
            assert told in first
            assert second.startswith("make: ")
    assert state(service) == ""


PURCHASES = '''"""Purchases, made at the service `invoices`."""

from flask import Blueprint

from service.chassis.http.routes import Routes
from service.chassis.http.validation import Model
from service.clients import invoices

blueprint = Blueprint("purchases", __name__, url_prefix="/v1")
routes = Routes(blueprint)


class Purchase(Model):
    """What came back from each call."""

    name: str
    placed: str
    note: str | None
    sorted: list[str]


@routes.post("/purchases")
def create_purchase() -> Purchase:
    """Place an order elsewhere, change it, list all and remove it."""
    product = invoices.get_product("tea")
    new = invoices.NewOrder(reference="PO-1", sku=product.sku, quantity=2)
    placed = invoices.create_order(new, idempotency_key="once")
    again = invoices.create_order(new, idempotency_key="once")
    if again != placed:
        raise RuntimeError("placed twice")
    invoices.patch_order(placed.id, invoices.OrderPatch(note="x/y"), if_match='"1"')
    found = invoices.get_order(placed.id)
    page = invoices.list_orders(limit=5, sort="-quantity", sku=None)
    invoices.delete_order(placed.id, if_match='"2"')
    references = [order.reference for order in page.items]
    return Purchase(name=product.name, placed=placed.status, note=found.note, sorted=references)
'''


@contextmanager
def running(service: Path, python: Path, **settings: str) -> Iterator[str]:
    """Serve a service on a free port; yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"PYTHONPATH": "src", "BIND_ADDRESS": "127.0.0.1", "PORT": str(port), "DRAIN_DELAY": "0"}
    environment = {**os.environ, **own, **settings}
    with (service / ".venv" / "log").open("wb") as log:
        command = (str(python), "-m", "service")
        process = subprocess.Popen(command, cwd=service, env=environment, stdout=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while fetch(f"{url}/readyz")[0] != 200:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        assert process.wait(30) == 0


def fetch(url: str, method: str = "GET") -> tuple[int, Json]:
    """Return status and content of an answer; 0 is none."""
    try:
        with urlopen(Request(url, method=method), timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except HTTPError as error:
        return error.code, json.loads(error.read())
    except OSError:
        return 0, {}


def test_a_view_calls_the_running_service(
    services: tuple[Path, Path], service_python: Path
) -> None:
    service, callee = services
    make_passes(service, "client", "OF=../invoices")
    (service / "src/service/api/purchases.py").write_text(PURCHASES, encoding="utf-8")
    package = service / "src/service/api/__init__.py"
    text = package.read_text("utf-8").replace("import catalogue\n", "import catalogue, purchases\n")
    text += "    app.register_blueprint(purchases.blueprint)\n"
    package.write_text(text, encoding="utf-8")
    make_passes(service, "format", "openapi", "lint")
    make_passes(service, "test", "ARGS=-q tests/chassis/http/test_openapi.py")
    make_passes(callee, "migrate")
    with (
        running(callee, service_python) as url,
        running(service, service_python, INVOICES_URL=url) as own,
    ):
        answer = {"name": "Tea, 100 g", "placed": "open", "note": "x/y", "sorted": ["PO-1"]}
        assert fetch(f"{own}/v1/purchases", "POST") == (200, answer)
    with running(service, service_python, INVOICES_URL=url) as own:
        code, problem = fetch(f"{own}/v1/purchases", "POST")
        assert (code, problem["dependency"]) == (503, "invoices")


def json_of(name: str) -> Json:
    """Return the content of a body that is a model."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"content": {"application/json": {"schema": schema}}}


STRING: Json = {"type": "string"}
TREE: Json = {"$ref": "#/components/schemas/Tree-Output"}
NAMES = {"class": STRING, "x-y": {"type": "integer"}, "camelCase": STRING, "list": STRING}
ODD: Json = {
    "openapi": "3.1.0",
    "info": {"title": 'Ödd "things"', "version": "1"},
    "security": [{"bearer": []}],
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "Bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            "basic": {"type": "http", "scheme": "basic"},
        },
        "schemas": {
            "Field": {"type": "object", "properties": NAMES, "required": ["class"]},
            "Tree-Output": {
                "type": "object",
                "description": '''Ends here: """\nimport os''',
                "properties": {
                    "nodes": {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/Tree-Output"},
                    },
                    "kind": {"$ref": "#/components/schemas/Kind"},
                    "when": {"type": "string", "format": "date-time"},
                },
            },
            "Kind": {"enum": ["a", "b"]},
            "Card": {"type": "object", "properties": {"kind": {"const": "card"}}},
            "Cash": {"type": "object", "properties": {"kind": {"const": "cash"}}},
        },
    },
    "paths": {
        "/things/{thing-id}/of/{client}": {
            "parameters": [
                {"name": "client", "in": "path", "required": True, "schema": STRING},
                {"name": "thing-id", "in": "path", "required": True, "schema": {"type": "integer"}},
            ],
            "get": {
                "operationId": "getThing\n    import os",
                "summary": 'Quotes """ and \\ more',
                "parameters": [
                    {"name": "in", "in": "query", "schema": {"type": "array", "items": STRING}},
                    {"name": "kind", "in": "query", "required": True, "schema": {"enum": ["a"]}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "boolean"}},
                ],
                "responses": {"200": json_of("Tree-Output")},
            },
            "post": {
                "security": [{"key": []}],
                "requestBody": {"required": True, **json_of("Field")},
                "responses": {"204": {}},
            },
        },
        "/payments": {
            "get": {"responses": {"200": json_of("Card"), "202": json_of("Cash")}},
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"properties": {"a": STRING}}}}
                },
                "responses": {"200": {"content": {"application/json": {}}}},
            },
        },
        "/files": {
            "put": {
                "requestBody": {"content": {"multipart/form-data": {}}},
                "responses": {"204": {}},
            },
            "get": {"responses": {"200": {"content": {"text/csv": {}}}}},
            "delete": {"security": [{"basic": []}], "responses": {"204": {}}},
        },
    },
}


def test_a_contract_of_another_make_becomes_clean_code(services: tuple[Path, Path]) -> None:
    service, _ = services
    (service / "odd.json").write_text(json.dumps(ODD), encoding="utf-8")
    output = make(service, "client", "OF=odd.json", "AS=odd-things")[1]
    assert [line for line in output.splitlines() if "written" not in line] == [
        "PUT /files is left out: it takes multipart/form-data",
        "GET /files is left out: it answers with text/csv",
        "DELETE /files is left out: it needs credentials of the kind http basic",
    ]
    make_passes(service, "lint")
    make_passes(service, "test", "ARGS=-q tests/test_consistency.py -k 'client or settings'")
    source = (service / "src/service/clients/odd_things.py").read_text("utf-8")
    assert "import os" not in source.splitlines()
    heads = re.findall(r"^def .*?:$", source, re.MULTILINE | re.DOTALL)
    assert [" ".join(head.split()) for head in heads] == [
        'def get_thing_import_os( thing_id: int, client_: str, *, kind: Literal["a"], '
        "in_: list[str] | None = None, x_trace: bool | None = None, ) -> TreeOutput:",
        "def post_things_thing_id_of_client( "
        "thing_id: int, client_: str, body: FieldModel, *, x_api_key: str ) -> None:",
        "def get_payments() -> Card | Cash:",
        "def post_payments(body: PostPaymentsBody) -> Any:",
    ]
    settings = (service / "src/service/settings.py").read_text("utf-8")
    assert "    odd_things_token: CalleeToken = None\n" in settings


def test_a_contract_that_breaks_what_is_called_is_refused(services: tuple[Path, Path]) -> None:
    service, callee = services
    contract = callee / "openapi.json"
    make_passes(service, "client", "OF=../invoices")
    user = service / "src/service/api/prices.py"
    user.write_text("from service.clients.invoices import get_product\n", encoding="utf-8")
    commit(service)
    # Nobody here lists or quotes.
    change(contract, lambda document: schemas(document)["Quote"]["properties"].clear())
    assert make(service, "contract-check", "OF=../invoices")[0] == 0
    change(contract, lambda document: schemas(document)["Product"]["properties"].pop("name"))
    told = "GET /v1/products/{sku}, answer 200: no longer has name; go on sending it"
    for target in ("contract-check", "client"):
        code, output = make(service, target, "OF=../invoices")
        assert (code, output.startswith(told)) == (2, True)
    assert state(service) == ""
    code, output = make(service, "client", "OF=../invoices", "BREAKING=yes")
    assert (code, "written: src/service/clients/invoices.py" in output) == (0, True)
    assert make(service, "contract-check", "OF=../invoices")[0] == 0


def test_only_a_copied_contract_can_be_checked(services: tuple[Path, Path]) -> None:
    service, _ = services
    code, output = make(service, "contract-check", "OF=../invoices")
    assert (code, output.splitlines()[0]) == (
        2,
        "client: contracts/invoices.json does not exist: make client writes it",
    )

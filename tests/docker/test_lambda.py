"""A service on AWS Lambda, as docs/deployment.md has it, run by AWS's own emulator."""

import base64
import contextlib
import http.client
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.deployment import commands
from tests.deployment import files
from tests.docker.collector import Collector
from tests.docker.containers import Bake
from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import ask
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.load import Answer
from tests.docker.load import Client
from tests.docker.servers import database_server

pytestmark = [pytest.mark.docker, pytest.mark.slow]

WAY = "On AWS Lambda"
# Its wheel holds the emulator for both processors.
EMULATOR = (
    "aws-sam-cli==1.170.0"
    " --hash=sha256:24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf"
)
PROCESSOR = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
INVOCATIONS = "/2015-03-31/functions/function/invocations"
# As Lambda has it: of the root, which is read-only, /tmp can be written, and /dev/shm is not there.
SANDBOX = ("--tmpfs=/tmp", "--ipc=none", "--memory=512m", "--publish=127.0.0.1::8080")
TOLD_BY_LAMBDA = ("START ", "END ", "REPORT ")
# With the seed, the methods in Allow have one order.
SETTINGS = ("--env=MAX_BODY_SIZE=250000", "--env=PYTHONHASHSEED=0")
EXPORT_DELAY = 8.0  # seconds
# Views that show what a request brought, keep an upload, and answer with bytes, cookies and links.
VIEWS = f"""

from service.chassis.http.uploads import parse_form
from service.chassis.telemetry import otlp

otlp.SCHEDULE_DELAY = {EXPORT_DELAY}


def make_app(settings=None, create_app=create_app):
    from flask import Response, jsonify, request

    app = create_app(settings)

    @app.get("/v1/seen")
    def see():
        header = request.headers["X-Twice"]
        return jsonify(request.args.to_dict(flat=False), request.cookies, request.url, header)

    @app.post("/v1/turned")
    def turn():
        response = Response(request.get_data()[::-1], mimetype="application/octet-stream")
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        return response

    @app.post("/v1/files")
    def keep():
        return jsonify(is_on_disk=parse_form()["file"].stream.name is not None)

    @app.get("/v1/bytes/<int:count>")
    def send(count):
        return Response(bytes(count), mimetype="application/octet-stream")

    @app.get("/v1/links")
    def link():
        return Response(headers=[("Link", "</one>"), ("Link", "</two>")])

    return app


create_app = make_app
"""
QUOTE = {"lines": [{"sku": "tea", "quantity": 2}]}
FORM = {"Content_Type": "multipart/form-data; boundary=x"}
UPLOAD = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    + b"x" * 200_000
    + b"\r\n--x--\r\n"
)
TRACE = "0af7651916cd43dd8448eb211c80319c"
IDS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X_Request_ID": "mine"}
REQUESTS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "/v1/products?limit=2", None, {}),
    ("HEAD", "/v1/products", None, {}),
    ("POST", "/v1/quotes", QUOTE, {}),
    ("POST", "/v1/quotes", b"{", {}),
    ("POST", "/v1/quotes", {"lines": []}, {}),
    ("POST", "/v1/quotes", b"x" * 300_000, {}),
    ("POST", "/v1/quotes", b"x", {"Content_Type": "text/plain"}),
    ("DELETE", "/v1/quotes", None, {}),
    ("GET", "/nothing", None, {}),
    ("GET", "//v1/products", None, {}),
    ("GET", "/docs", None, {}),
    ("GET", "/docs/swagger-ui-bundle.js", None, {}),
    ("GET", "/v1/products/green%20tea", None, {}),
    ("GET", "/v1/products/gr%C3%BCn", None, {}),
    ("GET", "/v1/products/%E8%8C%B6", None, {}),
    ("GET", "/v1/products/50%2541", None, {}),
    ("GET", "/v1/products?limit=2&limit=3", None, {}),
    ("GET", "/v1/seen?a=1&a=%C3%BC+b&c=", None, {"Cookie": "x=1; y=2", "X_Twice": "1, 2"}),
    ("POST", "/v1/turned", bytes(range(256)), {"Content_Type": "application/octet-stream"}),
    ("POST", "/v1/files", UPLOAD, FORM),
]
HOST = "shop.example.org"
Start = Callable[..., "Function"]


def event(method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """Return what an HTTP API sends (format 2.0): the path decoded, the query as it came."""
    raw, _, query = path.partition("?")
    cookies = headers.pop("cookie", "")
    is_text = headers.get("content-type", "").startswith(("application/json", "text/"))
    http_request = {
        "method": method,
        "path": unquote(raw),
        "protocol": "HTTP/1.1",
        "sourceIp": "192.0.2.7",
        "userAgent": "test",
    }
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": unquote(raw),
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {"http": http_request, "stage": "$default", "requestId": "JKJaXmPLvHc="},
        "isBase64Encoded": not is_text,
        **({"body": body.decode() if is_text else base64.b64encode(body).decode()} if body else {}),
        **({"cookies": cookies.split("; ")} if cookies else {}),
    }


class Function:
    """A function that the emulator runs, and the HTTP API before it."""

    def __init__(self, container: Container) -> None:
        """Know its container."""
        self.container = container

    def invoke(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Send an event; return what the function says, or that it failed."""
        _, _, said = ask(self.container.port, INVOCATIONS, "POST", json.dumps(sent))
        return dict(json.loads(said or b"{}"))

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Ask as `Client` does."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        given = {"host": HOST, **({"content-type": "application/json"} if data else {})}
        given |= {name.lower().replace("_", "-"): value for name, value in headers.items()}
        started = time.monotonic()
        said = self.invoke(event(method, path, data, given))
        seconds = time.monotonic() - started
        content = said["body"].encode()
        if said["isBase64Encoded"]:
            content = base64.b64decode(content)
        message = http.client.HTTPMessage()
        for name, value in said["headers"].items():
            message[name] = value
        for cookie in said["cookies"]:
            message["set-cookie"] = cookie
        return Answer(said["statusCode"], message, content, seconds, path)

    def is_up(self) -> bool:
        """Whether the emulator answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.invoke(event("GET", "/livez", b"", {"host": HOST}))
            return True
        return False

    def lines(self) -> list[dict[str, Any]]:
        """What the service wrote: all lines but the emulator's, each of which must be JSON."""
        output = subprocess.run(("docker", "logs", self.container.id), capture_output=True).stdout
        lines = output.decode().splitlines()
        return [json.loads(line) for line in lines if not line.startswith(TOLD_BY_LAMBDA)]


def with_files(service: Path, folder: Path) -> Path:
    """Return a copy of the service with the page's files, which only their owner can read."""
    copy = Path(shutil.copytree(service, folder / "service"))
    for path, content in files(WAY).items():
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).write_text(content, "utf-8")
        (copy / path).chmod(0o600)
    return copy


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AWS's emulator of what runs a function."""
    folder = tmp_path_factory.mktemp("emulator")
    (folder / "requirements.txt").write_text(EMULATOR, "utf-8")
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest=.")
    command = (sys.executable, "-m", "pip", "download", *options, "--requirement=requirements.txt")
    subprocess.run(command, cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    member = f"samcli/local/rapid/aws-lambda-rie-{PROCESSOR}"
    path = Path(zipfile.ZipFile(wheel).extract(member, folder))
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def built(service: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the images that the page's files and commands make: the service's, the function's."""
    name = f"lambda-{uuid.uuid4().hex[:8]}"
    copy = with_files(service, folder)
    with (copy / "src/service/app.py").open("a", encoding="utf-8") as app:
        app.write(VIEWS)
    dockerfile = copy / "deploy/lambda/Dockerfile"
    dockerfile.write_text(dockerfile.read_text("utf-8").replace(service.name, name), "utf-8")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in commands(WAY):
        command = line.replace(service.name, name).split()
        done = subprocess.run(
            command, cwd=copy, env=os.environ | {"PATH": tools}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    try:
        yield name, f"{name}-lambda"
    finally:
        docker("rmi", "--force", name, f"{name}-lambda")


@pytest.fixture(scope="module")
def images(service: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The images of the service as baked by default."""
    with built(service, tmp_path_factory.mktemp("lambda")) as names:
        yield names


@pytest.fixture(scope="module")
def start(images: tuple[str, str], emulator: Path) -> Iterator[Start]:
    """Return `start(*options, image=...)`, which runs a function's image by the emulator."""
    started: list[Container] = []
    command = json.loads(docker("inspect", "--format", "{{json .Config.Cmd}}", images[1]))
    entry = (f"--volume={emulator}:/aws-lambda-rie:ro", "--entrypoint=/aws-lambda-rie")

    def start(*options: str, image: str = images[1]) -> Function:
        started.append(Container(image, *SANDBOX, *entry, *options, command=command))
        function = Function(started[-1])
        eventually(function.is_up, "the emulator answers")
        return function

    yield start
    for container in started:
        container.remove()


@pytest.fixture(scope="module")
def function(start: Start) -> Function:
    """One function for all tests that leave it as it was."""
    return start(*SETTINGS)


def seen(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return what a client sees, but for what belongs to the connection."""
    headers = [(name.lower(), value) for name, value in answer.headers.items()]
    dropped = ("connection", "date", "server")
    return answer.status, sorted(pair for pair in headers if pair[0] not in dropped), answer.body


def test_the_files_keep_the_service_s_style(
    service: Path, service_python: Path, tmp_path: Path
) -> None:
    copy = with_files(service, tmp_path)
    ruff = service_python.with_name("ruff")
    for check in (["check"], ["format", "--check"]):
        subprocess.run((ruff, *check, "deploy"), cwd=copy, check=True)


def test_every_request_is_answered_as_by_the_service_s_own_server(
    function: Function, images: tuple[str, str], run: Run
) -> None:
    port = run(*SETTINGS, image=images[0]).wait_until_ready().port
    with contextlib.closing(Client(port)) as alone:
        for method, path, body, headers in REQUESTS:
            expected = alone(method, path, body, Host=HOST, **headers, **IDS)
            assert seen(function(method, path, body, **headers, **IDS)) == seen(expected), path


def test_each_request_is_one_line_with_its_ids(function: Function) -> None:
    answer = function("GET", "/v1/products/tea", **IDS)
    last = function.lines()[-1]
    assert answer.headers["X-Request-ID"] == last["request_id"] == IDS["X_Request_ID"]
    assert (last["trace_id"], last["http.route"]) == (TRACE, "/v1/products/<sku>")


def test_a_function_writes_to_tmp_alone(function: Function) -> None:
    assert function("POST", "/v1/files", UPLOAD, **FORM).json() == {"is_on_disk": True}
    assert docker("diff", function.container.id) == "A /aws-lambda-rie"


def test_an_answer_has_at_most_6_mb_as_base64(start: Start) -> None:
    function = start()
    assert len(function("GET", "/v1/bytes/4500000").body) == 4_500_000
    failure = function.invoke(event("GET", "/v1/bytes/5000000", b"", {"host": HOST}))
    assert failure["errorType"] == "Function.ResponseSizeTooLarge"


def test_of_a_header_that_is_repeated_the_last_is_sent(function: Function) -> None:
    assert function("GET", "/v1/links").headers.get_all("Link") == ["</two>"]


def test_a_wrong_setting_is_told_where_the_function_does_not_start(start: Start) -> None:
    assert "MAX_QUEUE: Input" in start("--env=MAX_QUEUE=none").container.logs()


def test_spans_of_a_frozen_process_leave_with_the_next_request(start: Start) -> None:
    with contextlib.closing(Collector()) as collector:
        function = start(*collector.options)
        function("GET", "/v1/products")
        eventually(lambda: len(collector.spans) == 1, "the first span")
        function("GET", "/v1/products")
        docker("pause", function.container.id)
        time.sleep(EXPORT_DELAY + 1)
        frozen = len(collector.spans)
        docker("unpause", function.container.id)
        function("GET", "/v1/products")
        eventually(lambda: len(collector.spans) > 1, "the second span", 6)
    assert frozen == 1


def test_a_function_has_one_connection_to_its_database(
    bake: Bake, start: Start, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        server = database_server()
        stack.callback(server.remove)
        image, function_image = stack.enter_context(built(bake(database="postgresql"), tmp_path))
        networks = json.loads(docker("inspect", server.id))[0]["NetworkSettings"]["Networks"]
        host = networks["bridge"]["IPAddress"]
        url = f"--env=DATABASE_URL=postgresql://postgres@{host}/postgres"
        eventually(lambda: server.succeeds("pg_isready", f"--host={host}"), "the database is up")
        docker("run", "--rm", url, image, "python", "-m", "alembic", "upgrade", "head")
        function = start(url, image=function_image)
        for number in range(3):
            order = {"reference": f"PO-{number}", "sku": "tea", "quantity": 2}
            created = function("POST", "/v1/orders", order, Idempotency_Key=f"key-{number}")
            assert created.status == 201
            assert function("GET", created.location).status == 200
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'flask%'"
        assert server.run("psql", "--username=postgres", "-Atc", query) == "1"

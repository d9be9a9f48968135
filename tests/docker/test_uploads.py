"""Uploads and exports of a service in a hardened container, which can write no file of its own."""

import http.client
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import build
from tests.docker.containers import docker

pytestmark = pytest.mark.docker

ROUTES = """

class NewFile(Model):
    note: str = ""
    file: Annotated[FileStorage, FileLimits(media_types=("text/plain",))]


class Stored(Model):
    size: int


@routes.post("/files", max_body_size=3_000_000)
def create_file(form: NewFile) -> Stored:
    return Stored(size=len(form.file.read()))


@routes.get("/export", produces="text/csv")
def export() -> Iterator[str]:
    for number in range(100_000):
        yield f"{number},{request.path}\\r\\n"
"""
IMPORTS = """
from collections.abc import Iterator
from flask import request
from werkzeug.datastructures import FileStorage
from service.chassis.http.uploads import FileLimits
"""
HEAD = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\n"
)


@pytest.fixture(scope="module")
def uploads(service: Path, image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of a service with an upload and an export."""
    copy = shutil.copytree(service, tmp_path_factory.mktemp("uploads") / "service")
    module = copy / "src/service/api/catalogue.py"
    docstring, _, rest = module.read_text("utf-8").partition("\n")
    module.write_text(docstring + "\n" + IMPORTS + rest + ROUTES, "utf-8")
    build(copy, f"{image}:uploads")
    return f"{image}:uploads"


def send(container: Container, size: int, chunk: int | None = None) -> tuple[int, bytes]:
    """Upload a file of `size` bytes, with its length or in chunks; return status and body."""
    body = HEAD + b"x" * size + b"\r\n--x--\r\n"
    pieces: bytes | Iterator[bytes] = body
    if chunk:
        pieces = (body[start : start + chunk] for start in range(0, len(body), chunk))
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    connection = http.client.HTTPConnection("127.0.0.1", container.port, timeout=30)
    with closing(connection):
        connection.request("POST", "/v1/files", pieces, headers, encode_chunked=bool(chunk))
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("chunk", [None, 50_000])
def test_an_upload_over_the_limit_of_other_bodies_arrives(
    run: Run, uploads: str, chunk: int | None
) -> None:
    container = run("--env", "MAX_BODY_SIZE=65536", image=uploads).wait_until_ready()
    assert send(container, 2_500_000, chunk) == (200, b'{"size":2500000}')
    assert docker("diff", container.id) == ""


def test_an_upload_that_finds_no_room_gets_503_and_the_next_one_is_served(
    run: Run, uploads: str
) -> None:
    container = run("--shm-size", "1m", image=uploads).wait_until_ready()
    status, body = send(container, 2_500_000)
    assert (status, b"Service Unavailable" in body) == (503, True)
    assert "an upload could not be kept: [Errno 28]" in container.logs()
    assert send(container, 900_000)[0] == 200


def test_an_export_is_streamed_with_its_type(run: Run, uploads: str) -> None:
    container = run(image=uploads).wait_until_ready()
    connection = http.client.HTTPConnection("127.0.0.1", container.port, timeout=30)
    with closing(connection):
        connection.request("GET", "/v1/export")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert answer.read().splitlines()[-1] == b"99999,/v1/export"

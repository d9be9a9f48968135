"""Uploads and exports of a service in a hardened container, which can write no file of its own."""

import contextlib
import http.client
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.docker.containers import Container
from tests.docker.containers import Run
from tests.docker.containers import build
from tests.docker.containers import docker
from tests.docker.containers import eventually

pytestmark = pytest.mark.docker

ROUTES = """

class NewFile(Model):
    note: list[str] = Field(default_factory=list)
    file: Annotated[FileStorage, FileLimits(media_types=("text/plain",))]


class Stored(Model):
    size: int


@routes.post("/files", max_body_size=20_000_000)
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
NOTE = b'\r\n--x\r\nContent-Disposition: form-data; name="note"\r\n\r\n'


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
    said = "an upload could not be kept: [Errno 28]"
    eventually(lambda: said in container.logs(), said)
    assert send(container, 900_000)[0] == 200


@pytest.mark.parametrize(("size", "notes"), [(1, 62), (1, 200), (19_000_000, 0)])
def test_as_many_of_the_largest_forms_as_are_admitted_fit_into_the_memory_of_compose(
    run: Run, uploads: str, size: int, notes: int
) -> None:
    limits = ("--memory", "256m", "--memory-swap", "256m", "--shm-size", "32m")
    container = run(*limits, "--env", "CONCURRENCY=16", image=uploads).wait_until_ready()
    body = HEAD + b"x" * size + (NOTE + b"x" * 98_000) * notes + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(len(body))}
    together = threading.Barrier(16)

    def pieces() -> Iterator[bytes]:
        yield body[:-4]
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(20)
        yield body[-4:]

    def upload() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", container.port, timeout=30)
        with closing(connection), contextlib.suppress(OSError):
            connection.request("POST", "/v1/files", pieces(), headers)
            connection.getresponse().read()
        together.abort()  # it was refused before all of it was sent, or all were sent

    senders = [threading.Thread(target=upload) for _ in range(16)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert (container.state["Status"], container.state["OOMKilled"]) == ("running", False)
    assert send(container, 1) == (200, b'{"size":1}')


def test_an_export_is_streamed_with_its_type(run: Run, uploads: str) -> None:
    container = run(image=uploads).wait_until_ready()
    connection = http.client.HTTPConnection("127.0.0.1", container.port, timeout=30)
    with closing(connection):
        connection.request("GET", "/v1/export")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert answer.read().splitlines()[-1] == b"99999,/v1/export"

"""Forms and their files: what is taken, what is refused and where files are kept."""

import hashlib
import io
import tempfile
from contextlib import closing
from typing import Annotated, Any

import pytest
from flask import Blueprint, request
from flask.testing import FlaskClient
from lab import NewPhoto
from lab import add_photo
from lab import blueprint as lab_blueprint
from lab import problem
from support import Start
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse
from werkzeug.test import stream_encode_multipart

from service.app import create_app
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.chassis.http.routes import Routes
from service.chassis.http.uploads import FILE_MEMORY
from service.chassis.http.uploads import MAX_FIELD
from service.chassis.http.uploads import MAX_PARTS
from service.chassis.http.uploads import FileLimits
from service.chassis.http.uploads import parse_form
from service.chassis.http.validation import Model

MULTIPART = "multipart/form-data"
LARGE = 150_000  # more than is kept in memory
LIMITS = "A form has at most 400000 bytes and 64 parts, and a field that is no file at most 98304"


def png(size: int = 1) -> tuple[io.BytesIO, str, str]:
    """Make a file that says that it is a picture."""
    return io.BytesIO(b"x" * size), "a.png", "image/png"


def other(size: int = 1) -> tuple[io.BytesIO, str]:
    """Make a file of any type."""
    return io.BytesIO(b"x" * size), "b"


def send(client: FlaskClient, **fields: Any) -> TestResponse:
    """Send a form to the route that takes a photo; an empty list leaves a field out."""
    data = {"title": "a", "photo": png()} | fields
    return client.post("/lab/photos", data=data, content_type=MULTIPART)


def digest() -> str:
    """Return the digest of the file that the request's form has."""
    (file,) = (file for _, (file,) in parse_form().lists() if isinstance(file, FileStorage))
    return hashlib.sha256(file.read()).hexdigest()


def create_lab_app() -> Application:
    """Make the service's application with the lab's routes."""
    app = create_app()
    app.register_blueprint(lab_blueprint)
    return app


def test_a_form_comes_as_its_model(lab: FlaskClient) -> None:
    answer = send(lab, photo=png(5), stars="3", tag=["x", "y"], more=[other(LARGE), other(6)])
    assert answer.get_json()["name"] == f"a 3 ['x', 'y'] a.png [5, {LARGE}, 6] None"


@pytest.mark.parametrize("content", [b"\r\n", b"\r\n--", b"--", bytes(range(256))], ids=repr)
def test_a_file_comes_as_it_was_sent(lab: FlaskClient, content: bytes) -> None:
    data = content * (LARGE // len(content))
    body = {"name": "a", "file": (io.BytesIO(data), "a")}
    lab.application.add_url_rule("/digest", view_func=digest, methods=["POST"])
    assert lab.post("/digest", data=body).text == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("content_type", [MULTIPART, "application/x-www-form-urlencoded"])
def test_a_form_without_files_may_be_sent_in_two_ways(lab: FlaskClient, content_type: str) -> None:
    data = {"name": "\u00e9", "days": "7"}
    answer = lab.post("/lab/logins", data=data, content_type=content_type)
    assert answer.get_json()["name"] == "\u00e9 7"


def test_a_view_with_a_file_is_called_without_an_application() -> None:
    file = FileStorage(io.BytesIO(b"xyz"), "a.png", "photo", "image/png")
    assert add_photo(NewPhoto(title="a", photo=file)).name == "a 0 [] a.png [3] None"


def test_forms_whose_files_differ_are_told_apart_and_their_files_stay_readable() -> None:
    contents = (b"x" * 9, b"y" * 9, b"x" * 9)
    files = [
        FileStorage(io.BytesIO(content), "a.png", "photo", "image/png") for content in contents
    ]
    texts = [NewPhoto(title="a", photo=file).model_dump_json() for file in files]
    assert (texts[0] == texts[1], texts[0] == texts[2]) == (False, True)
    assert [file.read() for file in files] == list(contents)


@pytest.mark.parametrize(
    ("fields", "pointer", "detail"),
    [
        ({"photo": []}, "/photo", "Field required"),
        ({"photo": (io.BytesIO(b""), "")}, "/photo", "Field required"),
        ({"photo": "text"}, "/photo", "Input should be a file"),
        ({"photo": [png(), png()]}, "/photo", "Input should be a file"),
        ({"more": "text"}, "/more/0", "Input should be a file"),
        (
            {"more": [other(), other(), other()]},
            "/more",
            "List should have at most 2 items",
        ),
        ({"other": "1"}, "/other", "Extra inputs are not permitted"),
        ({"other": other()}, "/other", "Extra inputs are not permitted"),
        ({"title": other()}, "/title", "Input should be a valid string"),
        ({"title": "a\0"}, "/title", "String should match pattern"),
        ({"title": ["a", "b"]}, "/title", "Input should be a valid string"),
        ({"stars": "6"}, "/stars", "Input should be less than or equal to 5"),
        ({"stars": "x"}, "/stars", "Input should be a valid integer"),
    ],
)
def test_a_wrong_field_is_pointed_at(
    lab: FlaskClient, fields: dict[str, Any], pointer: str, detail: str
) -> None:
    answer = send(lab, **fields)
    problem(answer, 422)
    (error,) = answer.get_json()["errors"]
    assert error["pointer"] == pointer
    assert detail in error["detail"]


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        ({"photo": png(20_001)}, 413, "photo has more than 20000 bytes."),
        ({"caption": other(11)}, 413, "caption has more than 10 bytes."),
        ({"more": other(400_000)}, 413, LIMITS),
        ({"title": "x" * (MAX_FIELD + 1)}, 413, LIMITS),
        ({"tag": ["x"] * MAX_PARTS}, 413, LIMITS),
        ({"photo": other()}, 415, "photo must be image/png or image/jpeg."),
    ],
)
def test_what_is_too_large_or_of_another_type_is_refused_with_its_limit(
    lab: FlaskClient, fields: dict[str, Any], status: int, detail: str
) -> None:
    answer = send(lab, **fields)
    assert detail in str(problem(answer, status).detail)


@pytest.mark.parametrize(
    ("path", "content_type", "detail"),
    [
        ("photos", "application/x-www-form-urlencoded", f"The body must be {MULTIPART}."),
        ("logins", "application/json", "The body must be application/x-www-form-urlencoded or "),
    ],
)
def test_a_body_that_is_no_form_of_the_route_is_unsupported(
    lab: FlaskClient, path: str, content_type: str, detail: str
) -> None:
    answer = lab.post(f"/lab/{path}", data=b"name=a", content_type=content_type)
    assert detail in str(problem(answer, 415).detail)


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        (MULTIPART, b"--x--"),
        (f"{MULTIPART}; boundary=x", b"a"),
        (f"{MULTIPART}; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb'),
        ("application/x-www-form-urlencoded", b"name=\xff"),
    ],
)
def test_a_malformed_form_is_a_bad_request(
    lab: FlaskClient, content_type: str, data: bytes
) -> None:
    answer = lab.post("/lab/logins", data=data, content_type=content_type)
    assert "The body is not a form" in str(problem(answer, 400).detail)


def test_a_file_is_closed_after_its_request() -> None:
    kept: list[FileStorage] = []
    app = Application(__name__)
    problems.init_app(app)
    page = Blueprint("page", __name__)

    class Note(Model):
        file: Annotated[FileStorage, FileLimits()]

    def keep(form: Note) -> None:
        kept.append(form.file)
        assert not form.file.closed
        assert request.files["file"] is form.file

    keep.__annotations__["form"] = Note
    Routes(page).post("/", max_body_size=1_000_000)(keep)
    app.register_blueprint(page)
    assert app.test_client().post("/", data={"file": other(LARGE)}).status_code == 204
    assert [file.closed for file in kept] == [True]


def test_an_upload_that_cannot_be_kept_is_refused_for_a_moment(
    lab: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    assert send(lab, more=other(FILE_MEMORY)).status_code == 200
    answer = send(lab, more=other(FILE_MEMORY + 1))
    problem(answer, 503)
    assert answer.headers["Retry-After"] == "1"
    assert "an upload could not be kept: [Errno 2]" in caplog.text


@pytest.mark.parametrize("limit", [3_000_000, 10])
def test_a_route_has_a_limit_of_its_own_below_or_above_that_of_the_service(
    lab: FlaskClient, limit: int
) -> None:
    lab.application.config["MAX_CONTENT_LENGTH"] = limit
    assert lab.put("/lab/large", json=["x" * 4990]).status_code == 200
    problem(lab.put("/lab/large", json=["x" * 5000]), 413)


@pytest.mark.parametrize(("size", "status"), [(LARGE, 200), (400_000, 413)])
def test_a_chunked_upload_has_the_limit_of_its_route(start: Start, size: int, status: int) -> None:
    service = start("chassis.http.test_uploads:create_lab_app", MAX_BODY_SIZE="2000")
    files = {"photo": FileStorage(io.BytesIO(b"x"), "a.png"), "more": FileStorage(*other(size))}
    stream, _, boundary = stream_encode_multipart({"title": "a", **files})
    headers = {"Content-Type": f"{MULTIPART}; boundary={boundary}", "Transfer-Encoding": "chunked"}
    with closing(service.connect()) as connection:
        pieces = iter(lambda: stream.read(50_000), b"")
        connection.request("POST", "/lab/photos", pieces, headers, encode_chunked=True)
        answer = connection.getresponse()
        text = answer.read().decode()
    assert (answer.status, f"[1, {size}]" in text) == (status, status == 200), text

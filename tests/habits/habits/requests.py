"""Habits: what a view reads from a request."""

import io
import time
from typing import Any
from typing import cast

from flask import Flask
from flask import Request
from flask import request

from habits.common import CHUNKED
from habits.common import habit


@habit
def a_form_with_a_file(app: Flask) -> object:
    @app.post("/")
    def view() -> str:
        file = request.files["file"]
        return f"{file.filename} {len(file.read())} {request.form['a']}"

    data = {"a": "1", "file": (io.BytesIO(b"x" * 5000), "a.csv")}
    return app.test_client().post("/", data=data).text


@habit
def a_form(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: request.form.to_dict(flat=False), methods=["POST"])
    return app.test_client().post("/", data={"a": ["1", "2"], "b": "\u00e9"}).get_json()


@habit
def the_lines_of_a_body(app: Flask) -> object:
    app.add_url_rule(
        "/", view_func=lambda: [len(line) for line in request.stream], methods=["POST"]
    )
    data = b"a" * 1500 + b"\n" + b"b" * 3000 + b"\n"
    return app.test_client().post("/", data=data, content_type="text/csv").get_json()


@habit
def the_raw_stream_of_a_body(app: Flask) -> object:
    @app.post("/")
    def view() -> Any:
        stream = request.environ["wsgi.input"]
        parts = [stream.readline(), *stream.readlines(), stream.read(1), stream.read()]
        return [len(part) for part in parts]

    return app.test_client().post("/", data=b"a" * 1500 + b"\nb\nc").get_json()


@habit
def a_limit_on_bodies_in_the_configuration(app: Flask) -> object:
    app.config["MAX_CONTENT_LENGTH"] = 10
    app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["POST"])
    client = app.test_client()
    return [client.post("/", data=b"x" * size).status_code for size in (10, 11)]


@habit
def a_limit_on_bodies_of_one_view(app: Flask) -> object:
    @app.post("/")
    def view() -> str:
        request.max_content_length = 3_000_000
        return str(len(request.get_data()))

    client = app.test_client()
    return [client.post("/", data=b"x" * size).status_code for size in (2_000_000, 3_000_001)]


@habit
def a_limit_on_the_fields_of_a_form(app: Flask) -> object:
    app.config["MAX_FORM_MEMORY_SIZE"] = 10
    app.add_url_rule("/", view_func=lambda: request.form["a"], methods=["POST"])
    form = {"data": {"a": "x" * 20}, "content_type": "multipart/form-data"}
    return app.test_client().post("/", **form).status_code


@habit
def a_large_body(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: str(len(request.get_data())), methods=["POST"])
    return app.test_client().post("/", data=b"x" * 2_000_000).status_code


@habit
def a_large_body_that_is_not_read(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: "text", methods=["POST"])
    return app.test_client().post("/", data=b"x" * 2_000_000).status_code


@habit
def a_body_that_takes_its_time(app: Flask) -> object:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            time.sleep(0.2)
            return super().read(min(size or 1, 1))

    app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["POST"])
    client = app.test_client()
    return client.post("/", input_stream=Slow(b"xyz"), content_length=3).status_code


@habit
def a_chunked_body_of_json(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: request.get_json(), methods=["POST"])
    client = app.test_client()
    return client.post("/", json={"a": 1}, environ_overrides=CHUNKED).get_json()


@habit
def a_chunked_body_of_text(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: request.get_data(), methods=["POST"])
    sent = {"input_stream": io.BytesIO(b"text"), "content_type": "text/plain"}
    return app.test_client().post("/", environ_overrides=CHUNKED, **sent).status_code


@habit
def a_chunked_body_that_is_not_read(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: "text", methods=["POST"])
    sent = {"input_stream": io.BytesIO(b"text"), "content_type": "text/plain"}
    return app.test_client().post("/", environ_overrides=CHUNKED, **sent).status_code


@habit
def the_length_of_a_chunked_body(app: Flask) -> object:
    @app.post("/")
    def view() -> list[object]:
        return [request.content_length, "Transfer-Encoding" in request.headers]

    sent = {"input_stream": io.BytesIO(b"{}"), "content_type": "application/json"}
    return app.test_client().post("/", environ_overrides=CHUNKED, **sent).get_json()


@habit
def a_limit_on_chunked_bodies_of_one_view(app: Flask) -> object:
    @app.post("/")
    def view() -> str:
        request.max_content_length = 3_000_000
        return str(len(request.get_data()))

    sent = {"input_stream": io.BytesIO(b"x" * 2_000_000), "content_type": "application/json"}
    return app.test_client().post("/", environ_overrides=CHUNKED, **sent).status_code


@habit
def a_request_class_of_ones_own(app: Flask) -> object:
    class Shouting(Request):
        @property
        def shout(self) -> str:
            return f"{self.path}!"

    app.request_class = Shouting
    app.add_url_rule("/", view_func=lambda: cast("Shouting", request).shout)
    answer = app.test_client().get("/")
    return answer.text, issubclass(app.request_class, Shouting), app.request_class.__name__


@habit
def headers_of_a_request(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: dict(request.headers), methods=["POST"])
    headers = {"X-A": "1", "Accept-Language": "en"}
    return app.test_client().post("/", json=1, headers=headers).get_json()


@habit
def hosts_that_are_trusted(app: Flask) -> object:
    app.config["TRUSTED_HOSTS"] = ["good.org"]
    app.add_url_rule("/", view_func=lambda: request.host)
    client = app.test_client()
    hosts = ("http://good.org", "http://bad.org")
    return [client.get("/", base_url=host).status_code for host in hosts]


@habit
def a_host_that_is_no_name(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: request.host)
    return app.test_client().get("/", headers={"Host": "a b"}).status_code

"""Habits: what a view may answer."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
from flask import Flask
from flask import Response
from flask import current_app
from flask import make_response
from flask import redirect
from flask import request
from flask import url_for
from werkzeug.exceptions import NotFound
from werkzeug.test import TestResponse

from habits.common import habit


@habit
def a_class_of_responses_of_ones_own(app: Flask) -> object:
    class Shouting(Response):
        default_mimetype = "text/shout"

        def iter_encoded(self) -> Iterator[bytes]:
            return (part.upper() for part in super().iter_encoded())

    app.add_url_rule("/response", "response", lambda: Shouting("text"))
    app.add_url_rule("/text", "text", lambda: "text")
    client = app.test_client()
    before = [client.get(path).text for path in ("/response", "/text")]
    app.response_class = Shouting
    answers = [client.get(path) for path in ("/response", "/text")]
    return before, [(answer.text, answer.mimetype) for answer in answers]


@habit
def the_class_of_responses(app: Flask) -> object:
    with app.test_request_context():
        made = make_response("text")
    return app.response_class is Response, isinstance(made, Response), made.status


@habit
def all_that_a_view_may_return(app: Flask) -> object:
    def answer(_environ: Any, start_response: Any) -> Any:
        start_response("202 Accepted", [("X-A", "1")])
        return [b"wsgi"]

    returned: dict[str, Any] = {
        "text": "text",
        "bytes": b"bytes",
        "status": ("text", 299),
        "words": ("text", "299 Fine"),
        "headers": ("text", {"X-A": "1"}),
        "all": ("text", 201, [("X-A", "1")]),
        "wsgi": answer,
        "error": NotFound(response=Response("mine", 404)),
        "none": None,
        "number": 1,
    }
    app.add_url_rule("/<name>", view_func=lambda name: returned[name])
    client = app.test_client()
    answers = {name: client.get(f"/{name}") for name in returned}
    return {
        name: (answer.status, answer.headers.get("X-A"), answer.status_code < 500 and answer.data)
        for name, answer in answers.items()
    }


@habit
def an_answer_to_head(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: "text")
    answer = app.test_client().head("/")
    return answer.status_code, answer.data, answer.headers["Content-Length"]


@habit
def an_answer_to_options(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: "text")
    answer = app.test_client().options("/")
    return answer.status_code, sorted(answer.allow), answer.content_type, answer.data


@habit
def cookies(app: Flask) -> object:
    @app.get("/set")
    def set_cookie() -> Response:
        response = make_response("text")
        response.set_cookie("a", "1", httponly=True)
        return response

    app.add_url_rule("/get", view_func=lambda: request.cookies.get("a", "none"))
    client = app.test_client()
    before = client.get("/get").text
    client.get("/set")
    return before, client.get("/get").text


@habit
def a_redirect(app: Flask) -> object:
    app.add_url_rule("/from", "from", lambda: redirect(url_for("to", a=1)))
    app.add_url_rule("/to", "to", lambda: request.args["a"])
    client = app.test_client()
    answer = client.get("/from")
    found = client.get("/from", follow_redirects=True)
    return answer.status_code, answer.location, answer.data, found.text


@habit
def a_redirect_to_the_slash(app: Flask) -> object:
    app.add_url_rule("/page/", view_func=lambda: "text")
    answer = app.test_client().get("/page?a=1")
    return answer.status_code, answer.location, answer.content_type


@habit
def a_file_that_is_sent(app: Flask) -> object:
    def view() -> Response:
        content = io.BytesIO(b"abc")
        return flask.send_file(content, "text/plain", as_attachment=True, download_name="a.txt")

    app.add_url_rule("/", view_func=view)
    answer = app.test_client().get("/")
    return answer.status_code, answer.data, answer.headers["Content-Disposition"]


@habit
def a_part_of_a_file(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: flask.send_file(__file__, conditional=True))
    client = app.test_client()
    part = client.get("/", headers={"Range": "bytes=0-1"}, buffered=True)
    again = client.get("/", headers={"If-None-Match": part.headers["ETag"]}, buffered=True)
    return part.status_code, part.data, again.status_code, again.data


@habit
def a_file_of_a_folder(app: Flask) -> object:
    folder = Path(__file__).parent
    app.add_url_rule("/<name>", view_func=lambda name: flask.send_from_directory(folder, name))
    client = app.test_client()
    names = ("common.py", "none", "..")
    return [client.get(f"/{name}", buffered=True).status_code for name in names]


@habit
def a_stream_with_the_context_of_its_request(app: Flask) -> object:
    def chunks() -> Iterator[str]:
        yield request.path
        yield current_app.name[:0] + "end"

    app.add_url_rule("/", view_func=lambda: Response(flask.stream_with_context(chunks())))
    return app.test_client().get("/").text


@habit
def events_that_are_streamed(app: Flask) -> object:
    def view() -> Response:
        events = (f"data: {number}\n\n" for number in range(3))
        return Response(events, mimetype="text/event-stream")

    app.add_url_rule("/", view_func=view)
    answer = app.test_client().get("/")
    return answer.text, answer.content_type, answer.headers.get("Content-Length")


@habit
def streams_that_a_test_does_not_read(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: Response(iter(["a", "b"])))
    client = app.test_client()
    return {client.get("/").status_code for _ in range(300)}


@habit
def streams_that_a_test_reads_and_keeps(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: Response(iter(["a", "b"])))
    client = app.test_client()
    kept: list[TestResponse] = []
    for _ in range(300):
        kept.append(client.get("/"))
        kept[-1].get_data()
    return {(answer.status_code, answer.text) for answer in kept}


@habit
def streams_that_a_test_closes(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: Response(iter(["a", "b"])))
    client = app.test_client()
    statuses: set[int] = set()
    for _ in range(300):
        with client.get("/") as answer:
            statuses.add(answer.status_code)
    return statuses


@habit
def what_is_done_when_the_answer_is_sent(app: Flask) -> object:
    seen: list[str] = []

    @app.get("/")
    def view() -> Response:
        response = make_response("text")
        response.call_on_close(lambda: seen.append("closed"))
        return response

    app.test_client().get("/", buffered=True)
    return seen

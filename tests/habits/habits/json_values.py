"""Habits: values and options of JSON."""

import datetime
import decimal
import uuid
from typing import Any
from typing import cast

from flask import Flask
from flask import jsonify
from flask import request
from flask.json.provider import DefaultJSONProvider
from markupsafe import Markup

from habits.common import habit


class Shout(str):
    """A string of another class."""


VALUES: dict[str, object] = {
    "datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "date": datetime.date(2026, 1, 1),
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=1),
    "int_key": {1: "a"},
    "nan": float("nan"),
    "large": 2**70,
    "tuple": (1, 2),
    "set": {1},
    "bytes": b"x",
    "markup": Markup("<b>"),
    "string": Shout("s"),
    "order": {"b": 1, "a": 2},
    "letter": "\u00e9",
    "surrogate": "\ud800",
}


@habit
def values_in_json(app: Flask) -> object:
    app.add_url_rule("/<name>", view_func=lambda name: jsonify(value=VALUES[name]))
    client = app.test_client()
    answers = {name: client.get(f"/{name}") for name in VALUES}
    return {
        name: answer.text if answer.status_code == 200 else answer.status_code
        for name, answer in answers.items()
    }


@habit
def json_that_a_view_returns(app: Flask) -> object:
    app.add_url_rule("/dictionary", "dictionary", lambda: {"b": 1, "a": [None]})
    app.add_url_rule("/list", "list", lambda: [1, "2"])
    app.add_url_rule("/status", "status", lambda: ({"a": 1}, 201, {"X-A": "1"}))
    client = app.test_client()
    answers = [client.get(path) for path in ("/dictionary", "/list", "/status")]
    return [(answer.status_code, answer.data, answer.content_type) for answer in answers]


@habit
def options_of_json(app: Flask) -> object:
    provider = cast("DefaultJSONProvider", app.json)
    provider.sort_keys = False
    provider.compact = False
    provider.default = lambda _: "other"
    app.add_url_rule("/", view_func=lambda: {"b": object(), "a": 2})
    return app.json.dumps({"b": 1, "a": 2}, indent=2), app.test_client().get("/").text


@habit
def a_json_provider_of_ones_own(app: Flask) -> object:
    class Bracketed(DefaultJSONProvider):
        def dumps(self, obj: Any, **options: Any) -> str:
            return f"[{super().dumps(obj, **options)}]"

        def loads(self, s: str | bytes, **options: Any) -> Any:
            return {"loaded": super().loads(s, **options)}

    app.json = Bracketed(app)
    app.add_url_rule("/", view_func=lambda: request.get_json(), methods=["POST"])
    return app.test_client().post("/", data="1", content_type="application/json").text


@habit
def json_that_a_request_should_have(app: Flask) -> object:
    app.add_url_rule("/", view_func=lambda: str(request.json), methods=["POST"])
    app.add_url_rule(
        "/quiet", "quiet", lambda: str(request.get_json(silent=True)), methods=["POST"]
    )
    client = app.test_client()
    sent: list[dict[str, Any]] = [
        {"json": {"a": 1}},
        {"data": "{", "content_type": "application/json"},
        {"data": "1"},
    ]
    return [
        (client.post("/", **options).status_code, client.post("/quiet", **options).text)
        for options in sent
    ]

"""What comes in: bodies, queries, headers and paths, and what is said of those that are wrong."""

import enum
import gc
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import FrameType
from typing import Any, Literal

import pytest
from flask.testing import FlaskClient
from lab import ITEM
from lab import Item
from lab import Stay
from lab import lab_app
from lab import pointers
from lab import post
from lab import problem
from pydantic import (
    AliasChoices,
    Field,
    NaiveDatetime,
    TypeAdapter,
    create_model,
    model_validator,
)
from werkzeug.test import EnvironBuilder
from werkzeug.test import run_wsgi_app

from service.chassis.http.application import Application
from service.chassis.http.strict import strict
from service.chassis.http.validation import MAX_DETAILED, READERS, Invalid, Model, query_reader


def test_a_right_body_comes_back_as_it_went_in(lab: FlaskClient) -> None:
    response = lab.post("/lab/items", json=ITEM)
    assert (response.status_code, response.get_json()) == (201, ITEM)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"qty": "1"}, "/qty"),
        ({"qty": True}, "/qty"),
        ({"qty": 1.5}, "/qty"),
        ({"qty": 1.0}, "/qty"),
        ({"qty": 10**30}, "/qty"),
        ({"price": False}, "/price"),
        ({"price": "1.5"}, "/price"),
        ({"price": float("nan")}, "/price"),
        ({"price": float("inf")}, "/price"),
        ({"name": None}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": "a\0b"}, "/name"),
        ({"colour": "green"}, "/colour"),
        ({"at": 5}, "/at"),
        ({"packing": {"kind": "box", "width": "1"}}, "/packing/width"),
        ({"packing": {"kind": "box"}}, "/packing/width"),
        ({"packing": {"kind": "bag"}}, "/packing"),
        ({"counts": {"a/b~c": "1"}}, "/counts/a~1b~0c"),
        ({"counts": {"a\0": 1}}, "/counts/a\0"),
        ({"lines": [{"kind": "box", "width": 1}, {"kind": "box", "width": "1"}]}, "/lines/1/width"),
        ({"other": 1}, "/other"),
    ],
)
def test_a_wrong_value_is_pointed_at(
    lab: FlaskClient, change: dict[str, object], pointer: str
) -> None:
    response = post(lab, json.dumps(ITEM | change).encode())
    problem(response, 422)
    assert pointers(response) == [pointer]


def test_a_missing_field_is_pointed_at(lab: FlaskClient) -> None:
    body = {name: value for name, value in ITEM.items() if name != "qty"}
    assert pointers(lab.post("/lab/items", json=body)) == ["/qty"]


def test_every_error_is_listed(lab: FlaskClient) -> None:
    body = ITEM | {"qty": 0, "price": "1"}
    assert pointers(lab.post("/lab/items", json=body)) == ["/qty", "/price"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'name': 1}",
        b"\xff",
        b'{"name": "\xff"}',
        rb'{"name": "\ud800"}',
        b'{"name": "\0"}',
        b"[" * 100_000,
        b'{"a":' * 10_000,
        b'{"qty": ' + b"9" * 5000 + b"}",
        b"{} {}",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_not_json_is_a_bad_request(lab: FlaskClient, data: bytes) -> None:
    problem(post(lab, data), 400)


@pytest.mark.parametrize("data", [b'"{}"', b"null", b"1", b"[]"])
def test_json_of_another_type_is_an_error_of_the_whole_body(lab: FlaskClient, data: bytes) -> None:
    response = post(lab, data)
    problem(response, 422)
    assert pointers(response) == [""]


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"],
)
def test_another_content_type_is_unsupported(lab: FlaskClient, content_type: str | None) -> None:
    problem(post(lab, json.dumps(ITEM).encode(), content_type), 415)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/merge-patch+json"]
)
def test_a_json_type_is_taken(lab: FlaskClient, content_type: str) -> None:
    assert post(lab, json.dumps(ITEM).encode(), content_type).status_code == 201


def test_a_body_over_the_limit_is_too_large(lab: FlaskClient) -> None:
    lab.application.config["MAX_CONTENT_LENGTH"] = 10
    problem(lab.post("/lab/items", json=ITEM), 413)


def test_half_a_megabyte_of_errors_is_answered_in_a_line(lab: FlaskClient) -> None:
    data = b"[" + b"0," * 250_000 + b"0]"
    response = lab.put("/lab/items", data=data, content_type="application/json")
    problem(response, 422)
    assert len(response.data) < 500


def test_an_error_repeats_neither_input_nor_addresses(lab: FlaskClient) -> None:
    response = lab.post("/lab/items", json=ITEM | {"qty": "hunter2"})
    error = {"detail": "Input should be a valid integer", "pointer": "/qty"}
    assert response.get_json()["errors"] == [error]


def test_a_patch_tells_absent_from_given(lab: FlaskClient) -> None:
    assert lab.patch("/lab/items/1", json={}).get_json()["name"] == "a"
    assert lab.patch("/lab/items/1", json={"name": "b"}).get_json()["name"] == "b 1 None"


def test_a_patch_with_null_is_refused(lab: FlaskClient) -> None:
    assert "/name" in pointers(lab.patch("/lab/items/1", json={"name": None}))


def test_a_query_is_read_with_defaults_lists_and_enums(lab: FlaskClient) -> None:
    response = lab.get("/lab/items?tag=a&tag=b&colour=red&text_part=%F0%9F%98%80")
    assert response.get_json()["name"] == "20 ['a', 'b'] Colour.RED \N{GRINNING FACE}"


def test_a_list_of_one_in_the_query_is_a_list(lab: FlaskClient) -> None:
    assert lab.get("/lab/items?tag=a").get_json()["name"] == "20 ['a'] None None"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("colour=green", "colour"),
        ("other=1", "other"),
        ("text_part=%00", "text_part"),
        ("text_part=a&text_part=b", "text_part"),
        ("tag=%00", "tag"),
    ],
)
def test_a_wrong_query_names_the_parameter(lab: FlaskClient, query: str, parameter: str) -> None:
    response = lab.get(f"/lab/items?{query}")
    problem(response, 422)
    assert [error["parameter"] for error in response.get_json()["errors"]] == [parameter]


def test_many_wrong_parameters_are_answered_in_a_line(lab: FlaskClient) -> None:
    response = lab.get("/lab/items?" + "&".join(f"x{number}=1" for number in range(500)))
    assert (response.status_code, len(response.get_json()["errors"])) == (422, 1)


def test_an_error_of_the_whole_query_names_no_parameter() -> None:
    class Interval(Model):
        first: int
        last: int

        @model_validator(mode="after")
        def check_order(self) -> "Interval":
            if self.first > self.last:
                raise ValueError("first must not be after last")
            return self

    read = query_reader(Interval)
    app = Application(__name__)
    with app.test_request_context("/?first=1&last=2"):
        assert read() == Interval(first=1, last=2)
    with app.test_request_context("/?first=2&last=1"), pytest.raises(Invalid) as refusal:
        read()
    assert refusal.value.errors == ({"detail": "Value error, first must not be after last"},)


def test_a_header_is_read_by_its_name(lab: FlaskClient) -> None:
    headers = {"If-Match": "v1", "X-Other": "1"}
    response = lab.patch("/lab/items/1", json={"name": "b"}, headers=headers)
    assert response.get_json()["name"] == "b 1 v1"


def test_a_wrong_header_is_named(lab: FlaskClient) -> None:
    response = lab.patch("/lab/items/1", json={}, headers={"If-Match": "x" * 11})
    assert [error["header"] for error in response.get_json()["errors"]] == ["if-match"]


def test_a_path_with_nul_is_not_found(lab: FlaskClient) -> None:
    problem(lab.delete("/lab/items/a%00b"), 404)


def test_a_field_may_be_called_default_or_type(lab: FlaskClient) -> None:
    assert lab.post("/lab/jobs", json={"default": "a"}).get_json()["name"] == "aplain"
    assert pointers(lab.post("/lab/jobs", json={"default": "\0"})) == ["/default"]


STAY = {"from": "2026-01-31"}
BOOKED = STAY | {"nights": 1, "note": "booked"}


def test_an_alias_is_the_name_in_requests_and_answers(lab: FlaskClient) -> None:
    assert lab.post("/lab/stays", json=STAY).get_json() == BOOKED
    url = "/lab/stays?from=2026-01-31&day=2026-02-01"
    stays = lab.get(url, headers={"X-Agent": "me"}).get_json()
    assert [(stay["from"], stay["note"]) for stay in stays] == [
        ("2026-01-31", "me"),
        ("2026-02-01", "me"),
    ]


def test_a_client_cannot_use_the_name_behind_an_alias(lab: FlaskClient) -> None:
    assert pointers(lab.post("/lab/stays", json={"start": "2026-01-31"})) == ["/from", "/start"]
    problem(lab.get("/lab/stays?start=2026-01-31"), 422)


@pytest.mark.parametrize("place", ["query_string", "headers"])
def test_a_parameter_may_keep_its_old_name(place: str) -> None:
    class Page(Model):
        size: int = Field(validation_alias=AliasChoices("size", "limit"))

    read = READERS["query" if place == "query_string" else place](Page)
    for name in ("size", "limit"):
        with Application(__name__).test_request_context(**{place: {name: "5"}}):
            assert read() == Page(size=5)


@pytest.mark.parametrize("name", ["from", "day"])
def test_a_wrong_parameter_is_named_by_its_alias(lab: FlaskClient, name: str) -> None:
    (error,) = lab.get(f"/lab/stays?{name}=1").get_json()["errors"]
    expected = {"detail": "Input should be ISO 8601, such as 2026-01-31", "parameter": name}
    assert error == expected


class Level(enum.IntEnum):
    LOW = 1


NAIVE = datetime.fromisoformat("2026-01-31T12:00:00")
NOON = NAIVE.replace(tzinfo=UTC)
FORMS: dict[Any, tuple[dict[str, Any], str]] = {
    int: (
        {"5": 5, "-5": -5, "0": 0, "9" * 30: 10**30 - 1},
        " 5 |5.0|1_0|+5|05|1e3|0x5|true|\N{ARABIC-INDIC DIGIT THREE}|" + "9" * 5000,
    ),
    float: ({"1.5": 1.5, "5": 5.0, "-1e3": -1000.0}, "1_0| 1.5|.5|5.|inf|nan|1e999|on"),
    bool: ({"true": True, "false": False, "True": True}, "on|off|yes|1|0|t|2|"),
    Level: ({"1": Level.LOW}, "2|LOW|"),
    Literal[1, 2]: ({"1": 1}, "3|a"),
    int | None: ({"5": 5}, "5.0|null|"),
    int | str: ({"5": "5", "a": "a"}, "\0"),
    Decimal: ({"1.10": Decimal("1.10"), "5": Decimal(5)}, "x|nan|"),
    date: (
        {"2026-01-31": date(2026, 1, 31)},
        "1|1.5|1735689600000|20260131|2026-02-30|2026-1-1|2026-01-31T00:00:00Z| 2026-01-31|now|",
    ),
    datetime: (
        {
            "2026-01-31T12:00:00Z": NOON,
            "2026-01-31t12:00:00.000z": NOON,
            "2026-01-31T13:00+01:00": NOON,
        },
        "1|1.5|2026-01-31|20260131T120000Z|2026-01-31T12:00:00|2026-01-31 12:00:00Z"
        "|2026-01-31T25:00Z|2026-01-31T12:00:00 01:00",
    ),
    NaiveDatetime: ({"2026-01-31T12:00:00": NAIVE}, "1|2026-01-31T12:00:00Z"),
    time: ({"12:30": time(12, 30), "12:30:15": time(12, 30, 15)}, "1|3600|12|12:60|24:30"),
    timedelta: ({"PT1H": timedelta(hours=1), "P1D": timedelta(days=1)}, "1|3600|01:00|1 day|P"),
}
RIGHT = [(kind, text, value) for kind, (right, _) in FORMS.items() for text, value in right.items()]
WRONG = [(kind, text) for kind, (_, wrong) in FORMS.items() for text in wrong.split("|")]
IN_BODIES = (date, datetime, NaiveDatetime, time, timedelta)


def read(kind: Any, place: str, value: Any) -> Any:
    """Read a value of this kind from a query, a header or a body."""
    hint = list[kind] if place == "list" else kind
    model = create_model("One", __base__=Model, value=(hint, ...))
    sent: dict[str, Any] = {
        "query": {"query_string": {"value": value}},
        "list": {"query_string": {"value": [value]}},
        "headers": {"headers": {"value": value}},
        "body": {"json": {"value": value}},
    }
    with Application(__name__).test_request_context(method="POST", **sent[place]):
        found = READERS["query" if place == "list" else place](model)().value
    return found[0] if place == "list" else found


@pytest.mark.parametrize(("kind", "text", "value"), RIGHT)
@pytest.mark.parametrize("place", ["query", "list", "headers"])
def test_a_parameter_is_read_as_json_would_write_it(
    kind: Any, text: str, value: Any, place: str
) -> None:
    found = read(kind, place, text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(("kind", "text"), WRONG)
@pytest.mark.parametrize("place", ["query", "list"])
def test_a_parameter_in_another_form_is_refused(kind: Any, text: str, place: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read(kind, place, text)
    assert refusal.value.errors[0]["parameter"] == "value"


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, text) for kind, text in WRONG if kind in IN_BODIES]
    + [(kind, number) for kind in IN_BODIES for number in (1, 1.5, 1735689600000, True)],
)
def test_a_date_or_time_in_a_body_is_text_in_iso_8601(kind: Any, value: Any) -> None:
    with pytest.raises(Invalid) as refusal:
        read(kind, "body", value)
    assert refusal.value.errors[0]["pointer"] == "/value"


@pytest.mark.parametrize(("kind", "text", "value"), [row for row in RIGHT if row[0] in IN_BODIES])
def test_a_date_or_time_in_a_body_is_read(kind: Any, text: str, value: Any) -> None:
    assert read(kind, "body", text) == value


def test_python_gives_fields_their_names_and_dates_as_objects() -> None:
    stay = Stay.model_validate({"start": date(2026, 1, 31)})
    assert Stay.model_validate(stay.model_dump()) == stay


def test_an_answer_refuses_a_time_without_zone() -> None:
    with pytest.raises(ValueError, match="timezone"):
        Item.model_validate(ITEM | {"colour": "red", "at": NAIVE})


@pytest.mark.parametrize("kind", [list[str], list[float], list[datetime]])
def test_a_body_that_is_no_model_is_as_strict(kind: Any) -> None:
    wrong = {list[str]: '["\\u0000"]', list[float]: "[NaN]", list[datetime]: '["2026-01-31T12:00"]'}
    options: dict[str, Any] = {"data": wrong[kind], "content_type": "application/json"}
    context = Application(__name__).test_request_context(method="POST", **options)
    with context, pytest.raises(Invalid):
        READERS["body"](kind)()


def test_a_pattern_of_ones_own_lets_no_nul_pass() -> None:
    class Label(Model):
        text: str = Field(pattern="^.{1,40}$")

    class Labels(Model):
        label: Label

    with pytest.raises(ValueError, match=r"U\+0000"):
        Labels.model_validate({"label": {"text": "a\0b"}})
    assert Labels.model_validate({"label": {"text": "ab"}}).label.text == "ab"


def test_an_example_may_look_like_a_schema() -> None:
    class Form(Model):
        fields: list[dict[str, str]] = Field(examples=[[{"type": "date"}, {"type": "str"}]])

    schema = Form.model_json_schema()["properties"]["fields"]
    assert schema["examples"] == [[{"type": "date"}, {"type": "str"}]]


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_cannot_express_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        read(datetime, "body", text)


@pytest.mark.parametrize(("depth", "status"), [(32, 422), (33, 400)])
def test_a_body_is_nested_so_deep_at_most(lab: FlaskClient, depth: int, status: int) -> None:
    text = '{"\\"[":' + "[" * (depth - 1) + '"]"' + "]" * (depth - 1) + "}"
    assert post(lab, text.encode()).status_code == status


def test_of_each_list_in_a_large_body_only_the_first_error_is_noted(lab: FlaskClient) -> None:
    wrong = {"lines": [{"kind": "box"}] * 2, "counts": {"a": "1", "b": "1"}}
    data = json.dumps(ITEM | wrong).encode()
    all_errors = ["/counts/a", "/counts/b", "/lines/0/width", "/lines/1/width"]
    assert pointers(post(lab, data)) == all_errors
    assert pointers(post(lab, data + b" " * MAX_DETAILED)) == ["/counts/a", "/lines/0/width"]


def test_a_large_body_is_read_as_a_small_one(lab: FlaskClient) -> None:
    item = ITEM | {"lines": [{"kind": "box", "width": 1}] * 2}
    for padding in (0, MAX_DETAILED):
        assert post(lab, json.dumps(item).encode() + b" " * padding).get_json() == item


def test_a_refused_body_leaves_nothing_to_the_garbage_collector() -> None:
    app = lab_app()

    def ask() -> str:
        options: dict[str, Any] = {"data": b"{}", "content_type": "application/json"}
        environ = EnvironBuilder("/lab/items", method="POST", **options).get_environ()
        return run_wsgi_app(app, environ, buffered=True)[1]

    ask()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert ask().startswith("422")
        gc.collect()
        left = [one for one in gc.garbage if isinstance(one, BaseException | FrameType)]
        assert left == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_a_body_of_models_is_made_strict_once() -> None:
    class Label(Model):
        plain: str
        coded: str = Field(pattern="^[a-z]+$")
        at: datetime

    schema = TypeAdapter(list[Label]).core_schema
    assert strict(schema) == schema
    assert str(schema).count("_refuse_nul") == 1  # a call in Python costs, so only where it must

"""Values as text in paths, queries and headers, as other services write JSON."""

from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from service.chassis.client import wire

NUMBER = UUID(int=7)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_a_value_in_a_path_is_one_segment() -> None:
    template = "/v1/{name}/{number}"
    assert wire.path(template, name="a/b é?", number=NUMBER) == f"/v1/a%2Fb%20%C3%A9%3F/{NUMBER}"
    for name in ("", ".", ".."):
        with pytest.raises(ValueError, match="cannot stand in a path"):
            wire.path(template, name=name, number=NUMBER)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (7, "7"),
        (1.5, "1.5"),
        (True, "true"),
        (NOON, "2026-01-31T12:00:00+00:00"),
        (date(2026, 1, 31), "2026-01-31"),
        (NUMBER, str(NUMBER)),
    ],
)
def test_a_value_is_written_as_in_json(value: object, text: str) -> None:
    assert wire.query({"a": value}) == {"a": [text]}
    assert wire.headers({"A": value}) == {"A": text}


def test_what_has_no_value_is_left_out_and_a_list_is_repeated() -> None:
    values = {"a": None, "b": ["x", 2], "c": ""}
    assert wire.query(values) == {"b": ["x", "2"], "c": [""]}
    assert wire.headers(values) == {"b": "x, 2", "c": ""}

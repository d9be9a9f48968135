"""Pages: a cursor leads through the whole list, and through no other."""

from typing import Any

import parcels
import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import Connection
from werkzeug.test import TestResponse

from service.chassis.resources.pagination import make_cursor_key
from service.settings import Settings


@pytest.fixture
def stored(connection: Connection) -> list[str]:
    """The ids of five parcels, in the order of the list."""
    made = [parcels.make(f"P-{number}") for number in range(5)]
    for parcel in made:
        parcels.insert(connection, parcel)
    return sorted(str(parcel.id) for parcel in made)


def next_page(response: TestResponse) -> str | None:
    link = response.headers.get("Link")
    return link.partition("<")[2].partition(">")[0] if link else None


def test_a_list_walked_page_by_page_is_whole_and_in_order(
    client: FlaskClient, stored: list[str]
) -> None:
    walked = []
    page: str | None = "/lab/parcels?limit=2"
    while page:
        response = client.get(page)
        walked += [item["id"] for item in response.get_json()["items"]]
        page = next_page(response)
    assert walked == stored


@pytest.mark.usefixtures("stored")
def test_the_last_page_has_no_link(client: FlaskClient) -> None:
    assert next_page(client.get("/lab/parcels?limit=5")) is None


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é", "A" * 300])
def test_a_cursor_not_ours_is_refused(client: FlaskClient, cursor: str) -> None:
    response = client.get("/lab/parcels", query_string={"cursor": cursor})
    assert (response.status_code, response.get_json()["errors"][0]["parameter"]) == (422, "cursor")


@pytest.mark.usefixtures("stored")
def test_a_cursor_continues_no_other_list(client: FlaskClient) -> None:
    link = next_page(client.get("/lab/parcels?limit=1")) or ""
    assert client.get(link).status_code == 200
    assert client.get(f"{link}&weight=1").status_code == 422


@pytest.mark.parametrize("limit", ["0", "101", "1e9"])
def test_a_limit_out_of_bounds_is_refused(client: FlaskClient, limit: str) -> None:
    assert client.get(f"/lab/parcels?limit={limit}").status_code == 422


def keys(*passwords: str, **more: Any) -> set[bytes]:
    url = SecretStr("postgresql://u@h/x")
    return {
        make_cursor_key(Settings(database_url=url, database_password=SecretStr(p), **more))
        for p in passwords
    }


def test_replicas_of_one_database_sign_cursors_alike() -> None:
    assert len(keys("a", "a")) == 1
    assert len(keys("a", "b")) == 2


def test_a_key_that_is_set_signs_the_cursors() -> None:
    assert keys("a", "b", cursor_key=SecretStr("mine")) == {b"mine"}


def test_without_a_url_each_process_signs_with_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    assert make_cursor_key(Settings()) != make_cursor_key(Settings())

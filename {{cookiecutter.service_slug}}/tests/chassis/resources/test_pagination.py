"""Pages: a cursor leads through the whole list, and through no other."""

import logging
import re
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import urljoin, urlsplit

import parcels
import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr, ValidationError
from sqlalchemy import Connection
from werkzeug.test import TestResponse

from service.chassis.http.application import Application
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
    link = re.match("<(.*)>", response.headers.get("Link", ""))
    return urljoin(response.request.path, link[1]) if link else None


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


@pytest.mark.usefixtures("stored")
def test_a_cursor_continues_no_list_of_another_route(app: Application, client: FlaskClient) -> None:
    app.add_url_rule("/other", view_func=app.view_functions["parcels.list_parcels"])
    query = urlsplit(next_page(client.get("/lab/parcels?limit=1")) or "").query
    answers = [client.get(f"{path}?{query}").status_code for path in ("/lab/parcels", "/other")]
    assert answers == [200, 422]


@pytest.mark.usefixtures("connection")
@pytest.mark.parametrize("payload", ["", "not json", "0", "[]", "{}", "[5]", '["x"]', '["x", "y"]'])
def test_a_position_that_is_signed_and_yet_none_is_refused(
    app: Application, client: FlaskClient, payload: str
) -> None:
    with app.test_request_context("/lab/parcels"):
        sealed = parcels.ParcelsQuery()._sign(payload.encode()) + payload.encode()
    cursor = urlsafe_b64encode(sealed).decode()
    response = client.get("/lab/parcels", query_string={"cursor": cursor})
    assert (response.status_code, response.get_json()["errors"][0]["parameter"]) == (422, "cursor")


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
    assert keys("a", "b", cursor_key=SecretStr("m" * 16)) == {b"m" * 16}


def test_a_key_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 16"):
        Settings(cursor_key=SecretStr("mine"))


@pytest.mark.parametrize(
    ("url", "is_warned_of"),
    [("", False), ("sqlite:////data/x.db", False), ("postgresql://user@host/name", True)],
)
def test_without_a_password_each_process_signs_with_a_key_of_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str, is_warned_of: bool
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with caplog.at_level(logging.WARNING):
        key = make_cursor_key(Settings())
    assert key != make_cursor_key(Settings())
    assert ("set CURSOR_KEY" in caplog.text) is is_warned_of

"""Idempotency-Key: whoever repeats a request gets its first answer, and makes nothing twice."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import parcels
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy import Connection
from werkzeug.test import TestResponse

from database import only_postgres
from service.chassis.http.application import Application
from service.chassis.resources import idempotency

PARCEL = {"reference": "P-1", "weight": 2}

pytestmark = pytest.mark.usefixtures("connection")


def send(client: FlaskClient, key: str, **changes: Any) -> TestResponse:
    headers = {"Idempotency-Key": key}
    return client.post("/lab/parcels", json=PARCEL | changes, headers=headers)


def test_a_repeated_request_gets_the_first_answer(
    client: FlaskClient, connection: Connection
) -> None:
    first, again = send(client, "k"), send(client, "k")
    assert (again.status_code, again.data, again.headers["Location"]) == (
        201,
        first.data,
        first.headers["Location"],
    )
    assert parcels.count(connection) == 1


def test_a_key_with_another_body_is_refused(client: FlaskClient) -> None:
    send(client, "k")
    assert send(client, "k", weight=3).status_code == 422


def test_a_request_that_failed_leaves_its_key_free(client: FlaskClient) -> None:
    send(client, "other")
    assert send(client, "k").status_code == 409
    assert send(client, "k", reference="P-2").status_code == 201


def test_a_key_is_forgotten_when_it_expires(
    client: FlaskClient, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "LIFETIME", 0)
    send(client, "k")
    assert send(client, "k", reference="P-2").status_code == 201
    assert parcels.count(connection) == 2


def test_expired_keys_are_purged(connection: Connection) -> None:
    row = {"fingerprint": b"", "location": "", "answer": ""}
    connection.execute(
        idempotency.INSERT, [row | {"key": "old", "expires": 1}, row | {"key": "new", "expires": 3}]
    )
    connection.execute(idempotency.PURGE, {"now": 2})
    assert connection.scalars(sa.select(idempotency.KEYS.c.key)).all() == ["new"]


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256])
def test_a_key_out_of_its_form_is_pointed_at(client: FlaskClient, key: str) -> None:
    response = send(client, key.encode("utf-8").decode("latin-1"))
    assert (response.status_code, response.get_json()["errors"][0]["header"]) == (
        422,
        "idempotency-key",
    )


@only_postgres
def test_a_repetition_while_the_first_request_runs_is_told_so(
    app: Application, client: FlaskClient
) -> None:
    with app.extensions["database"].transaction() as first:
        first.execute(idempotency.TRY_LOCK, {"key": "k"})
        response = send(client, "k")
    assert (response.status_code, "still running" in response.get_json()["detail"]) == (409, True)


def test_one_key_sent_by_many_at_once_makes_one_row(
    app: Application, connection: Connection
) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(app.test_client(), "k"), range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.data for answer in answers if answer.status_code == 201}) == 1
    assert parcels.count(connection) == 1

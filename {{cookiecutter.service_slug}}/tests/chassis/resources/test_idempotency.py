"""Idempotency-Key: whoever repeats a request gets its first answer, and makes nothing twice."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import parcels
import pytest
import sqlalchemy as sa
from flask import g, request
from flask.testing import FlaskClient
from pydantic import Field
from sqlalchemy import Connection
from werkzeug.test import TestResponse

from database import only_postgres
from service.chassis.http.application import Application
from service.chassis.http.routes import Created
from service.chassis.http.validation import Model
from service.chassis.resources import idempotency
from service.chassis.resources.idempotency import IdempotencyKey

PARCEL = {"reference": "P-1", "weight": 2}

pytestmark = pytest.mark.usefixtures("connection")


def send(client: FlaskClient, key: str, token: str = "", **changes: Any) -> TestResponse:
    headers = {"Idempotency-Key": key} | ({"Authorization": token} if token else {})
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


class Stay(Model):
    start: str = Field(alias="from")


def replayed(app: Application) -> Created[Stay]:
    body = Stay(start="noon")
    key = IdempotencyKey(idempotency_key="k")
    with (
        app.test_request_context("/stays", method="POST"),
        app.extensions["database"].transaction() as connection,
    ):
        return idempotency.run_once(connection, key, body, Stay, lambda: Created(body, {}))


def test_a_repetition_of_an_answer_with_an_alias_is_the_same(app: Application) -> None:
    first, again = replayed(app), replayed(app)
    assert first.encoded == again.encoded == b'{"from":"noon"}'
    assert first.body == again.body


def test_a_newer_release_may_have_stored_an_answer_with_more_fields(
    app: Application, connection: Connection
) -> None:
    replayed(app)
    more = '{"from":"noon","until":"night"}'
    connection.execute(sa.update(idempotency.KEYS).values(answer=more))
    assert replayed(app).encoded == more.encode()


def test_a_key_with_another_body_is_refused(client: FlaskClient) -> None:
    send(client, "k")
    assert send(client, "k", weight=3).status_code == 422


def test_a_key_with_another_query_is_refused(client: FlaskClient) -> None:
    send(client, "k")
    headers = {"Idempotency-Key": "k"}
    assert client.post("/lab/parcels?draft=1", json=PARCEL, headers=headers).status_code == 422


def test_a_key_is_its_callers(client: FlaskClient) -> None:
    first = send(client, "k", "Bearer ann")
    others = [send(client, "k", "Bearer bob", reference="P-2"), send(client, "k", reference="x")]
    assert [other.status_code for other in others] == [201, 201]
    assert send(client, "k", "Bearer ann").data == first.data


def test_authentication_may_say_who_the_caller_is(app: Application, client: FlaskClient) -> None:
    @app.before_request
    def authenticate() -> None:
        g.caller = request.headers["Authorization"].split()[1]

    first = send(client, "k", "Bearer ann 1")
    assert send(client, "k", "Bearer ann 2").data == first.data
    assert send(client, "k", "Bearer bob 1", reference="P-2").status_code == 201


def test_a_key_holds_for_one_method_and_path(app: Application) -> None:
    def run(method: str, path: str) -> UUID:
        """Send one body with one key to another route."""
        made = Created(parcels.to_body(parcels.make()))
        with (
            app.test_request_context(path, method=method),
            app.extensions["database"].transaction() as connection,
        ):
            body = parcels.NewParcel(reference="P-1", weight=1)
            key = IdempotencyKey(idempotency_key="k")
            answer = idempotency.run_once(connection, key, body, parcels.ParcelBody, lambda: made)
        return answer.body.id

    routes = [("POST", "/a/payments"), ("PUT", "/a/payments"), ("POST", "/b/payments")]
    first = [run(*route) for route in routes]
    assert len(set(first)) == len(routes)
    assert [run(*route) for route in routes] == first


@pytest.mark.parametrize("named", [(0, None), (1, "1 "), (UUID(int=1), "")])
def test_callers_are_told_apart(app: Application, named: tuple[object, ...]) -> None:
    keys = set()
    for identity in named:
        with app.test_request_context("/lab/parcels", method="POST"):
            g.caller = identity
            keys.add(idempotency.stored_key("k"))
    assert len(keys) == len(named)


def test_a_caller_without_an_identity_is_refused(app: Application) -> None:
    with app.test_request_context("/lab/parcels", method="POST"):
        g.caller = object()
        with pytest.raises(TypeError, match="what identifies a caller"):
            idempotency.stored_key("k")


class Total(Model):
    cents: int = Field(serialization_alias="totalCents")
    note: str = Field("", exclude=True)


def test_a_repetition_has_all_headers_and_an_answer_that_cannot_be_read_back(
    app: Application,
) -> None:
    body = Stay(start="noon")
    made = Created(Total(cents=5, note="x"), {"Location": "7", "X-Total": "5"})
    answers = []
    for _ in range(2):
        with (
            app.test_request_context("/totals", method="POST"),
            app.extensions["database"].transaction() as connection,
        ):
            key = IdempotencyKey(idempotency_key="k")
            answers.append(idempotency.run_once(connection, key, body, Total, lambda: made))
    assert [answer.encoded for answer in answers] == [b'{"totalCents":5}'] * 2
    assert answers[1].headers == made.headers


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
    row = {"fingerprint": b"", "headers": "", "answer": ""}
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
        with app.test_request_context("/lab/parcels", method="POST"):
            first.execute(idempotency.TRY_LOCK, {"key": idempotency.stored_key("k")})
        response = send(client, "k")
        other = send(client, "k", "Bearer bob", reference="P-2")
    assert (response.status_code, "still running" in response.get_json()["detail"]) == (409, True)
    assert other.status_code == 201


def test_one_key_sent_by_many_at_once_makes_one_row(
    app: Application, connection: Connection
) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(app.test_client(), "k"), range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.data for answer in answers if answer.status_code == 201}) == 1
    assert parcels.count(connection) == 1

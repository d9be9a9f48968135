"""ETags: what the client has is not sent again, and what it has not seen does not change."""

import parcels
import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection

PARCEL = {"reference": "P-1", "weight": 2}


@pytest.fixture
def location(connection: Connection) -> str:
    """The path of a parcel of version 1."""
    parcel = parcels.make()
    parcels.insert(connection, parcel)
    return f"/lab/parcels/{parcel.id}"


@pytest.mark.parametrize("etags", ['"1"', 'W/"1"', '"0", "1"', "*"])
def test_what_the_client_has_is_not_sent_again(
    client: FlaskClient, location: str, etags: str
) -> None:
    response = client.get(location, headers={"If-None-Match": etags})
    assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", '"1"')


@pytest.mark.parametrize("headers", [{}, {"If-None-Match": '"0", W/"2"'}])
def test_what_the_client_has_not_is_sent(
    client: FlaskClient, location: str, headers: dict[str, str]
) -> None:
    response = client.get(location, headers=headers)
    assert (response.status_code, response.headers["ETag"]) == (200, '"1"')


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 428), ({"If-Match": '"9"'}, 412), ({"If-Match": 'W/"1"'}, 412)]
)
def test_a_change_needs_the_etag(
    client: FlaskClient, location: str, headers: dict[str, str], status: int
) -> None:
    assert client.put(location, headers=headers, json=PARCEL).status_code == status


@pytest.mark.parametrize("etag", ['"1"', '"0", "1"', "*"])
def test_a_change_with_it_makes_a_new_one(client: FlaskClient, location: str, etag: str) -> None:
    response = client.put(location, headers={"If-Match": etag}, json=PARCEL)
    assert (response.status_code, response.headers["ETag"]) == (200, '"2"')

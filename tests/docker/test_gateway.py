"""The service behind nginx, which strips a prefix and says that it ended TLS."""

import json
import re
import uuid
from collections.abc import Iterator
from urllib.parse import urljoin
from urllib.parse import urlsplit

import pytest

from tests.docker.containers import Bake
from tests.docker.containers import Container
from tests.docker.containers import ask
from tests.docker.containers import build
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import replaced
from tests.docker.containers import status

pytestmark = pytest.mark.docker

NGINX = "nginx:1"
CONFIGURATION = """
server {
    listen 80;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header X-Forwarded-Proto https;
    location /shop/ { proxy_pass http://plain:5000/; }
    location /fixed/ { proxy_pass http://fixed:5000/; proxy_set_header X-Forwarded-Prefix /fixed; }
}
"""
VIEWS = """

def add_views(app: Application) -> None:
    from flask import redirect, url_for

    app.add_url_rule("/a/things/", "things", lambda: "things")
    app.add_url_rule("/moved", "moved", lambda: redirect(url_for("things")))


def with_views() -> Application:
    app = made()
    add_views(app)
    return app


made = create_app
create_app = with_views
"""
PROXY_FIX = """

def with_proxy_fix() -> Application:
    from werkzeug.middleware.proxy_fix import ProxyFix

    app = with_views()
    app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=1, x_prefix=1)
    return app


create_app = with_proxy_fix
"""
DATABASE = ("--tmpfs", "/data", "--env", "DATABASE_URL=sqlite:////data/service.db")
SITE = "https://example.org"  # as clients know nginx


class Gateway:
    """nginx, and the port of the service itself."""

    def __init__(self, port: int, direct: int) -> None:
        """Know where both listen."""
        self.port = port
        self.direct = direct

    def send(
        self, url: str, method: str = "GET", body: object = None
    ) -> tuple[int, str, dict[str, str]]:
        """Return status, body and headers; the URL must be one of the site's."""
        assert url.startswith(f"{SITE}/"), url
        headers = {"Host": "example.org"} | ({"Content-Type": "application/json"} if body else {})
        text = json.dumps(body) if body else None
        answer = ask(self.port, url.removeprefix(SITE), method, text, headers)
        return answer[0], answer[2].decode(), dict(answer[1])


@pytest.fixture(scope="module")
def gateway(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two services with a database behind nginx: as it is, and with ProxyFix."""
    service = bake(database="postgresql")
    name = f"gateway-{uuid.uuid4().hex[:12]}"
    folder = tmp_path_factory.mktemp(name)
    (folder / "default.conf").write_text(CONFIGURATION)
    build(service, name)
    docker("network", "create", name)
    started: list[Container] = []
    try:
        for alias, appended in (("plain", VIEWS), ("fixed", VIEWS + PROXY_FIX)):
            (folder / alias).mkdir()
            network = ("--network", name, "--network-alias", alias, "--publish", "127.0.0.1::5000")
            code = replaced(folder / alias, service, appended)
            started.append(Container(name, *network, *DATABASE, *code))
            docker("exec", started[-1].id, "python", "-m", "alembic", "upgrade", "head")
            started[-1].wait_until_ready()
        mounted = f"{folder / 'default.conf'}:/etc/nginx/conf.d/default.conf:ro"
        options = ("--network", name, "--publish", "127.0.0.1::80", "--volume", mounted)
        nginx = docker("run", "--detach", "--name", f"{name}-nginx", *options, NGINX)
        port = int(docker("port", nginx, "80").splitlines()[0].rpartition(":")[2])
        eventually(lambda: status(port, "/shop/livez") == 200, "nginx passes requests on")
        yield Gateway(port, started[0].port)
    finally:
        docker("rm", "--force", "--volumes", *docker("ps", "-aq", "-f", f"network={name}").split())
        docker("network", "rm", name)
        docker("rmi", "--force", name)


@pytest.mark.parametrize("prefix", ["shop", "fixed"])
def test_what_was_created_is_where_its_location_leads_to(gateway: Gateway, prefix: str) -> None:
    orders = f"{SITE}/{prefix}/v1/orders"
    body = {"reference": uuid.uuid4().hex, "sku": "tea", "quantity": 1}
    code, text, headers = gateway.send(orders, "POST", body)
    assert code == 201
    assert gateway.send(urljoin(orders, headers["location"]))[:2] == (200, text)


@pytest.mark.parametrize("prefix", ["shop", "fixed"])
def test_the_links_of_a_list_lead_through_all_of_it(gateway: Gateway, prefix: str) -> None:
    page = f"{SITE}/{prefix}/v1/orders?limit=1"
    made = set()
    for _ in range(3):
        body = {"reference": uuid.uuid4().hex, "sku": "tea", "quantity": 1}
        made.add(json.loads(gateway.send(page, "POST", body)[1])["id"])
    found: set[str] = set()
    while page:
        code, text, headers = gateway.send(page)
        assert code == 200
        found |= {item["id"] for item in json.loads(text)["items"]}
        link = re.match("<(.*)>", headers.get("link", ""))
        page = urljoin(page, link[1]) if link else ""
    assert made <= found


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("shop/", "shop/docs/"),
        ("shop/docs", "shop/docs/"),
        ("shop/a/things?b=1", "shop/a/things/?b=1"),
        ("fixed/", "fixed/docs/"),
        ("fixed/docs", "fixed/docs/"),
        ("fixed/a/things?b=1", "fixed/a/things/?b=1"),
        ("fixed/moved", "fixed/a/things/"),
    ],
)
def test_a_redirect_stays_behind_the_prefix(gateway: Gateway, path: str, end: str) -> None:
    url = f"{SITE}/{path}"
    code, _, headers = gateway.send(url)
    assert code in (302, 308)
    assert urljoin(url, headers["location"]) == f"{SITE}/{end}"
    assert gateway.send(f"{SITE}/{end}")[0] == 200


def test_the_page_finds_the_document_and_what_it_describes(gateway: Gateway) -> None:
    page = f"{SITE}/shop/docs/"
    named = re.search(r'url: "([^"]+)"', gateway.send(f"{page}start.js")[1])
    assert named
    address = urljoin(page, named[1])
    document = json.loads(gateway.send(address)[1])
    server = urljoin(address, document["servers"][0]["url"])
    paths = [path for path in document["paths"] if "{" not in path and path != "/v1/quotes"]
    found = {path: gateway.send(server.removesuffix("/") + path)[0] for path in paths}
    assert found == dict.fromkeys(paths, 200)
    assert urlsplit(server).path == "/shop/"


@pytest.mark.parametrize("path", ["//admin", "//docs/", "///v1/products/tea", "//livez"])
def test_a_path_that_begins_with_two_slashes_is_unknown(gateway: Gateway, path: str) -> None:
    code, headers, _ = ask(gateway.direct, path)
    assert (code, headers["Content-Type"]) == (404, "application/problem+json")

"""Real services behind the platform's gateway: where requests go, and what clients get back."""

import http.client
import json
import re
import ssl
import subprocess
import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.parse import urlsplit

import pytest

from tests.docker.collector import Collector
from tests.docker.containers import Bake
from tests.docker.containers import ask
from tests.docker.containers import docker
from tests.docker.containers import eventually
from tests.docker.containers import fetch
from tests.docker.containers import status
from tests.docker.load import Client
from tests.docker.load import Load
from tests.docker.system import Shop
from tests.docker.system import System
from tests.docker.system import system

pytestmark = pytest.mark.docker

SITE = "http://shop.example"
PROBLEM = "application/problem+json"
SAMPLER = "OTEL_TRACES_SAMPLER"
PAUSE = 0.05  # seconds, so that the clients of a load stay below the rate of a consumer


def send(
    shop: Shop, url: str, method: str = "GET", body: object = None
) -> tuple[int, str, dict[str, str]]:
    """Ask the gateway as the site; return status, body and headers with small letters."""
    assert url.startswith(f"{SITE}/"), url
    headers = {"Host": "shop.example"} | ({"Content-Type": "application/json"} if body else {})
    text = json.dumps(body) if body else None
    code, given, content = ask(shop.port, url.removeprefix(SITE), method, text, headers)
    return code, content.decode(), {name.lower(): value for name, value in given.items()}


def order() -> dict[str, Any]:
    return {"reference": uuid.uuid4().hex, "sku": "tea", "quantity": 1}


def make_private(folder: Path) -> None:
    """Take from others than the owner what a strict umask takes."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)


def test_the_gateway_alone_lists_no_service_and_knows_no_path(
    bake_platform: Bake, tmp_path: Path
) -> None:
    with system(bake_platform, tmp_path) as alone:
        make_private(alone.root)
        alone.up()
        assert alone.services() == []
        assert fetch(alone.port, "/orders/v1/orders")[:2] == (404, PROBLEM)
        (container,) = alone.containers("gateway")
        (published,) = docker("port", container).splitlines()
        assert published.startswith("8080/tcp -> 127.0.0.1:")


def test_a_service_is_listed_and_reached_under_its_name(shop: Shop) -> None:
    assert shop.platform.services() == [{"name": shop.service, "path": shop.path("/")}]
    code, _, body = fetch(shop.port, shop.path("/v1/products/tea"))
    assert (code, json.loads(body)["sku"]) == (200, "tea")


def test_what_was_created_is_where_its_location_leads_to(shop: Shop) -> None:
    orders = SITE + shop.path("/v1/orders")
    code, text, headers = send(shop, orders, "POST", order())
    assert code == 201
    assert send(shop, urljoin(orders, headers["location"]))[:2] == (200, text)


def test_the_links_of_a_list_lead_through_all_of_it(shop: Shop) -> None:
    page = SITE + shop.path("/v1/orders?limit=1")
    made = {json.loads(send(shop, page, "POST", order())[1])["id"] for _ in range(3)}
    found: set[str] = set()
    while page:
        code, text, headers = send(shop, page)
        assert code == 200
        found |= {item["id"] for item in json.loads(text)["items"]}
        link = re.match("<(.*)>", headers.get("link", ""))
        page = urljoin(page, link[1]) if link else ""
    assert made <= found


def test_the_services_name_alone_leads_to_its_documentation(shop: Shop) -> None:
    url = SITE + shop.path("")
    seen: list[tuple[int, str]] = []
    while not seen or seen[-1][0] in (302, 308):
        code, _, headers = send(shop, url)
        seen.append((code, urlsplit(url).path))
        url = urljoin(url, headers.get("location", ""))
    assert seen == [
        (308, shop.path("")),
        (302, shop.path("/")),
        (200, shop.path("/docs/")),
    ]


def test_the_page_tries_out_what_the_document_describes(shop: Shop) -> None:
    page = SITE + shop.path("/docs/")
    for name in re.findall(r'(?:href|src)="([^"]+\.(?:css|js))"', send(shop, page)[1]):
        assert send(shop, urljoin(page, name))[0] == 200
    named = re.search(r'url: "([^"]+)"', send(shop, f"{page}start.js")[1])
    assert named
    address = urljoin(page, named[1])
    document = json.loads(send(shop, address)[1])
    server = urljoin(address, document["servers"][0]["url"])
    assert urlsplit(server).path == shop.path("/")
    assert send(shop, f"{server}v1/products/tea")[0] == 200
    assert send(shop, f"{server}v1/orders", "POST", order())[0] == 201


def test_replicas_get_about_the_same_number_of_requests(shop: Shop) -> None:
    client = Client(shop.port)

    def hosts(requests: int) -> Counter[str]:
        told = (client("GET", shop.path("/v1/echo")).json() for _ in range(requests))
        return Counter(str(answer["host"]) for answer in told)

    eventually(lambda: len(hosts(10)) == 2, "both replicas are asked")
    counted = hosts(150)
    client.close()
    assert min(counted.values()) > 40


def test_one_request_has_the_same_ids_in_both_logs_and_in_its_answer(shop: Shop) -> None:
    name = uuid.uuid4().hex
    trace = uuid.uuid4().hex
    headers = {"X-Request-ID": name, "traceparent": f"00-{trace}-{name[:16]}-01"}
    code, given, body = ask(shop.port, shop.path("/v1/products/none"), headers=headers)
    problem = json.loads(body)
    assert (code, given["X-Request-ID"]) == (404, name)
    assert (problem["request_id"], problem["trace_id"]) == (name, trace)

    def lines() -> list[dict[str, Any]]:
        return [line for line in shop.platform.log() if line.get("request_id") == name]

    eventually(lambda: bool(lines()), "the gateway's line")
    (line,) = lines()
    assert (line["trace_id"], line["url.path"]) == (trace, shop.path("/v1/products/none"))
    told = shop.platform.compose("logs", "--no-log-prefix", shop.service)
    assert [trace in text for text in told.splitlines() if name in text] == [True]


def test_a_request_without_ids_gets_them_from_the_gateway(shop: Shop) -> None:
    headers = json.loads(fetch(shop.port, shop.path("/v1/echo"))[2])["headers"]
    made = headers["Traceparent"].split("-")
    assert (made[0], len(made[1]), made[3]) == ("00", 32, "01")
    assert re.fullmatch("[0-9a-f-]{36}", headers["X-Request-Id"])


@pytest.mark.parametrize(
    ("lines", "of_its_own", "of_a_caller"),
    [
        ("OTEL_SDK_DISABLED=true", {"00"}, {"00"}),
        (f"{SAMPLER}=parentbased_always_off", {"00"}, {"01"}),
        (f"{SAMPLER}=always_off", {"00"}, {"00"}),
        (f"{SAMPLER}=parentbased_traceidratio\n{SAMPLER}_ARG=0.5", {"00", "01"}, {"01"}),
    ],
)
def test_a_service_is_told_to_record_what_the_shared_sampler_takes(
    shop: Shop, lines: str, of_its_own: set[str], of_a_caller: set[str]
) -> None:
    def flags(**headers: str) -> set[str]:
        told = set()
        for _ in range(20):
            echoed = ask(shop.port, shop.path("/v1/echo"), headers=headers)[2]
            _, trace, _, flag = json.loads(echoed)["headers"]["Traceparent"].split("-")
            assert int(trace, 16) > 0
            told.add(flag)
        return told

    with shop.platform.changed("config/common.env", lambda text: f"{text}{lines}\n"):
        eventually(lambda: flags() == of_its_own, "the gateway decides so")
        given = f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"
        assert flags(traceparent=given) == of_a_caller
    eventually(lambda: flags() == {"01"}, "all are recorded again")


def test_a_collector_gets_the_gateways_spans(shop: Shop) -> None:
    collector = Collector(media_type="application/x-protobuf")
    network = docker("network", "inspect", f"{shop.platform.root.name}_default")
    host = json.loads(network)[0]["IPAM"]["Config"][0]["Gateway"]
    endpoint = f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{host}:{collector.server_port}\n"
    with shop.platform.changed("config/common.env", lambda text: text + endpoint):

        def arrived() -> bool:
            ask(shop.port, shop.path("/v1/echo"))
            return len(collector.spans) > 0

        eventually(arrived, "a span")
    assert collector.faults == []
    assert {span.name for span in collector.spans} == {"ingress"}
    collector.close()


def test_metrics_are_served_within_the_network_alone(shop: Shop) -> None:
    assert "envoy_http_downstream_rq_xx" in shop.platform.inside("/metrics")
    for path in ("/metrics", "/readyz", "/stats/prometheus", "/config_dump", "/quitquitquit"):
        assert fetch(shop.port, path)[:2] == (404, PROBLEM)
    for path in ("/config_dump", "/quitquitquit", "/stats", "/"):
        assert " 404 " in shop.platform.inside(path).splitlines()[0]


def test_the_gateway_runs_unprivileged_and_writes_nothing(shop: Shop) -> None:
    (container,) = shop.platform.containers("gateway")
    (inspected,) = json.loads(docker("inspect", container))
    host = inspected["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert inspected["Config"]["User"] == "10001:10001"
    assert [mount for mount in inspected["Mounts"] if mount["RW"]] == []
    mounted = {"/etc", "/etc/gateway", "/etc/tls", "/run", "/run/envoy"}
    assert {line.split()[1] for line in docker("diff", container).splitlines()} == mounted


def test_a_route_is_added_and_removed_while_requests_go_on(shop: Shop) -> None:
    route = shop.platform.root / "routes" / f"{shop.service}.yaml"
    asks = [lambda client: client("GET", shop.path("/v1/products/tea"))] * 4
    text = route.read_text("utf-8")
    added = text.replace(f'value: "/{shop.service}"', 'value: "/more"')
    rules = added[added.index("    - matches:") :]
    with Load(shop.port, *asks, pause=PAUSE) as load:
        for _ in range(3):
            with shop.platform.changed(f"routes/{route.name}", lambda text: text + rules):
                shop.platform.reaches("/more/v1/products/tea")
            eventually(lambda: status(shop.port, "/more/v1/products/tea") == 404, "it is gone")
        eventually(lambda: len(load.answers) > 400, "400 requests")
    assert load.failures == []
    assert {answer.status for answer in load.answers} == {200}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("kind: HTTPRoute", "kind: HTTPRoute\nstatus: {}"), ": status: not known to the gateway"),
        (("      timeouts:", "      retry: {}\n      timeouts:"), ": spec.rules[0].retry: not"),
        (("port: 5000", "port: 5000\n          weight: 2"), "backendRefs[0].weight: not known"),
        (("request: 30s", "request: soon"), "timeouts.request: write a duration such as 10s"),
    ],
)
def test_a_route_that_is_not_understood_is_refused_and_nothing_changes(
    shop: Shop, change: tuple[str, str], told: str
) -> None:
    route = shop.platform.root / "routes" / f"{shop.service}.yaml"
    before = contents(shop.platform)
    text = route.read_text("utf-8")
    route.write_text(text.replace(*change), "utf-8")
    try:
        done = shop.platform.fleet("gateway")
    finally:
        route.write_text(text, "utf-8")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"routes/{route.name}: ")
    assert told in line
    assert contents(shop.platform) == before
    assert status(shop.port, shop.path("/v1/products/tea")) == 200


def test_what_envoy_does_not_accept_is_refused_and_nothing_changes(shop: Shop) -> None:
    entry = shop.platform.root / "gateway/entry.yaml"
    before = contents(shop.platform)
    text = entry.read_text("utf-8")
    entry.write_text(text + "no_such_field: 1\n", "utf-8")
    try:
        done = shop.platform.fleet("gateway")
    finally:
        entry.write_text(text, "utf-8")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("Envoy refuses the gateway's configuration: ")
    assert "no_such_field" in line
    assert contents(shop.platform) == before


def contents(platform: System) -> dict[str, bytes]:
    """Return all that the gateway reads."""
    folder = platform.root / "gateway/rendered"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_with_a_certificate_the_entry_speaks_https(bake_platform: Bake, tmp_path: Path) -> None:
    with system(bake_platform, tmp_path) as secure:
        tls = secure.root / "gateway/tls"
        make_certificate(tls)
        secure.up()
        trusted = ssl.create_default_context(cafile=str(tls / "tls.crt"))
        connection = http.client.HTTPSConnection("localhost", secure.port, context=trusted)
        connection.request("GET", "/")
        assert json.loads(connection.getresponse().read()) == {"services": []}
        connection.close()
        assert status(secure.port, "/") is None  # plain HTTP


def make_certificate(folder: Path) -> None:
    """Write a certificate of localhost, and its key, that the gateway's user can read."""
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt"))
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    subprocess.run(("openssl", "req", "-x509", *kind, *subject, *files), check=True)
    (folder / "tls.key").chmod(0o644)


def test_a_replica_that_is_killed_costs_no_retry_safe_request(shop: Shop) -> None:
    path = shop.path("/v1/products/tea")
    asks = [lambda client: client("GET", path)] * 6
    with Load(shop.port, *asks, pause=PAUSE) as load:
        eventually(lambda: len(load.answers) > 100, "100 requests")
        docker("kill", shop.platform.containers(shop.service)[0])
        before = len(load.answers)
        eventually(lambda: len(load.answers) > before + 400, "400 requests more")
    shop.platform.up("--scale", f"{shop.service}=2")
    assert load.failures == []
    assert Counter(answer.status for answer in load.answers).keys() == {200}


def test_a_killed_replica_costs_at_most_the_orders_in_flight_on_it(shop: Shop) -> None:
    clients = 6
    path = shop.path("/v1/orders")
    asks = [lambda client: client("POST", path, order())] * clients
    with Load(shop.port, *asks, pause=PAUSE) as load:
        eventually(lambda: len(load.answers) > 60, "60 requests")
        docker("kill", shop.platform.containers(shop.service)[0])
        before = len(load.answers)
        eventually(lambda: len(load.answers) > before + 150, "150 requests more")
    shop.platform.up("--scale", f"{shop.service}=2")
    assert load.failures == []
    failed = [answer for answer in load.answers if answer.status != 201]
    assert len(failed) <= clients
    assert all(answer.is_problem() for answer in failed)

"""The services' routes: what is understood, and what is refused in one line before it counts."""

from pathlib import Path

import pytest

from fleet.project import Refusal
from fleet.routes import Route
from fleet.routes import parse_routes
from fleet.routes import read_routes

FILE = "routes/orders.yaml"
TEXT = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: orders
  annotations: {fleet/max-request-bytes: "2000000", example.org/else: x}
spec:
  parentRefs:
    - name: gateway
  rules:
    - matches:
        - path: {type: PathPrefix, value: /orders}
      filters:
        - type: URLRewrite
          urlRewrite:
            path: {type: ReplacePrefixMatch, replacePrefixMatch: /}
      timeouts: {request: 1m30s, backendRequest: 500ms}
      backendRefs:
        - name: orders
          port: 5000
"""
ORDERS = Route(FILE, "orders", 5000, "/orders", True, "/", 90, 0.5, 2_000_000)


def test_a_route_is_understood_whole() -> None:
    assert parse_routes(TEXT, FILE) == [ORDERS]


def test_the_probes_and_metrics_of_a_stripped_path_are_hidden() -> None:
    assert ORDERS.hidden == ["/orders/livez", "/orders/readyz", "/orders/metrics"]


def test_a_path_that_is_not_stripped_leads_to_none_of_them() -> None:
    text = TEXT.replace("value: /orders", "value: /v1/orders")
    start, end = text.index("      filters:"), text.index("      timeouts:")
    (route,) = parse_routes(text[:start] + text[end:], FILE)
    assert (route.path, route.replacement, route.hidden) == ("/v1/orders", None, [])


# What is replaced, by what, and the field and remedy that the refusal names.
FAULTS = {
    "an unknown field": ("kind: HTTPRoute", "kind: HTTPRoute\nstatus: {}", "status: not known"),
    "another kind": ("kind: HTTPRoute", "kind: GRPCRoute", "kind: write HTTPRoute"),
    "another version": ("io/v1", "io/v1beta1", "apiVersion: write gateway.networking.k8s.io/v1"),
    "hosts": ("spec:", "spec:\n  hostnames: [a.example]", "spec.hostnames: not known"),
    "no rule": ("  rules:\n", "  rules: []\nx:\n", "x: not known"),
    "a header": ("path: {type: PathPrefix", "headers: []\n          path: {type: PathPrefix", "he"),
    "a pattern": ("PathPrefix", "RegularExpression", "path.type: write PathPrefix or Exact"),
    "an exact path": ("PathPrefix", "Exact", "path.type: write PathPrefix: an exact"),
    "a slash last": ("value: /orders", "value: /orders/", "path.value: write a path such as"),
    "the root": ("value: /orders", "value: /", "path.value: write a path such as"),
    "two slashes": ("value: /orders", "value: //orders", "path.value: write a path such as"),
    "a parent": ("value: /orders", "value: /x/../orders", "path.value: write a path such as"),
    "an encoded path": ("value: /orders", "value: /%6frders", "path.value: write a path such"),
    "a probe": ("replacePrefixMatch: /", "replacePrefixMatch: /readyz", "path.value: leads to"),
    "another filter": ("type: URLRewrite", "type: CORS", "filters[0].type: write URLRewrite"),
    "a time": ("1m30s", "90", "timeouts.request: write a duration such as 10s"),
    "another backend": ("- name: orders", "- name: invoices", "name: write orders, the service"),
    "a weight": ("port: 5000", "port: 5000\n          weight: 1", "backendRefs[0].weight: not"),
    "two backends": (
        "port: 5000",
        "port: 5000\n        - {name: orders, port: 1}",
        "backendRefs: write exactly one item",
    ),
    "a port": ("port: 5000", "port: 0", "port: write a whole number from 1 to 65535"),
    "a text as port": ("port: 5000", 'port: "5000"', "port: write a whole number"),
    "a kind of backend": ("- name: orders", "- kind: Pod\n          name: orders", "write Service"),
    "a group": ("- name: orders", "- group: x\n          name: orders", "backendRefs[0].group"),
    "annotations": ("{fleet/max-request-bytes", "[fleet/max-request-bytes", "YAML"),
    "no annotations": ('{fleet/max-request-bytes: "2000000", example.org/else: x}', "x", "a mapp"),
    "a parent's field": (
        "- name: gateway",
        "- name: gateway\n      port: 1",
        "port: not",
    ),
    "a list of rules": (
        "  rules:\n    - matches:",
        "  rules:\n      matches:",
        "rules: write a list",
    ),
    "a body": ('"2000000"', "2000000", "max-request-bytes: write a number of bytes in quotes"),
    "a large body": ('"2000000"', '"200000000"', "max-request-bytes: write a whole number from"),
    "an annotation": ("fleet/max-request-bytes", "fleet/max-bytes", "max-bytes: not known"),
    "a key twice": ("port: 5000", "port: 5000\n          port: 5001", "a key is there twice"),
    "no YAML": ("port: 5000", "port: [", "correct the YAML"),
    "a list": (TEXT, "[]", "write a mapping"),
    "nothing": (TEXT, "", "write a mapping"),
    "two documents": (TEXT, f"{TEXT}---\n{TEXT}", "correct the YAML"),
    "no metadata": ("metadata:", "meta:", "meta: not known"),
    "no match": ("path: {type: PathPrefix, value: /orders}", "{}", "matches[0]: path is missing"),
}


@pytest.mark.parametrize(("old", "new", "told"), FAULTS.values(), ids=FAULTS)
def test_what_is_not_understood_is_one_line_with_file_and_field(
    old: str, new: str, told: str
) -> None:
    assert old in TEXT
    with pytest.raises(Refusal) as refused:
        parse_routes(TEXT.replace(old, new), FILE)
    line = str(refused.value)
    assert line.startswith(FILE)
    assert told in line
    assert line.isprintable()


def write(folder: Path, **prefixes: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, prefix in prefixes.items():
        text = TEXT.replace("/orders", prefix).replace("name: orders", f"name: {name}")
        (folder / f"{name}.yaml").write_text(text, "utf-8")


def test_the_routes_of_all_files_are_read(tmp_path: Path) -> None:
    write(tmp_path / "routes", orders="/orders", invoices="/invoices")
    assert [route.service for route in read_routes(tmp_path / "routes")] == ["invoices", "orders"]


@pytest.mark.parametrize("prefix", ["/orders", "/orders/v2"])
def test_two_services_with_one_prefix_are_refused(tmp_path: Path, prefix: str) -> None:
    write(tmp_path / "routes", orders="/orders", shipping=prefix)
    with pytest.raises(Refusal, match=r"^routes/shipping.yaml: .*; choose another prefix$"):
        read_routes(tmp_path / "routes")


def test_names_that_begin_alike_are_two_prefixes(tmp_path: Path) -> None:
    write(tmp_path / "routes", order="/order", orders="/orders")
    assert len(read_routes(tmp_path / "routes")) == 2


def test_two_rules_of_one_path_are_refused() -> None:
    rule = TEXT[TEXT.index("    - matches:") :]
    with pytest.raises(Refusal, match=r"/orders is taken by another rule of routes/orders.yaml"):
        read_routes(Path("routes"), {"orders.yaml": TEXT + rule})


def test_a_service_has_one_port() -> None:
    rule = TEXT[TEXT.index("    - matches:") :]
    rule = rule.replace("/orders", "/orders/v1").replace("5000", "5001")
    with pytest.raises(Refusal, match="orders has two ports; write one"):
        read_routes(Path("routes"), {"orders.yaml": TEXT + rule})


def test_a_route_that_is_only_tried_is_not_written(tmp_path: Path) -> None:
    write(tmp_path / "routes", orders="/orders")
    assert read_routes(tmp_path / "routes", {"orders.yaml": None}) == []
    assert len(read_routes(tmp_path / "routes")) == 1


def test_a_file_that_is_no_yaml_by_its_name_is_named(tmp_path: Path) -> None:
    write(tmp_path / "routes", orders="/orders")
    (tmp_path / "routes/orders.yaml").rename(tmp_path / "routes/orders.yml")
    with pytest.raises(Refusal, match=r"^routes/orders.yml: name it orders.yaml$"):
        read_routes(tmp_path / "routes")

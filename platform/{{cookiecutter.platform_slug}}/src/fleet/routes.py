"""The services' routes: the part of the Gateway API's HTTPRoute that the gateway understands."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from fleet.documents import Node
from fleet.project import Refusal
from fleet.project import parse_yaml
from fleet.project import read_text

SLUG = r"[a-z](?:-?[a-z0-9])*"
SEGMENT = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
PATH = rf"(?:/{SEGMENT})+"
A_PATH = "write a path such as /orders, without a slash at its end"
# What services serve for the network alone.
HIDDEN = ("/livez", "/readyz", "/metrics")
MAX_BODY = "fleet/max-request-bytes"
LARGEST_BODY = 64 * 1024 * 1024  # bytes; it is held in the gateway's memory


@dataclass(frozen=True)
class Route:
    """Requests for a path, or for what lies under it, and the service that answers them.

    Times are seconds, 0 without a limit; None is the gateway's own default.
    """

    file: str
    service: str
    port: int
    path: str
    is_prefix: bool
    replacement: str | None  # of the path, where it is stripped
    timeout: float | None
    try_timeout: float | None
    max_body: int | None  # bytes

    @property
    def hidden(self) -> list[str]:
        """The paths at the gateway that would lead to what is for the network alone."""
        kept = self.path if self.replacement is None else self.replacement.rstrip("/")
        inside = [name.removeprefix(kept) for name in HIDDEN if name.startswith(f"{kept}/")]
        return [self.path + name for name in inside] if self.is_prefix else []


def parse_routes(text: str, file: str) -> list[Route]:
    """Return the routes of one file, whose name without `.yaml` is the service's."""
    document = Node(parse_yaml(text, file), file)
    fields = document.fields("apiVersion", "kind", "metadata", "spec")
    fields["apiVersion"].one_of("gateway.networking.k8s.io/v1")
    fields["kind"].one_of("HTTPRoute")
    service = Path(file).stem
    max_body = _max_body(fields["metadata"])
    spec = fields["spec"].fields("rules", optional=("parentRefs",))
    if "parentRefs" in spec:
        for parent in spec["parentRefs"].items():
            parent.fields("name", optional=("group", "kind", "namespace", "sectionName"))
    found = []
    for rule in spec["rules"].items():
        found += _rule(rule, service, max_body)
    if not found:
        raise spec["rules"].refuse("write at least one rule")
    return found


def _max_body(metadata: Node) -> int | None:
    fields = metadata.fields("name", optional=("annotations", "labels", "namespace"))
    fields["name"].text(SLUG, "write the service's name, in lower case")
    if "annotations" not in fields:
        return None
    annotations = fields["annotations"].value
    if not isinstance(annotations, dict):
        raise fields["annotations"].refuse("write a mapping")
    for name, value in annotations.items():
        node = Node(value, metadata.file, f"metadata.annotations.{name}")
        if name == MAX_BODY:
            text = node.text("[0-9]{1,9}", 'write a number of bytes in quotes, such as "10485760"')
            return Node(int(text), node.file, node.place).number(1, LARGEST_BODY)
        if str(name).startswith("fleet/"):
            raise node.refuse(f"not known to the gateway; it knows {MAX_BODY}")
    return None


def _rule(rule: Node, service: str, max_body: int | None) -> list[Route]:
    optional = ("name", "filters", "timeouts")
    fields = rule.fields("matches", "backendRefs", optional=optional)
    backend = fields["backendRefs"].only().fields("name", "port", optional=("group", "kind"))
    if backend["name"].value != service:
        raise backend["name"].refuse(f"write {service}, the service whose file this is")
    if "kind" in backend:
        backend["kind"].one_of("Service")
    if "group" in backend:
        backend["group"].one_of("")
    replacement = _replacement(fields["filters"]) if "filters" in fields else None
    times = {}
    if "timeouts" in fields:
        times = fields["timeouts"].fields(optional=("request", "backendRequest"))
    seconds = {name: node.duration() for name, node in times.items()}
    found = []
    for match in fields["matches"].items():
        path = match.fields("path")["path"].fields("type", "value")
        route = Route(
            file=rule.file,
            service=service,
            port=backend["port"].number(1, 65535),
            path=path["value"].text(PATH, A_PATH),
            is_prefix=path["type"].one_of("PathPrefix", "Exact") == "PathPrefix",
            replacement=replacement,
            timeout=seconds.get("request"),
            try_timeout=seconds.get("backendRequest"),
            max_body=max_body,
        )
        _check(route, path["value"], path["type"])
        found.append(route)
    if not found:
        raise fields["matches"].refuse("write at least one match")
    return found


def _replacement(filters: Node) -> str:
    only = filters.only().fields("type", "urlRewrite")
    only["type"].one_of("URLRewrite")
    path = only["urlRewrite"].fields("path")["path"].fields("type", "replacePrefixMatch")
    path["type"].one_of("ReplacePrefixMatch")
    return path["replacePrefixMatch"].text(f"/|{PATH}", "write / or a path such as /v1")


def _check(route: Route, value: Node, kind: Node) -> None:
    """Refuse a route that leads to nothing but what is hidden, or that cannot be rewritten."""
    if not route.is_prefix and route.replacement is not None:
        raise kind.refuse("write PathPrefix: an exact path cannot have its prefix replaced")
    target = route.path if route.replacement is None else route.replacement
    if target in HIDDEN or target.startswith(tuple(f"{name}/" for name in HIDDEN)):
        raise value.refuse(f"leads to {target}, which is for the network alone; remove it")


def read_routes(folder: Path, instead: Mapping[str, str | None] | None = None) -> list[Route]:
    """Return the routes of all files, which must not contradict each other.

    `instead` maps names of files to the text that they would have, None for one removed.
    """
    texts: dict[str, str | None] = {path.name: read_text(path) for path in folder.glob("*.y*ml")}
    texts |= instead or {}
    routes: list[Route] = []
    for name, text in sorted(texts.items()):
        if not name.endswith(".yaml"):
            raise Refusal(f"{folder.name}/{name}: name it {Path(name).stem}.yaml")
        if text is not None:
            routes += parse_routes(text, f"{folder.name}/{name}")
    for one, other in combinations(routes, 2):
        _check_pair(one, other)
    return routes


def _check_pair(one: Route, other: Route) -> None:
    if one.path == other.path and one.is_prefix == other.is_prefix:
        where = one.file if one.file != other.file else f"another rule of {one.file}"
        raise Refusal(f"{other.file}: {other.path} is taken by {where}; choose another prefix")
    if one.service == other.service and one.port != other.port:
        raise Refusal(f"{other.file}: {one.service} has two ports; write one")
    if one.service != other.service:
        outer, inner = sorted((one, other), key=lambda route: len(route.path))
        if f"{inner.path}/".startswith(f"{outer.path}/"):
            message = f"{inner.path} lies under {outer.path} of {outer.file}; choose another prefix"
            raise Refusal(f"{inner.file}: {message}")

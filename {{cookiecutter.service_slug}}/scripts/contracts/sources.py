"""Where a contract comes from: a service's folder, a file, or a URL."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

import yaml

from contracts.flatten import Json, UnreadableError
from contracts.operations import check_version

SECONDS = 10
MOST_BYTES = 10_000_000
NAME = re.compile(r"[a-z](?:-?[a-z0-9])*")
LONGEST_NAME = 40


class Source(NamedTuple):
    """A contract, and the name of the service whose it is."""

    name: str
    document: Json


def read_source(of: str, name: str = "") -> Source:
    """Read what `OF` names; raise UnreadableError with the reason why not."""
    if not of:
        raise UnreadableError("name the other service: OF=../invoices, a file or a URL")
    if re.match(r"https?://", of):
        text = _download(of)
        told = ""
    else:
        path = Path(of)
        path = path / "openapi.json" if path.is_dir() else path
        text = _read(path)
        told = _name_beside(path)
    document = _parsed(of, text)
    found = name or told or _slug(document.get("info", {}).get("title"))
    if not NAME.fullmatch(found) or len(found) > LONGEST_NAME:
        raise UnreadableError(f"{of}: {found!r} names no service: add AS=its-name")
    return Source(found, document)


def _parsed(of: str, text: str) -> Json:
    try:
        return check_version(json.loads(text))
    except UnreadableError as error:
        raise UnreadableError(f"{of}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{of} is no JSON: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise UnreadableError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error


def _download(url: str) -> str:
    request = Request(url, headers={"Accept": "application/json"})  # noqa: S310 checked above
    try:
        with urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 the same
            data: bytes = answer.read(MOST_BYTES + 1)
    except (OSError, URLError, ValueError) as error:
        raise UnreadableError(f"{url} gives no answer: {error}") from error
    if len(data) > MOST_BYTES:
        raise UnreadableError(f"{url} is larger than {MOST_BYTES} bytes")
    return data.decode("utf-8", "replace")


def _name_beside(path: Path) -> str:
    """Return the name in the service.yaml beside a service's own contract."""
    if path.name != "openapi.json":
        return ""
    manifest = path.parent / "service.yaml"
    try:
        said: Any = yaml.safe_load(manifest.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return str(said.get("name", "")) if isinstance(said, dict) else ""


def _slug(title: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(title or "").lower()).strip("-")

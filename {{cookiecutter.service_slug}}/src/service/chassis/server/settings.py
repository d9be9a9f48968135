"""The settings of the server and its limits."""

import re
import socket
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from service.chassis.settings import EnvironmentSettings

MAX_BODY_SIZE = 65_536
CGROUP = Path("/sys/fs/cgroup")
MIB = 1024 * 1024
# More would serve more requests that wait for others, but compute more slowly.
CONCURRENCY = 16
BASE_MEMORY = 95 * MIB  # of the service with all its threads
BODY_FACTOR = 230  # memory that the worst body takes, in its sizes: lists of empty objects
# As browsers send it: in small letters, and without the port that its scheme has by default.
ORIGIN = re.compile(r"(?!https:.*:443$|http:.*:80$)[a-z][a-z0-9+.-]*://[a-z0-9._:[\]-]+")


def default_concurrency(max_body_size: int, cgroup: Path = CGROUP) -> int:
    """Return how many requests are handled at once: no more than have room for a body in memory."""
    try:
        memory = int((cgroup / "memory.max").read_text("ascii"))
    except (OSError, ValueError):
        return CONCURRENCY  # no limit is set
    bodies = int((memory - BASE_MEMORY) / (BODY_FACTOR * max_body_size))
    return max(1, min(CONCURRENCY, bodies))


def _concurrency(settings: dict[str, Any]) -> int:
    return default_concurrency(settings.get("max_body_size", MAX_BODY_SIZE))


def _check_origins(text: str | None) -> str | None:
    for origin in filter(None, map(str.strip, (text or "").split(","))):
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin; write `https://example.org,...` or `*`")
    return text


def _check_address(text: str) -> str:
    """Return the address as the server takes it; no name is looked up at the start."""
    address = "127.0.0.1" if text == "localhost" else text.strip("[]")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        raise ValueError("must be an IP address, such as 0.0.0.0 or ::") from None
    return address


class ServerSettings(EnvironmentSettings):
    """Where the server listens, what it admits and how it stops."""

    # A container's port is published on purpose.
    bind_address: Annotated[str, AfterValidator(_check_address)] = "0.0.0.0"  # noqa: S104 container
    """Address to listen on; `::` is IPv6 and IPv4"""
    port: int = Field(5000, ge=1, le=65535)
    """Port to listen on"""
    max_body_size: int = Field(MAX_BODY_SIZE, ge=1024, le=1_073_741_824)
    """Maximum body in bytes; a larger one gets 413"""
    concurrency: int = Field(default_factory=_concurrency, ge=1, le=1000)
    """Requests handled at once; further ones wait"""
    max_queue: int = Field(64, ge=0, le=1000)
    """Requests that may wait; further ones get 503"""
    queue_timeout: float = Field(1, gt=0, le=60)
    """Seconds that a request may wait; then it gets 503"""
    request_timeout: float = Field(10, gt=0, le=3600)
    """Seconds for a body to arrive; one that still arrives later gets 408"""
    drain_delay: float = Field(2, ge=0, le=300)
    """Seconds to go on serving, not ready, after SIGTERM"""
    shutdown_grace: int = Field(20, ge=1, le=3600)
    """Seconds for requests in flight to finish after that"""
    cors_allowed_origins: Annotated[str | None, AfterValidator(_check_origins)] = None
    """Origins whose pages may use it: `https://example.org,...` or `*`"""

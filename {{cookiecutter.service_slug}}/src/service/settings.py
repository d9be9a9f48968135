"""Every setting of the service: its type, its range, its default and what it is for."""

from typing import Any, Literal

from pydantic import Field

from service.chassis.configuration import Configuration, concurrency
from service.chassis.database_settings import CursorKey  # only-if: database == "postgresql"
from service.chassis.database_settings import Password  # only-if: database == "postgresql"
from service.chassis.database_settings import Timeout  # only-if: database == "postgresql"
from service.chassis.database_settings import Url  # only-if: database == "postgresql"


def from_limits(settings: dict[str, Any]) -> int:
    return concurrency(settings.get("max_body_size", 1_048_576), settings.get("workers", 1))


class Settings(Configuration):
    """Read once at start, from the environment variable of the same name in upper case."""

    bind_address: str = Field("0.0.0.0", description="Address to listen on; `::` is IPv6 and IPv4")  # noqa: S104 a container's port is published on purpose
    port: int = Field(5000, ge=1, le=65535, description="Port to listen on")
    workers: int = Field(1, ge=1, le=64, description="Processes; in a container leave 1 and scale by replicas")
    max_body_size: int = Field(1_048_576, ge=1024, le=1_073_741_824, description="Bytes of a body; more is 413")
    concurrency: int = Field(
        default_factory=from_limits, ge=1, le=1000, description="Requests at once in a worker; more is 503"
    )
    request_timeout: float = Field(10, gt=0, le=3600, description="Seconds for a body to arrive; later is 408")
    drain_delay: float = Field(2, ge=0, le=300, description="Seconds that it serves on, not ready, after SIGTERM")
    shutdown_grace: int = Field(20, ge=1, le=3600, description="Seconds for requests in flight to finish after that")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="`auto` is text on a terminal, else JSON")
    slow_request: float = Field(1, gt=0, description="Seconds from which the line of a request is a warning")
    database_url: Url = None  # only-if: database == "postgresql"
    database_password: Password = None  # only-if: database == "postgresql"
    database_timeout: Timeout = 5  # only-if: database == "postgresql"
    cursor_key: CursorKey = None  # only-if: database == "postgresql"

"""Where configuration comes from: environment, `NAME_FILE`, a folder of shared defaults, pyproject.toml, cgroups."""

import math
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, HttpUrl, SecretBytes, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SecretsSettingsSource, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source

CGROUP = Path("/sys/fs/cgroup")
MIB = 1024 * 1024
TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # what a header's name is made of


@dataclass(frozen=True)
class Project:
    """What pyproject.toml says of the service; `name` is its slug."""

    name: str
    title: str
    version: str
    description: str

    @classmethod
    def read(cls, path: Path) -> Self:
        document = tomllib.loads(path.read_text("utf-8"))
        project, service = document["project"], document["tool"]["service"]
        return cls(project["name"], service["title"], project["version"], project["description"])


PROJECT = Project.read(Path(__file__).parents[3] / "pyproject.toml")


def pairs(text: str) -> dict[str, str]:
    """What a variable gives as `name=value,name=value`, percent-encoded; raise ValueError for anything else."""
    items = [item.partition("=") for item in text.split(",") if item.strip()]
    if not all(separator and name.strip() for name, separator, _ in items):
        raise ValueError("must be `name=value,...`")
    return {name.strip(): unquote(value.strip()) for name, _, value in items}


def _of_pairs(text: str | None) -> str | None:
    pairs(text or "")
    return text


def _sendable(headers: SecretStr | None) -> SecretStr | None:
    """Refuse here what would fail, and be told with its value, whenever it is to be sent."""
    for name, value in pairs(headers.get_secret_value() if headers else "").items():
        if not (TOKEN.fullmatch(name) and value.isascii() and value.isprintable()):
            raise ValueError("must be `name=value,...` of printable ASCII characters")
    return headers


Headers = Annotated[SecretStr | None, AfterValidator(_sendable)]


class FileSource(Source):
    """Reads a setting from the file that `NAME_FILE` names, as orchestrators mount secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = field_name.upper()
        path = os.environ.get(f"{name}_FILE")
        if path is None:
            return None, field_name, False
        if name in os.environ:
            return ValueError(f"{name} and {name}_FILE are both set: keep one"), field_name, False
        try:
            return Path(path).read_text("utf-8").strip(), field_name, False
        except (OSError, ValueError) as error:
            return ValueError(f"{name}_FILE cannot be read: {error}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class Configuration(BaseSettings):
    """Base of the settings. First found wins: `NAME_FILE`, environment, the files in `CONFIG_DIR`, the default."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        frozen=True, extra="ignore", validate_default=True, env_ignore_empty=True
    )
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    otel_sdk_disabled: bool = Field(False, description="Makes no traces, whatever the others say")
    otel_exporter_otlp_endpoint: HttpUrl | None = Field(
        None, description="Collector, OTLP over HTTP, as `http://collector:4318`; without it no traces are made"
    )
    otel_exporter_otlp_traces_endpoint: HttpUrl | None = Field(None, description="The whole address for traces instead")
    otel_exporter_otlp_headers: Headers = Field(None, description="`name=value,...` the collector asks for")
    otel_exporter_otlp_timeout: int = Field(10_000, ge=1, description="Milliseconds that the collector may take")
    otel_service_name: str | None = Field(None, description="Name of the service in traces, if not its own")
    otel_resource_attributes: Annotated[str | None, AfterValidator(_of_pairs)] = Field(
        None, description="`name=value,...` of all spans"
    )
    otel_traces_sampler: str = Field(
        "parentbased_always_on",
        pattern=r"^(parentbased_)?(always_on|always_off|traceidratio)$",
        description="Which traces: `always_on`, `always_off` or `traceidratio`, with `parentbased_` as the caller says",
    )
    otel_traces_sampler_arg: float = Field(1, ge=0, le=1, description="Share of traces, of a sampler by `traceidratio`")

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # it is called with these names alone
        cls, settings_cls: type[BaseSettings], init_settings: Source, env_settings: Source, **_others: Source
    ) -> tuple[Source, ...]:
        folder = os.environ.get("CONFIG_DIR")
        shared = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder else ()
        return init_settings, FileSource(settings_cls), env_settings, *shared

    @field_validator("*", mode="before")
    @classmethod
    def refuse_unreadable(cls, value: object) -> object:
        """Raise here what a source gave in place of a value, so that it is one error beside all others."""
        if isinstance(value, ValueError):
            raise value
        return value

    @classmethod
    def load(cls) -> Self:
        """Read the settings once; on bad ones print every error and exit with status 2."""
        folder = os.environ.get("CONFIG_DIR")
        if folder and not Path(folder).is_dir():
            sys.stderr.write(f"configuration: CONFIG_DIR: {folder} is not a folder\n")
            raise SystemExit(2)
        try:
            return cls()
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_context=False, include_input=False):
                if fault["type"] != "default_factory_not_called":  # derived from a value that has its own line
                    name = ".".join(str(part).upper() for part in fault["loc"])
                    sys.stderr.write(f"configuration: {name}: {fault['msg']}\n")
            raise SystemExit(2) from None

    def secrets(self) -> list[str]:
        """The values that no output may hold."""
        values = [getattr(self, name) for name in type(self).model_fields]
        return [str(v.get_secret_value()) for v in values if isinstance(v, SecretStr | SecretBytes) and v]


def available_cpus(cgroup: Path = CGROUP) -> int:
    """CPUs that the container may use, rounded up: its quota, else the affinity of the process."""
    try:
        quota, period = (cgroup / "cpu.max").read_text("ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def concurrency(max_body_size: int, workers: int, cgroup: Path = CGROUP) -> int:
    """Requests that one worker may work on at once: four per CPU, and no more bodies than fit into the memory limit."""
    limit = min(max(4 * available_cpus(cgroup), 4), 32)
    try:
        memory = int((cgroup / "memory.max").read_text("ascii"))
    except (OSError, ValueError):  # no limit is set
        return limit
    spare = memory - 90 * MIB * (1 + 0.6 * (workers - 1))
    return max(2, min(limit, int(spare / (2.2 * max_body_size * workers))))

"""The central configuration: what config/ says to each service, checked by the service itself."""

import hashlib
import re
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches as close
from pathlib import Path

from fleet.asking import ask
from fleet.asking import given_by_compose
from fleet.asking import stop_seconds
from fleet.asking import write_values
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_environment
from fleet.project import read_text
from fleet.project import refuse
from fleet.services import Service

COMMON = "common.env"
# The gateway and the health check ask the port of service.yaml.
FIXED = {"BIND_ADDRESS", "PORT"}
STOPPING = ("DRAIN_DELAY", "SHUTDOWN_GRACE")
ENDING = 5  # seconds that a service takes beyond these two, as its README says
PASSWORD = re.compile(r"://[^/@\s:]*:[^/@\s]+@")
QUOTED = re.compile(r"(['\"]).*\1")


@dataclass(frozen=True)
class Configuration:
    """What the files say to one service that its settings know, by name; nothing empty."""

    service: Service
    values: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the folder that holds exactly these values."""
        text = "".join(f"{name}={value}\n" for name, value in sorted(self.values.items()))
        return f"{self.service.slug}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def keep(self, project: Project) -> None:
        """Write them to a folder that the service's containers mount."""
        write_values(kept_folder(project, self.name), self.values)


def kept_folder(project: Project, name: str) -> Path:
    """Return the folder of a configuration that is or was in use."""
    return project.root / ".fleet" / "config" / name


def check_services(
    project: Project, services: Iterable[Service], images: Mapping[str, str], are_all: bool
) -> dict[str, Configuration]:
    """Return each service's configuration by its slug, or refuse, with a line for each fault.

    The images, by slug, are asked: each reads the values with its own class of settings. Only if
    they are all that joined is a common name that none of them takes a fault.
    """
    found = list(services)
    readers = [Reader(project, service) for service in found]
    with ThreadPoolExecutor(2) as pool:
        known = list(pool.map(lambda reader: reader.check(images[reader.service.slug]), readers))
    faults = [fault for reader in readers for fault in reader.faults]
    # A service that refuses a value does not tell its names.
    if are_all and found and all(known):
        everyone = set[str]().union(*known)
        common = readers[0].common
        faults += unknown(f"config/{COMMON}", common, everyone, "no service that joined takes it")
    refuse(faults)
    return {
        reader.service.slug: Configuration(
            reader.service, {name: reader.values[name] for name in reader.values if name in names}
        )
        for reader, names in zip(readers, known, strict=True)
    }


class Reader:
    """What the two files say to one service, and what is wrong with it."""

    def __init__(self, project: Project, service: Service) -> None:
        """Read the files; a name without a value leaves the service's default."""
        self.service = service
        self.file = f"config/{service.slug}.env"
        self.common, faults = read_environment(project.config / COMMON, f"config/{COMMON}")
        self.own, own_faults = read_environment(project.root / self.file, self.file)
        merged = {**self.common, **self.own}
        self.values = {name: value for name, value in merged.items() if value}
        self.faults = faults + own_faults

    def origin(self, name: str) -> str:
        """Return the file that a value comes from."""
        if name in self.own:
            return self.file
        return f"config/{COMMON}" if name in self.common else self.service.slug

    def check(self, image: str) -> set[str]:
        """Collect the faults; return the names that the service takes, if it reads the values.

        It takes none of those that its compose.yaml sets.
        """
        variables, _ = given_by_compose(self.service)
        for name, value in self.values.items():
            if fault := remedy(name, value, name in variables and name in self.own):
                self.faults.append(f"{self.origin(name)}: {name}: {fault}")
        self.values = {name: self.values[name] for name in self.values if name not in variables}
        answer = ask(self.service, image, self.values)
        for name, fault in answer.refused.items():
            self.faults.append(f"{self.origin(name)}: {name}: {fault}")
        for name in sorted(answer.secrets):
            fault = "is a secret: give it to the service as a file, never in git"
            self.faults.append(f"{self.origin(name)}: {name}: {fault}")
        if not answer.refused:
            reason = f"{self.service.slug} has no such setting"
            self.faults += unknown(self.file, self.own, answer.settings, reason)
        self._check_stop(answer.settings)
        return answer.settings.keys() - variables.keys()

    def _check_stop(self, settings: Mapping[str, str]) -> None:
        """Add a fault if compose would kill the service before the time that it has to stop."""
        given = [name for name in STOPPING if name in self.values and name in settings]
        if not given:
            return
        needed = sum(float(settings.get(name, 0)) for name in STOPPING) + ENDING
        allowed = stop_seconds(self.service)
        if needed > allowed:
            name = max(given, key=lambda name: float(settings[name]))
            fault = f"compose.yaml kills it after {allowed:g} s, and to stop it needs {needed:g} s"
            remedy = "lower this, or raise stop_grace_period there"
            self.faults.append(f"{self.origin(name)}: {name}: {fault}; {remedy}")


def remedy(name: str, value: str, is_set_by_compose: bool) -> str | None:
    """Return what to do about a value that no service should be told, whatever its settings."""
    if name in FIXED:
        return "the gateway relies on the port of service.yaml; remove it"
    if is_set_by_compose:
        return "the service's compose.yaml sets it; remove it here"
    if PASSWORD.search(value):
        return "it holds a password: give it to the service as a file, never in git"
    if QUOTED.fullmatch(value):
        return "remove the quotes, which would be part of the value"
    return None


def unknown(file: str, values: Iterable[str], known: Iterable[str], reason: str) -> list[str]:
    """Return a line for each name that is not known, with the one that may be meant."""
    names = sorted(known)
    found = []
    for name in values:
        if name not in names:
            near = [one for given in (name, name.upper()) for one in close(given, names, 1)]
            found.append(f"{file}: {name}: {reason}" + (f"; is it {near[0]}?" if near else ""))
    return found


def one_for_each_value(faults: Iterable[str]) -> list[str]:
    """Return the first fault of each file and name, which several readers may refuse."""
    first: dict[str, str] = {}
    for fault in faults:
        file, name, _ = f"{fault}: : ".split(": ", 2)
        first.setdefault(f"{file}: {name}", fault)
    return list(first.values())


def check_files(project: Project, services: Iterable[Service]) -> None:
    """Refuse files of config/ that belong to no service."""
    slugs = [f"{service.slug}.env" for service in services]
    names = sorted(path.name for path in project.config.iterdir() if path.name[0] != ".")
    strays = [name for name in names if name not in (COMMON, *slugs)]
    refuse(unknown("config", strays, slugs, "no such service has joined"))


def check_deployed(project: Project, service: Service, image: str, name: str) -> None:
    """Refuse an image that does not accept the configuration which the service has."""
    folder = kept_folder(project, name)
    values = {path.name: read_text(path) for path in folder.iterdir()}
    refused = ask(service, image, values).refused
    if refused:
        lines = [f"{service.slug}: the new image refuses {one}: {refused[one]}" for one in refused]
        raise Refusal("\n".join(lines))

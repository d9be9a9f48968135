"""What a service's own class of settings says to values: its image is run, and changes nothing."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.documents import seconds
from fleet.engine import attempt
from fleet.project import write
from fleet.services import Service
from fleet.system import model

MASKED = "**********"
HARDENED = ("--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--pull=never")


@dataclass(frozen=True)
class Answer:
    """The service's effective settings, the secret ones among those given, and what it refuses.

    A service that refuses a value does not tell its settings.
    """

    settings: Mapping[str, str]
    secrets: frozenset[str]
    refused: Mapping[str, str]


def write_values(folder: Path, values: Mapping[str, str]) -> None:
    """Write a folder with one file for each value, which containers of any user can read."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name, value in values.items():
        write(folder / name, value)


def given_by_compose(service: Service) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that the service's compose.yaml sets, and its secrets' files.

    The files are mapped to their places in the container.
    """
    document = model(service)
    own = document["services"][service.slug]
    files = {name: one.get("file") for name, one in document.get("secrets", {}).items()}
    variables = own.get("environment") or {}
    secrets = {
        str(files[one["source"]]): f"/run/secrets/{one.get('target') or one['source']}"
        for one in own.get("secrets", ())
        if files.get(one["source"])
    }
    return {name: value for name, value in variables.items() if value is not None}, secrets


def stop_seconds(service: Service) -> float:
    """Return the seconds after which the service is killed when it is to stop."""
    own = model(service)["services"][service.slug]
    return seconds(own.get("stop_grace_period", "10s"))  # Docker's default


def refusals(image: str, told: str) -> dict[str, str]:
    """Return what a service says of its settings, by their names, or why it says nothing."""
    lines = told.strip().splitlines() or ["it cannot be run"]
    prefix = "configuration: "
    named = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    found = dict(line.split(": ", 1) for line in named if ": " in line)
    return found or {image: lines[-1]}


def ask(service: Service, image: str, values: Mapping[str, str]) -> Answer:
    """Let the service in an image read the values, beside what its compose.yaml sets."""
    variables, secrets = given_by_compose(service)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "config"
        folder.parent.chmod(0o755)
        write_values(folder, values)
        mounts = {str(folder): "/config", **secrets}
        options = [f"--env={name}={value}" for name, value in variables.items()]
        for source, target in mounts.items():
            options += ["--mount", f'type=bind,"source={source}",target={target},readonly']
        command = ("docker", "run", *HARDENED, "--env=CONFIG_DIR=/config", *options, image)
        done = attempt(*command, "python", "-m", "service", "config")
    if done.returncode:
        return Answer({}, frozenset(), refusals(image, done.stderr))
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    secret = frozenset(name for name in values if shown.get(name) == MASKED)
    return Answer(shown, secret, {})

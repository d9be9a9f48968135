"""`make contract-check`: compare contracts with those of the last release, told by its tag."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from contracts.events import breaking_events  # only-if: messaging == "rabbitmq"
from contracts.flatten import Json, UnreadableError
from contracts.operations import breaking_changes

ROOT = Path(__file__).parents[2]
# How to compare the contracts that a service publishes, and what helps where one breaks callers.
DOCUMENTS = {
    "openapi.json": breaking_changes,
    "asyncapi.yaml": breaking_events,  # only-if: messaging == "rabbitmq"
}
REMEDIES = {
    "openapi.json": "make a new major version: a later prefix in service.yaml",
    "asyncapi.yaml": "send a new type beside the old",  # only-if: messaging == "rabbitmq"
}


def git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, or None where it fails."""
    command = (shutil.which("git") or sys.exit("contract-check needs git"), "-C", str(root))
    done = subprocess.run((*command, *arguments), capture_output=True, check=False)  # noqa: S603
    return done.stdout.decode() if done.returncode == 0 else None


def last_release(root: Path) -> str | None:
    """Return the tag of the last release, if there is one; exit where that cannot be known."""
    if (tag := git(root, "describe", "--tags", "--abbrev=0")) is not None:
        return tag.strip()
    shallow = git(root, "rev-parse", "--is-shallow-repository")
    if shallow is None and any((folder / ".git").exists() for folder in (root, *root.parents)):
        sys.exit("git cannot read this repository; git status says why")
    if shallow is not None and shallow.strip() == "true":
        sys.exit("a shallow clone may lack the last release: git fetch --unshallow")
    return None


def prefix(manifest: str | None) -> str:
    """Return the prefix of the routes, such as /v1, that service.yaml names."""
    return str((yaml.safe_load(manifest or "") or {}).get("prefix"))


def is_next_major(old: str, new: str) -> bool:
    """Whether a prefix names a later major version than another, as /v2 does after /v1."""
    before = re.fullmatch(r"(.*/v)(\d+)", old)
    after = re.fullmatch(r"(.*/v)(\d+)", new)
    if before is None or after is None:
        return False
    return before[1] == after[1] and int(before[2]) < int(after[2])


def load(text: str, name: str) -> Json:
    """Read a document of JSON or YAML; raise UnreadableError."""
    try:
        document = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UnreadableError(f"{name}: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise UnreadableError(f"{name} is no object")
    return document


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def check(root: Path, tag: str, name: str) -> bool:
    """Print what a document breaks for the callers of a release; return whether it is nothing."""
    before = git(root, "show", f"{tag}:./{name}")
    if before is None:
        say(f"{name}: {tag} had none")
        return True
    released = load(before, f"{name} of {tag}")
    current = load((root / name).read_text("utf-8"), name)
    try:
        found = DOCUMENTS[name](released, current)
    except UnreadableError as error:
        raise UnreadableError(f"{name}, here or of {tag}: {error}") from error
    for fault in found:
        say(f"{name}: {fault}")
    say(f"{name}: breaking changes since {tag}: {len(found) or 'none'}")
    if found:
        say(f"Undo them, or {REMEDIES[name]}")
    return not found


def main() -> None:
    """Compare all contracts; exit with 1 where one breaks callers."""
    if (tag := last_release(ROOT)) is None:
        say("no release has a tag yet: any change is compatible")
        return
    was = prefix(git(ROOT, "show", f"{tag}:./service.yaml"))
    became = prefix((ROOT / "service.yaml").read_text("utf-8"))
    names = list(DOCUMENTS)
    if is_next_major(was, became):
        say(f"{became} is a new major version, {tag} has {was}: any change is compatible")
        names.remove("openapi.json")
    try:
        fits = [check(ROOT, tag, name) for name in names]
    except UnreadableError as error:
        sys.exit(f"contract-check: {error}")
    sys.exit(not all(fits))


if __name__ == "__main__":
    main()

"""One lock of image digests is the deployed system: written, and returned to the one before."""

import argparse
import json
from dataclasses import replace

from fleet.containers import replicas
from fleet.engine import docker
from fleet.engine import has_image
from fleet.lock import LOCK
from fleet.lock import git
from fleet.lock import parse_lock
from fleet.lock import previous_lock
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_text
from fleet.project import write
from fleet.rollout import roll
from fleet.rollout import say
from fleet.services import Service
from fleet.services import joined
from fleet.state import states_of
from fleet.system import System
from fleet.system import changing


def locked_image(project: Project, service: Service) -> str | None:
    """Return the image that the lock names for a service, if this machine has it."""
    path = project.root / LOCK
    entry = parse_lock(read_text(path)).get(service.slug) if path.exists() else None
    if not entry or not has_image(entry["id"]):
        return None
    docker("tag", entry["id"], entry["image"])
    return entry["image"]


def release(project: Project, _arguments: argparse.Namespace) -> None:
    """Write the lock of what runs; a lock before it must be in git, which keeps it."""
    with changing(project):
        names = ["gateway", *(service.slug for service in joined(project))]
        images = {name: _running(project, name) for name in names}
        text = json.dumps({"images": images}, indent=2) + "\n"
        path = project.root / LOCK
        before = read_text(path) if path.exists() else ""
        if text == before:
            print(f"{LOCK}: this is the release already")
            return
        if before and git(project, "status", "--porcelain", "--", LOCK):
            raise Refusal(f"{LOCK}: commit it first: git keeps the release before")
        write(path, text)
        print(f"{LOCK}: {len(images)} images; commit it, and make rollback can return to it")


def _running(project: Project, name: str) -> dict[str, str]:
    """Return the one image that all replicas run."""
    found = replicas(project, name)
    images = {(one.image, one.image_id) for one in found if one.runs}
    if len(images) != 1 or not all(one.runs for one in found):
        raise Refusal(f"{name}: it does not run, or with several images; make up, then release")
    ((image, digest),) = images
    return {"image": image, "id": digest}


def rollback(project: Project) -> None:
    """Return every service to its image in the release before, and the lock with them."""
    text = previous_lock(project)
    images = parse_lock(text)
    services = [service for service in joined(project) if service.slug in images]
    states = states_of(project, services)
    for service in services:
        if not has_image(images[service.slug]["id"]):
            raise Refusal(f"{service.slug}: its image {images[service.slug]['image']} is not here")
    for service in services:
        entry = images[service.slug]
        running = replicas(project, service.slug)
        if service.slug not in states or all(one.image_id == entry["id"] for one in running):
            say(service, "unchanged")
            continue
        docker("tag", entry["id"], entry["image"])
        kept = states[service.slug].images
        others = [image for image in kept if image != entry["image"]]
        states[service.slug] = replace(states[service.slug], images=(entry["image"], *others))
        roll(System(project, services, states), service)
    write(project.root / LOCK, text)
    print(f"{LOCK}: the release before; commit it")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `release`."""
    help_text = "write the lock of the images that run"
    commands.add_parser("release", help=help_text).set_defaults(run=release)

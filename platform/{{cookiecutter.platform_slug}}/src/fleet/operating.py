"""The commands that start, replace, return and scale what joined: each leaves the others alone."""

import argparse
import re
from collections.abc import Iterable

from fleet import envoy
from fleet.configuration import check_deployed
from fleet.configuration import check_services
from fleet.containers import remove
from fleet.containers import replicas
from fleet.containers import retire
from fleet.engine import has_image
from fleet.project import Project
from fleet.project import Refusal
from fleet.release import locked_image
from fleet.release import rollback as rollback_all
from fleet.resources import ENTRY_PORT
from fleet.rollout import await_ready
from fleet.rollout import build
from fleet.rollout import grow
from fleet.rollout import is_current
from fleet.rollout import make
from fleet.rollout import migrate
from fleet.rollout import replace_workers
from fleet.rollout import roll
from fleet.rollout import say
from fleet.services import Service
from fleet.services import find
from fleet.services import joined
from fleet.state import State
from fleet.state import read_state
from fleet.state import states_of
from fleet.state import write_state
from fleet.system import System
from fleet.system import changing

MOST = 50  # replicas of one service


def first_states(
    project: Project, services: Iterable[Service], image: str | None = None
) -> dict[str, State]:
    """Return the states of services that were never started, with the image, or the lock's.

    Their configuration is checked and kept; nothing is started.
    """
    found = list(services)
    images = {one.slug: image or locked_image(project, one) or build(one) for one in found}
    configurations = check_services(project, found, images, are_all=False)
    for configuration in configurations.values():
        configuration.keep(project)
    return {
        slug: State((image,), image, configurations[slug].name) for slug, image in images.items()
    }


def up(project: Project, _arguments: argparse.Namespace) -> None:
    """Start the gateway and all services; replace those whose files have changed."""
    with changing(project):
        services = joined(project)
        prepared = envoy.prepare(project)
        states = states_of(project, services)
        for service in services:
            if service.slug in states:
                make(service, ".prepared")
        new = first_states(project, [one for one in services if one.slug not in states])
        system = System(project, services, {**states, **new})
        for slug, state in new.items():
            write_state(project, slug, state)
        prepared.write()
        _start_all(system, services)
        entry = system.compose("port", "gateway", str(ENTRY_PORT))
        print(f"{project.name}: the gateway is on {entry}, services: {len(services)}", flush=True)


def _start_all(system: System, services: list[Service]) -> None:
    """Start what does not run, as one; then replace, one by one, what differs from its files."""
    project = system.project
    wanted = system.wanted
    for service in services:
        for job in system.parts[service.slug].jobs:
            remove([one for one in replicas(project, job) if one.hash != wanted[job]])
    print(f"{project.name}: starting what does not run", flush=True)
    system.start(is_alone=False)
    system.compose("up", "--detach", "--no-build", "--no-deps", "--wait", "gateway")
    for service in services:
        if is_current(system, service):
            found = replicas(project, service.slug)
            try:
                await_ready(system, service, {one.id: one.restarts for one in found})
            except Refusal as refusal:
                raise Refusal(f"{service.slug}: {refusal}") from None
            replace_workers(system, service)
            say(service, "ready")
        else:
            roll(system, service)


def start(project: Project, service: Service) -> None:
    """Start one service that has just joined, beside those that run."""
    services = joined(project)
    states = states_of(project, services)
    if service.slug not in states:
        states |= first_states(project, [service])
    roll(System(project, services, states), service)


def deploy(project: Project, arguments: argparse.Namespace) -> None:
    """Build one service's image and replace its replicas by it."""
    with changing(project):
        service = find(project, arguments.service)
        services = joined(project)
        states = states_of(project, services)
        image = build(service)
        if service.slug in states:
            check_deployed(project, service, image, states[service.slug].configuration)
            states[service.slug] = states[service.slug].deploying(image)
        else:
            states |= first_states(project, [service], image)
        system = System(project, services, states)
        if is_current(system, service):
            write_state(project, service.slug, states[service.slug])
            say(service, f"runs {image} already")
            return
        before = read_state(project, service.slug)
        migrate(system, service)
        if before:
            write_state(project, service.slug, before.migrated_by(image))
        roll(system, service)


def rollback(project: Project, arguments: argparse.Namespace) -> None:
    """Return one service to the image before, or all of them to the release before."""
    with changing(project):
        if not arguments.service:
            rollback_all(project)
            return
        service = find(project, arguments.service)
        services = joined(project)
        states = states_of(project, services)
        if service.slug not in states:
            raise Refusal(f"{service.slug}: it was never deployed; make up starts it")
        state = states[service.slug].returning(service.slug)
        if not has_image(state.image):
            raise Refusal(f"{service.slug}: the image before, {state.image}, is not here any more")
        roll(System(project, services, {**states, service.slug: state}), service)


def scale(project: Project, arguments: argparse.Namespace) -> None:
    """Run as many replicas of services as is asked for."""
    with changing(project):
        services = joined(project)
        states = states_of(project, services)
        wanted = [_count(project, text) for text in arguments.counts]
        if not wanted:
            raise Refusal("name a service and how many, as in: make scale orders=3")
        for service, count in wanted:
            if service.slug not in states:
                raise Refusal(f"{service.slug}: it was never deployed; make up starts it")
            state = states[service.slug].scaled(count)
            _scale(System(project, services, {**states, service.slug: state}), service)


def _count(project: Project, text: str) -> tuple[Service, int]:
    name, _, count = text.partition("=")
    service = find(project, name)
    if not re.fullmatch("[0-9]{1,3}", count) or not 1 <= int(count) <= MOST:
        raise Refusal(f"{name}: write how many, from 1 to {MOST}, as in {name}=3")
    return service, int(count)


def _scale(system: System, service: Service) -> None:
    state = system.states[service.slug]
    found = [one for one in replicas(system.project, service.slug) if one.runs]
    if len(found) < state.scale:
        grow(system, service, state.scale - len(found))
    write_state(system.project, service.slug, state)
    retire(found[state.scale :])
    say(service, f"serves with {state.scale}")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `up`, `deploy`, `rollback` and `scale`."""
    commands.add_parser("up", help="start the gateway and all services").set_defaults(run=up)
    deploying = commands.add_parser("deploy", help="build one service and replace it")
    deploying.add_argument("service", help="its name or folder")
    deploying.set_defaults(run=deploy)
    returning = commands.add_parser("rollback", help="return a service, or all, to the one before")
    returning.add_argument("service", nargs="?", default="", help="its name or folder")
    returning.set_defaults(run=rollback)
    scaling = commands.add_parser("scale", help="run as many replicas as asked for")
    scaling.add_argument("counts", nargs="*", metavar="NAME=COUNT")
    scaling.set_defaults(run=scale)

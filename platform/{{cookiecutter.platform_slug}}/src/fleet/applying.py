"""The commands of the central configuration: check it, and roll out what it changes."""

import argparse
from dataclasses import replace

from fleet import envoy
from fleet.configuration import Configuration
from fleet.configuration import check_files
from fleet.configuration import check_services
from fleet.configuration import one_for_each_value
from fleet.containers import replicas
from fleet.engine import attempt
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import noted
from fleet.project import refuse
from fleet.rollout import build
from fleet.rollout import roll
from fleet.rollout import say
from fleet.services import Service
from fleet.services import joined
from fleet.state import State
from fleet.state import states_of
from fleet.state import write_state
from fleet.system import System
from fleet.system import changing


def check(project: Project, _arguments: argparse.Namespace) -> None:
    """Check the configuration of every service; touch nothing that runs."""
    services = joined(project)
    _check(project, services, states_of(project, services))
    print(f"The configuration is good for {', '.join(s.slug for s in services) or 'no service'}.")


def _check(
    project: Project, services: list[Service], states: dict[str, State]
) -> tuple[dict[str, Configuration], envoy.Prepared]:
    """Return what is to be rolled out, to services and to the gateway, or refuse all its faults."""
    images = {
        service.slug: states[service.slug].image if service.slug in states else build(service)
        for service in services
    }
    faults: list[str] = []
    with noted(faults):
        check_files(project, services)
    with noted(faults):
        configurations = check_services(project, services, images, are_all=True)
    with noted(faults):
        prepared = envoy.prepare(project)
    refuse(one_for_each_value(faults))
    return configurations, prepared


def apply(project: Project, _arguments: argparse.Namespace) -> None:
    """Roll out the committed configuration to the services for which it changed."""
    with changing(project):
        refuse_uncommitted(project, "config")
        services = joined(project)
        states = states_of(project, services)
        configurations, prepared = _check(project, services, states)
        changed = [
            service
            for service in services
            if service.slug in states
            and states[service.slug].configuration != configurations[service.slug].name
        ]
        print(f"config/: {recorded(project)}", flush=True)
        prepared.write()
        for service in changed:
            configuration = configurations[service.slug]
            configuration.keep(project)
            state = replace(states[service.slug], configuration=configuration.name)
            states[service.slug] = state
            if any(one.runs for one in replicas(project, service.slug)):
                roll(System(project, services, states), service)
            else:
                write_state(project, service.slug, state)
        for service in services:
            if service not in changed:
                say(service, "unchanged")


def refuse_uncommitted(project: Project, path: str) -> None:
    """Refuse what git has not recorded, so that it is known who changed it and when."""
    done = attempt("git", "-C", str(project.root), "status", "--porcelain", "--", path)
    if done.returncode:
        raise Refusal(f"{project.root}: it is in no git repository, which records who and when")
    if lines := done.stdout.splitlines():
        changed = lines[0][3:].strip('"')
        raise Refusal(f"{changed}: commit it first: git records who changed it, and when")


def recorded(project: Project) -> str:
    """Return who changed the configuration last, and when."""
    command = (
        "git",
        "-C",
        str(project.root),
        "log",
        "-1",
        "--format=%h by %an, %ar",
        "--",
        "config",
    )
    return attempt(*command).stdout.strip()


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `config-check` and `apply`."""
    checking = "check the configuration of every service, and touch nothing"
    commands.add_parser("config-check", help=checking).set_defaults(run=check)
    applying = "roll out the committed configuration where it changed"
    commands.add_parser("apply", help=applying).set_defaults(run=apply)

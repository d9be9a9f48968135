"""How a service joins and leaves: a line of services.yaml, a file in routes/, its containers."""

import argparse
from pathlib import Path

from fleet import envoy
from fleet.configuration import COMMON
from fleet.containers import replicas
from fleet.containers import retire
from fleet.engine import docker
from fleet.health import gateway_runs
from fleet.operating import start
from fleet.project import Project
from fleet.project import Refusal
from fleet.project import read_text
from fleet.project import read_yaml
from fleet.project import write
from fleet.rollout import await_gateway
from fleet.rollout import say
from fleet.services import Service
from fleet.services import included
from fleet.services import joined
from fleet.services import line_of
from fleet.services import read_service
from fleet.services import with_line
from fleet.services import without_folder
from fleet.state import forget_state
from fleet.system import System
from fleet.system import changing
from fleet.system import model
from fleet.system import parts_of


def join(project: Project, arguments: argparse.Namespace) -> None:
    """Let a service join; where the gateway runs, start it and then send it requests."""
    if not arguments.service:
        raise Refusal("name the service's folder, as in SERVICE=../orders")
    with changing(project):
        service = read_service(Path(arguments.service).resolve())
        others = [one for one in joined(project) if one.folder.resolve() != service.folder]
        _check_names(project, service, others)
        text = read_text(project.services)
        if service.folder not in (folder.resolve() for folder in included(project)):
            text = with_line(text, line_of(project, service.folder))
        prepared = envoy.prepare(project, {f"{service.slug}.yaml": service.route})
        _take(project, service, text, prepared)


def _check_names(project: Project, service: Service, others: list[Service]) -> None:
    """Refuse a service whose name, or one of its names in compose, is taken."""
    taken = {Path(COMMON).stem: f"config/{COMMON}"}
    taken |= dict.fromkeys(read_yaml(project.root / "compose.yaml")["services"], "the platform")
    parts = System(project, [service, *others], {}).parts
    for other in others:
        taken |= dict.fromkeys((other.slug, *parts[other.slug].all), str(other.folder))
    for name in (service.slug, *parts[service.slug].all):
        if name in taken:
            raise Refusal(
                f"{service.slug}: the name {name} is taken by {taken[name]}; choose another"
            )


def _take(project: Project, service: Service, text: str, prepared: envoy.Prepared) -> None:
    """Change the two files; leave no trace where the service cannot be started."""
    before = read_text(project.services)
    route = project.routes / f"{service.slug}.yaml"
    is_there = text == before and route.exists()
    runs = any(one.runs for one in replicas(project, service.slug))
    is_served = gateway_runs(project)
    if is_there and read_text(route) == service.route and (runs or not is_served):
        prepared.write()
        say(service, f"has joined {project.name} already")
        return
    try:
        write(project.services, text)
        if is_served and not runs:
            start(project, service)
        write(route, service.route)
        prepared.write()
        if is_served:
            await_gateway(project, service, {one.id for one in replicas(project, service.slug)})
    except BaseException:
        if not is_there:
            _take_back(project, service, before)
        raise
    rest = "" if is_served else "; make up starts it"
    say(service, f"has joined {project.name}{rest}")


def _take_back(project: Project, service: Service, before: str) -> None:
    (project.routes / f"{service.slug}.yaml").unlink(missing_ok=True)
    envoy.prepare(project).write()
    write(project.services, before)
    _remove(project, service)


def leave(project: Project, arguments: argparse.Namespace) -> None:
    """Let a service leave: first its route, then its line, then its containers."""
    if not arguments.service:
        raise Refusal("name the service, as in SERVICE=orders")
    folder = _folder(project, arguments.service)
    name = Path(arguments.service).name
    if folder is None:
        print(f"{name}: it has not joined {project.name}; there is nothing to do")
        return
    with changing(project):
        text = without_folder(project, folder)
        service = read_service(folder) if folder.is_dir() else None
        slug = service.slug if service else folder.name
        prepared = envoy.prepare(project, {f"{slug}.yaml": None})
        (project.routes / f"{slug}.yaml").unlink(missing_ok=True)
        prepared.write()
        write(project.services, text)
        if service:
            _remove(project, service)
        else:
            retire(replicas(project, slug))
        print(f"{slug}: has left {project.name}{_data(project, service)}")


def _folder(project: Project, name: str) -> Path | None:
    """Return the folder of the service that is meant by a name or a path."""
    for folder in included(project):
        is_named = folder.name == name or folder.resolve() == Path(name).resolve()
        if is_named or (folder.is_dir() and read_service(folder).slug == name):
            return folder
    return None


def _remove(project: Project, service: Service) -> None:
    """Stop and remove a service's containers; its volumes stay."""
    parts = parts_of(service)
    for name in (service.slug, *parts.workers, *parts.jobs, *parts.others):
        retire(replicas(project, name))
    forget_state(project, service.slug)


def _data(project: Project, service: Service | None) -> str:
    """Tell which volumes stay."""
    if service is None:
        return "; docker volume ls shows its data, if it had any"
    names = [f"{project.name}_{name}" for name in model(service).get("volumes", {})]
    there = docker("volume", "ls", "--quiet").split()
    volumes = [name for name in names if name in there]
    return f"; its data stay: {', '.join(volumes)}" if volumes else ""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `join` and `leave`."""
    for run, help_text in ((join, "let a service join"), (leave, "let a service leave")):
        command = commands.add_parser(run.__name__, help=help_text)
        command.add_argument("service", help="its folder")
        command.set_defaults(run=run)

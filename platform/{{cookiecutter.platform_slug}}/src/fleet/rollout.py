"""How one service is replaced while it serves: more replicas, ready and in use, then fewer."""

import sys
from collections.abc import Container
from collections.abc import Mapping

from fleet.containers import Replica
from fleet.containers import is_ready
from fleet.containers import last_error
from fleet.containers import remove
from fleet.containers import replicas
from fleet.containers import retire
from fleet.engine import attempt
from fleet.engine import docker
from fleet.engine import wait
from fleet.health import gateway_runs
from fleet.health import healthy
from fleet.project import Project
from fleet.project import Refusal
from fleet.services import Service
from fleet.state import write_state
from fleet.system import System

READY_SECONDS = 60.0
GATEWAY_SECONDS = 30.0


def say(service: Service, message: str) -> None:
    """Tell what is done, as it is done."""
    print(f"{service.slug}: {message}", flush=True)


def make(service: Service, *targets: str) -> None:
    """Run the service's own Makefile."""
    done = attempt("make", "--no-print-directory", "-C", str(service.folder), *targets)
    if done.returncode:
        print(done.stdout, done.stderr, sep="", file=sys.stderr)
        raise Refusal(f"{service.slug}: make {targets[0]} failed, for the reason above")


def build(service: Service) -> str:
    """Build the image by the service's own Makefile; return the tag that only this one has."""
    say(service, "building its image")
    make(service, "image", ".prepared")
    image = docker("image", "inspect", "--format", "{{.Id}}", service.slug)
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    revision = docker("image", "inspect", "--format", label, image)
    tag = tag_of(service.slug, revision, image)
    docker("tag", image, tag)
    return tag


def tag_of(slug: str, revision: str, image: str) -> str:
    """Return an image's tag: its revision, with `-dirty` if it ends so, and its digest."""
    commit, *dirty = revision.split("-")
    return "-".join((f"{slug}:{commit[:12]}", *dirty, image.removeprefix("sha256:")[:12]))


def is_current(system: System, service: Service) -> bool:
    """Return whether all replicas run as the system's state says, and as many."""
    wanted = system.wanted[service.slug]
    found = replicas(system.project, service.slug)
    scale = system.states[service.slug].scale
    return len(found) == scale and all(one.runs and one.hash == wanted for one in found)


def await_ready(system: System, service: Service, restarts: Mapping[str, int]) -> None:
    """Wait until replicas are ready, and until the gateway, if it runs, sends them requests.

    `restarts` maps the id of each to how often it may have ended so far.
    """
    ready: set[str] = set()

    def are_ready() -> bool:
        found = [one for one in replicas(system.project, service.slug) if one.id in restarts]
        for one in found:
            if not one.runs or one.restarts > restarts[one.id]:
                raise Refusal(f"it ended: {last_error(one)}")
            if one.id not in ready and is_ready(one, service.port):
                ready.add(one.id)
        return len(ready) == len(restarts)

    if not wait(are_ready, READY_SECONDS):
        raise Refusal(f"it was not ready within {READY_SECONDS:.0f} s")
    if gateway_runs(system.project) and (system.project.routes / f"{service.slug}.yaml").exists():
        await_gateway(system.project, service, restarts)


def await_gateway(project: Project, service: Service, ids: Container[str]) -> None:
    """Wait until the gateway sends requests to the replicas with these ids."""
    found = {one.address for one in replicas(project, service.slug) if one.id in ids}
    if not wait(lambda: found <= healthy(project, service.slug), GATEWAY_SECONDS):
        raise Refusal(f"the gateway did not find it ready within {GATEWAY_SECONDS:.0f} s")


def start_others(system: System, service: Service, *options: str) -> None:
    """Start the service's servers that do not run, such as its broker."""
    if others := system.parts[service.slug].others:
        system.compose("up", "--detach", "--no-build", "--no-recreate", *options, *others)


def migrate(system: System, service: Service) -> None:
    """Run the service's jobs to their end, such as the migration of its database."""
    for job in system.parts[service.slug].jobs:
        say(service, f"running {job}")
        start_others(system, service, "--wait")
        system.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", job)
        (container,) = replicas(system.project, job)
        if code := int(docker("wait", container.id)):
            reason = last_error(container)
            remove([container])
            raise Refusal(f"{service.slug}: {job} failed with status {code}: {reason}")


def grow(system: System, service: Service, count: int) -> list[Replica]:
    """Start more replicas and what they need; return those that run already, if any.

    Where they do not become ready they are removed again.
    """
    project = system.project
    found = replicas(project, service.slug)
    remove([one for one in found if not one.runs])
    old = [one for one in found if one.runs]
    before = {one.id for one in old}
    say(service, f"starting {count} beside {len(old)}" if old else f"starting {count}")
    try:
        # What serves already needs no broker to be returned to an image before.
        start_others(system, service, *(() if old else ("--wait",)))
        scale = f"{service.slug}={len(old) + count}"
        system.start(service.slug, scale=scale, is_alone=bool(old))
        new = (one for one in replicas(project, service.slug) if one.id not in before)
        await_ready(system, service, {one.id: 0 for one in new})
    except BaseException as failure:
        remove([one for one in replicas(project, service.slug) if one.id not in before])
        if not isinstance(failure, Refusal):
            raise
        rest = "the release before serves on" if old else "it does not run"
        raise Refusal(f"{service.slug}: {rest}; the new one failed: {failure}") from None
    return old


def roll(system: System, service: Service) -> None:
    """Replace a service's replicas by such as the system's state says, which is then kept.

    Where they do not become ready, the ones before serve on and the state stays as it was.
    """
    state = system.states[service.slug]
    old = grow(system, service, state.scale)
    write_state(system.project, service.slug, state)
    if old:
        say(service, f"ready; draining {len(old)}")
        retire(old)
    replace_workers(system, service)
    say(service, f"serves with {state.image}")


def replace_workers(system: System, service: Service) -> None:
    """Start the service's other processes, or replace those that differ from the state."""
    if workers := system.parts[service.slug].workers:
        is_first = not any(replicas(system.project, name) for name in workers)
        what = "starting {}" if is_first else "replacing {} where they differ"
        say(service, what.format(", ".join(workers)))
        system.compose("up", "--detach", "--no-build", "--no-deps", "--wait", *workers)

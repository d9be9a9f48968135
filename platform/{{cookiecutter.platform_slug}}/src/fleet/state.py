"""What each service runs: its images, its replicas and its configuration, kept in .fleet/."""

import fcntl
import json
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import replace

from fleet.project import Project
from fleet.project import Refusal
from fleet.project import write
from fleet.services import Service

KEPT = 10  # images to which a service can return


@dataclass(frozen=True)
class State:
    """Of one service: its images, the running one first; the one that migrated last; the rest."""

    images: tuple[str, ...]
    migrated: str
    configuration: str  # the name of its folder in .fleet/config
    scale: int = 1

    @property
    def image(self) -> str:
        """The image that runs."""
        return self.images[0]

    def deploying(self, image: str) -> "State":
        """Return the state with another image, which migrates, before the others."""
        others = [other for other in self.images if other != image]
        return replace(self, images=(image, *others)[:KEPT], migrated=image)

    def migrated_by(self, image: str) -> "State":
        """Return the state after an image migrated the tables, whether or not it is to run."""
        return replace(self, migrated=image)

    def returning(self, slug: str) -> "State":
        """Return the state with the image before; tables stay as the newest migrated them."""
        if len(self.images) < 2:
            raise Refusal(f"{slug}: there is no image before {self.image}; deploy another one")
        return replace(self, images=self.images[1:])

    def scaled(self, count: int) -> "State":
        """Return the state with so many replicas."""
        return replace(self, scale=count)


def read_state(project: Project, slug: str) -> State | None:
    """Return what a service runs; None where it was never started."""
    path = project.root / ".fleet" / "services" / f"{slug}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text("utf-8"))
    return State(tuple(kept["images"]), kept["migrated"], kept["configuration"], kept["scale"])


def states_of(project: Project, services: Iterable[Service]) -> dict[str, State]:
    """Return what those services run that were started."""
    found = ((service.slug, read_state(project, service.slug)) for service in services)
    return {slug: state for slug, state in found if state}


def write_state(project: Project, slug: str, state: State) -> None:
    """Keep what a service runs."""
    path = project.root / ".fleet" / "services" / f"{slug}.json"
    write(path, json.dumps(asdict(state), indent=2) + "\n")


def forget_state(project: Project, slug: str) -> None:
    """Keep no longer what a service ran."""
    (project.root / ".fleet" / "services" / f"{slug}.json").unlink(missing_ok=True)


@contextmanager
def locked(project: Project) -> Iterator[None]:
    """Let one command at a time change what runs."""
    path = project.root / ".fleet" / "lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Waiting for another command to end", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

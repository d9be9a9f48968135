"""`python -m fleet COMMAND`, as the Makefile calls it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fleet import applying
from fleet import envoy
from fleet import joining
from fleet import operating
from fleet import release
from fleet import status
from fleet.project import Refusal
from fleet.project import find_project

# Each has `add_commands(commands)`.
MODULES = (envoy, joining, operating, release, applying, status)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; a command's function is in `run`."""
    made = argparse.ArgumentParser("fleet", description=__doc__)
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for module in MODULES:
        module.add_commands(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 1 where it was refused, in one line that says why."""
    given = parser().parse_args(arguments)
    try:
        given.run(find_project(Path.cwd()), given)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The memory of a whole service beside that of bare Flask on the same server, on Linux.

It is PSS, in which what processes share counts once, of the supervisor and the worker. Its argument
is the folder of a baked service; run it with that service's Python, or by `make bench`.
"""

import contextlib
import os
import re
import statistics
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import chassis

STARTS = 5
REQUESTS = 200
SERVED = {"bare Flask": str(Path(__file__).with_name("bare.py")), "the service": "-mservice"}


def proportional_sizes(supervisor: int) -> Iterator[int]:
    """The PSS in KiB of the supervisor and of each of its children."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    for process in (supervisor, *map(int, children.split())):
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        yield int(re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[0])


def measure() -> list[float]:
    """MiB of each, after some requests; all are served at once."""
    with contextlib.ExitStack() as stack:
        served = [
            stack.enter_context(chassis.serving([""], script))[0] for script in SERVED.values()
        ]
        for _, url in served:
            for _ in range(REQUESTS):
                urllib.request.urlopen(f"{url}/v1/products/tea").read()
        return [sum(proportional_sizes(process.pid)) / 1024 for process, _ in served]


def main() -> None:
    """Print the table."""
    chassis.SOURCE = Path(sys.argv[1]).absolute() / "src"
    os.environ["BIND_ADDRESS"] = "127.0.0.1"
    starts = [measure() for _ in range(STARTS)]
    print("\n| memory | MiB, median of starts | ratio |", "|---|---|---|", sep="\n")
    for name, sizes in zip(SERVED, zip(*starts, strict=True), strict=True):
        ratios = [size / start[0] for size, start in zip(sizes, starts, strict=True)]
        print(f"| {name} | {statistics.median(sizes):.1f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()

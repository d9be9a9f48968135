"""Commands and files of docs/deployment.md, which the tests of each way use as they stand there."""

import re

from tests.conftest import ROOT

PAGE = "docs/deployment.md"


def section(way: str) -> str:
    """Return what stands under a heading."""
    text = (ROOT / PAGE).read_text("utf-8")
    (found,) = re.findall(rf"^## {way}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def commands(way: str) -> list[str]:
    """Return the commands under a heading, one for each line."""
    blocks = re.findall(r"```shell\n(.*?)```", section(way), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def files(way: str) -> dict[str, str]:
    """Return the files under a heading by their paths: each a block after its path and a colon."""
    return dict(re.findall(r"`(\S+)`:\n\n```\w+\n(.*?)```", section(way), re.DOTALL))

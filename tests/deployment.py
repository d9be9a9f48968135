"""The commands of docs/deployment.md, which the tests of each way run as they stand there."""

import re

from tests.conftest import ROOT

PAGE = "docs/deployment.md"


def commands(way: str) -> list[str]:
    """Return the commands under a heading, one for each line."""
    text = (ROOT / PAGE).read_text("utf-8")
    (section,) = re.findall(rf"^## {way}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"```shell\n(.*?)```", section, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]

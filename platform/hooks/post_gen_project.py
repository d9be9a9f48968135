"""Finish a new platform, by the functions of the service's hook."""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # the temporary folder this script runs in may hold anything

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# Paths that stay only where the question named has one of the answers named.
OPTIONAL = {
    ".github/workflows/ci.yml": {"ci": ("github",)},
    ".gitlab-ci.yml": {"ci": ("gitlab",)},
}
DIRECTORY = "platform"


def service_hook(template: Path) -> ModuleType:
    """Return the service's hook, which lies in the same repository, without a trace of bytecode."""
    path = template.parent / "hooks" / "post_gen_project.py"
    module = ModuleType("service_hook")
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    return module


def report(hook: ModuleType, root: Path, answers: Mapping[str, Any], checks: list[str]) -> None:
    """Print what was checked, that nothing is committed, and the next commands."""
    slug = answers["platform_slug"]
    print(f"{slug}: {len(hook.files(root))} files. Checked: {'; '.join(checks)}.")
    print("Nothing is committed yet: git add --all && git commit; cruft update needs it.")
    print("Next, with Docker and Python:")
    print(f"  cd {slug} && make up")
    print("  curl localhost:8080/")
    print("Then, in the folder of a service beside it: make join")


def main(root: Path, answers: Mapping[str, Any], template: Path) -> int:
    """Return the exit status; 1 only for a fault of the template itself."""
    hook = service_hook(template)
    hook.prune(root, answers, OPTIONAL)
    if "_commit" in answers:  # cruft: it runs hooks in a temporary folder, and keeps its own record
        return int(hook.refuse(hook.faults(root)))
    checks = hook.complete(root, answers, template.parent, DIRECTORY)
    if checks is None:
        return 1
    report(hook, root, answers, checks)
    return 0


if __name__ == "__main__":
    try:
        given = json.loads(r""" {{ cookiecutter | tojson }} """)
        sys.exit(main(Path.cwd(), given, Path(json.loads(r""" {{ template_folder | tojson }} """))))
    finally:
        Path(__file__).unlink(missing_ok=True)

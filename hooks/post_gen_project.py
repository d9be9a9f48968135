"""Finish a new service: remove what was not asked for, verify the rest, say what is next."""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # the temporary folder this script runs in may hold anything

import ast
import contextlib
import json
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, on which cookiecutter may run
    tomllib = None  # type: ignore[assignment]

Wanted = dict[str, tuple[str, ...]]

# Paths that stay only where every question named has one of the answers named. A folder's row
# covers its files: none of them is the user's, who may bake over a living service.
DATABASE: Wanted = {"database": ("postgresql",)}
SAMPLE: Wanted = {"sample": ("yes",)}
ORDERS: Wanted = {**DATABASE, **SAMPLE}
MESSAGING: Wanted = {"messaging": ("rabbitmq",)}
SALES: Wanted = {**MESSAGING, **SAMPLE}
KUBERNETES: Wanted = {"kubernetes": ("yes",)}
WORKERS: Wanted = {**KUBERNETES, **MESSAGING}
OPTIONAL: dict[str, Wanted] = {
    ".github/dependabot.yml": {"ci": ("github",)},
    ".github/workflows/ci.yml": {"ci": ("github",)},
    ".github/workflows/database.yml": {"ci": ("github",), **DATABASE},
    ".gitlab-ci.yml": {"ci": ("gitlab",)},
    "asyncapi.yaml": MESSAGING,
    "compose.database.yaml": DATABASE,
    "compose.messaging.yaml": MESSAGING,
    "database": DATABASE,
    "database.mk": DATABASE,
    "deploy/gateway/kustomization.yaml": KUBERNETES,
    "deploy/kubernetes/README.md": KUBERNETES,
    "deploy/kubernetes/base/consumer.yaml": WORKERS,
    "deploy/kubernetes/base/deployment.yaml": KUBERNETES,
    "deploy/kubernetes/base/kustomization.yaml": KUBERNETES,
    "deploy/kubernetes/base/network.yaml": KUBERNETES,
    "deploy/kubernetes/base/process.yaml": KUBERNETES,
    "deploy/kubernetes/base/relay.yaml": WORKERS,
    "deploy/kubernetes/base/scaling.yaml": KUBERNETES,
    "deploy/kubernetes/base/service.yaml": KUBERNETES,
    "deploy/kubernetes/canary": KUBERNETES,
    "deploy/kubernetes/migrate": {**KUBERNETES, **DATABASE},
    "deploy/kubernetes/monitoring": KUBERNETES,
    "deploy/kubernetes/overlays": KUBERNETES,
    "deploy/kubernetes/pod": KUBERNETES,
    "deploy/kubernetes/saturation": KUBERNETES,
    "deploy/kubernetes/secrets/broker.yaml": WORKERS,
    "deploy/kubernetes/secrets/database.yaml": {**KUBERNETES, **DATABASE},
    "deploy/kubernetes/secrets/kustomization.yaml": {**KUBERNETES, **DATABASE},
    "kubernetes.mk": KUBERNETES,
    "messaging.mk": MESSAGING,
    "migrations/env.py": DATABASE,
    "migrations/lint.py": DATABASE,
    "migrations/script.py.mako": DATABASE,
    "migrations/versions/0001_idempotency_keys.py": DATABASE,
    "migrations/versions/0002_orders.py": ORDERS,
    "migrations/versions/0003_outbox_and_inbox.py": MESSAGING,
    "migrations/versions/0004_sales.py": SALES,
    "scripts/canary.py": KUBERNETES,
    "scripts/contracts/events.py": MESSAGING,
    "scripts/kubernetes.sh": KUBERNETES,
    "scripts/prometheus_rule.py": KUBERNETES,
    "src/service/api/catalogue.py": SAMPLE,
    "src/service/api/orders.py": ORDERS,
    "src/service/api/sales.py": SALES,
    "src/service/chassis/data": DATABASE,
    "src/service/chassis/messaging": MESSAGING,
    "src/service/chassis/resources": DATABASE,
    "src/service/domain/catalogue.py": SAMPLE,
    "src/service/domain/orders.py": ORDERS,
    "src/service/events/__init__.py": MESSAGING,
    "src/service/events/orders.py": SALES,
    "src/service/seed.py": ORDERS,
    "src/service/storage/__init__.py": DATABASE,
    "src/service/storage/orders.py": ORDERS,
    "src/service/storage/sales.py": SALES,
    "src/service/workers.py": MESSAGING,
    "tests/api/test_catalogue.py": SAMPLE,
    "tests/api/test_orders.py": ORDERS,
    "tests/chassis/data": DATABASE,
    "tests/chassis/messaging": MESSAGING,
    "tests/chassis/resources": DATABASE,
    "tests/database.py": DATABASE,
    "tests/events/test_orders.py": SALES,
    "tests/messages.py": MESSAGING,
    "tests/parcels.py": DATABASE,
    "tests/test_database_files.py": DATABASE,
    "tests/test_kubernetes.py": KUBERNETES,
    "tests/test_kubernetes_database.py": {**KUBERNETES, **DATABASE},
    "tests/test_kubernetes_messaging.py": WORKERS,
    "tests/test_messaging_files.py": MESSAGING,
    "tests/test_migrations.py": DATABASE,
}
# What tools leave in the template's own folder; cookiecutter copies it.
CACHES = (".hypothesis", ".import_linter_cache", ".mypy_cache", ".pytest_cache", ".ruff_cache")
# Tags of operations in openapi.json, which as JSON can hold no condition.
OPERATIONS = {"catalogue": SAMPLE, "orders": ORDERS, "sales": SALES}
# Files of development values, random, which are not rendered again and which git ignores.
SECRETS = {
    **{f".secrets/database-{role}": DATABASE for role in ("superuser", "owner", "application")},
    ".secrets/broker-application": MESSAGING,
}
# What containers mount, whose users must be able to read it whatever the umask.
MOUNTED = (*SECRETS, "database/roles.sh")
LEFTOVERS = ("{{ cookiecutter", "# {%", "# {#", "# only-if:")
TOOLS = {
    "ruff check": ("ruff", "check", "--no-cache", "--quiet", "."),
    "ruff format": ("ruff", "format", "--no-cache", "--check", "--quiet", "."),
    "docker compose": ("docker", "compose", "--project-directory", ".", "config", "--quiet"),
}
TOOL_SECONDS = 10


def applies(wanted: Wanted, answers: Mapping[str, Any]) -> bool:
    return all(answers[question] in accepted for question, accepted in wanted.items())


def prune(
    root: Path, answers: Mapping[str, Any], optional: Mapping[str, Wanted] = OPTIONAL
) -> None:
    """Remove what the answers do not ask for from `root`, and the folders that this empties."""
    for cache in CACHES:
        shutil.rmtree(root / cache, ignore_errors=True)
    for path, wanted in optional.items():
        if applies(wanted, answers):
            continue
        target = root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        while (target := target.parent) != root and target.is_dir() and not any(target.iterdir()):
            target.rmdir()


def prune_contract(path: Path, answers: Mapping[str, Any]) -> None:
    """Remove the operations that the answers do not ask for from an OpenAPI document."""
    unwanted = {tag for tag, wanted in OPERATIONS.items() if not applies(wanted, answers)}
    document = json.loads(path.read_text(encoding="utf-8"))
    paths = document["paths"]
    schemas = document["components"]["schemas"]
    tags = {name: next(iter(item.values()))["tags"] for name, item in paths.items()}
    for name in [name for name in paths if unwanted.intersection(tags[name])]:
        del paths[name]
    unused = [""]
    while unused:
        text = json.dumps(document)
        unused = [name for name in schemas if f'"#/components/schemas/{name}"' not in text]
        for name in unused:
            del schemas[name]
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_secrets(root: Path, answers: Mapping[str, Any]) -> None:
    """Write the development values that are asked for and missing."""
    for name, wanted in SECRETS.items():
        path = root / name
        if applies(wanted, answers) and not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_text(secrets.token_hex(24), encoding="ascii")


def let_containers_read(root: Path) -> None:
    """Make the files that containers mount readable; .secrets keeps other users out as a whole."""
    for path in (root / name for name in MOUNTED):
        if path.exists():
            path.chmod(0o644)


def faults(root: Path) -> list[str]:
    """Return one line for each file of `root` that does not parse or holds template syntax."""
    found = []
    for path in files(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image or the like
            continue
        found += [f"{path.relative_to(root)}: {mark} is left" for mark in LEFTOVERS if mark in text]
        try:
            parse(path.suffix, text)
        except ValueError as error:
            found.append(f"{path.relative_to(root)}: {error}")
        except SyntaxError as error:
            found.append(f"{path.relative_to(root)}:{error.lineno}: {error.msg}")
    return found


def files(root: Path) -> list[Path]:
    """Return the service's files, those of git and the secrets left out."""
    others = {".git", ".secrets"}
    found = [path for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in found if others.isdisjoint(path.relative_to(root).parts))


def parse(suffix: str, text: str) -> None:
    """Raise ValueError or SyntaxError where `text` is not what `suffix` says."""
    if suffix == ".py":
        ast.parse(text)
    elif suffix == ".json":
        json.loads(text)
    elif suffix == ".toml" and tomllib:
        tomllib.loads(text)


def git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, or None where it fails or is not installed."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ("git", "-C", str(folder), *arguments)
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": TOOL_SECONDS}
        return str(subprocess.run(command, check=True, **options).stdout).strip()
    return None


def without_credentials(address: str) -> str:
    """Return a repository's address without a token, which the new one would keep for ever.

    The user stays in an ssh address, which is wrong without it.
    """
    address = re.sub(r"^(ssh://[^/:@]*):[^/]*@", r"\1@", address)
    return re.sub(r"^((?!ssh:)[\w+.-]+://)[^/?#]*@", r"\1", address)


def record(
    root: Path, answers: Mapping[str, Any], template: Path, directory: str | None = None
) -> str | None:
    """Write `.cruft.json`, by which `cruft update` knows the version; return why if it can't.

    `directory` is the template's, inside of its repository, the folder `template`.
    """
    if git(template, "rev-parse", "--show-prefix") != "":
        return "the template is no git clone"
    if git(template, "status", "--porcelain") != "":
        return "the template has uncommitted changes"
    given = {name: value for name, value in answers.items() if not name.startswith("_")}
    origin = git(template, "remote", "get-url", "origin")
    state = {
        "template": without_credentials(origin) if origin else str(template),
        "commit": git(template, "rev-parse", "HEAD"),
        "checkout": answers.get("_checkout"),
        "context": {"cookiecutter": given},
        "directory": directory,
    }
    (root / ".cruft.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return None


def start_tools(root: Path) -> dict[str, "subprocess.Popen[bytes]"]:
    """Start the optional checkers that are installed; they run beside the rest of the hook.

    From /, so that a version manager's shim does not ask for the Python of .python-version.
    """
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    quiet["cwd"] = root.anchor
    return {
        name: subprocess.Popen([str(root) if part == "." else part for part in command], **quiet)
        for name, command in TOOLS.items()
        if shutil.which(command[0])
    }


def verdict(process: "subprocess.Popen[bytes]") -> str:
    """Wait for a checker and say how it ended; it only warns."""
    try:
        return "ok" if process.wait(TOOL_SECONDS) == 0 else "WARNING, run it to see why"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"no answer in {TOOL_SECONDS} s"


def report(root: Path, answers: Mapping[str, Any], checks: list[str]) -> None:
    """Print what was checked, that nothing is committed, and the next three commands."""
    slug = answers["service_slug"]
    path = "v1/products/tea" if applies(SAMPLE, answers) else "livez"
    by_docker = f"docker run --rm -d -p 5000:5000 {slug}"
    by_compose = "docker compose up --no-build --detach --wait"
    print(f"{slug}: {len(files(root))} files. Checked: {'; '.join(checks)}.")
    print("Nothing is committed yet: git add --all && git commit; cruft update needs it.")
    print("Next, with Docker (or with Python alone: make run):")
    print(f"  cd {slug} && docker build -t {slug} .")
    print(f"  {by_compose if applies(DATABASE, answers) else by_docker}")
    print(f"  curl --retry 20 --retry-delay 1 --retry-all-errors localhost:5000/{path}")


def complete(
    root: Path, answers: Mapping[str, Any], template: Path, directory: str | None = None
) -> list[str] | None:
    """Verify, record and put under git a project; return what was checked, None for a fault."""
    running = start_tools(root)
    if found := faults(root):
        for process in running.values():
            process.kill()
            process.wait()
        refuse(found)
        return None
    checks = ["Python, TOML and JSON parse", "no template syntax is left"]
    if reason := record(root, answers, template, directory):
        checks.append(f"no .cruft.json, {reason}")
    if git(root, "rev-parse", "--is-inside-work-tree") != "true":
        git(root, "init", "--quiet", "--initial-branch=main")
    return checks + [f"{name}: {verdict(process)}" for name, process in running.items()]


def refuse(found: list[str]) -> int:
    """Print the faults, if there are any, and return the exit status."""
    if found:
        told = ["This is a fault of the template, please report it:", *found]
        print(*told, sep="\n  ", file=sys.stderr)
        print("Bake with --keep-project-on-failure to look at the files.", file=sys.stderr)
    return 1 if found else 0


def main(root: Path, answers: Mapping[str, Any], template: Path) -> int:
    """Return the exit status; 1 only for a fault of the template itself."""
    prune(root, answers)
    prune_contract(root / "openapi.json", answers)
    if "_commit" in answers:  # cruft: it runs hooks in a temporary folder, and keeps its own record
        return refuse(faults(root))
    write_secrets(root, answers)
    let_containers_read(root)
    checks = complete(root, answers, template)
    if checks is None:
        return 1
    report(root, answers, checks)
    return 0


if __name__ == "__main__":
    try:
        given = json.loads(r""" {{ cookiecutter | tojson }} """)
        sys.exit(main(Path.cwd(), given, Path(json.loads(r""" {{ template_folder | tojson }} """))))
    finally:
        Path(__file__).unlink(missing_ok=True)

"""A platform and services in a folder of the test's own: files alone, nothing runs."""

import shutil
import subprocess
from pathlib import Path

from fleet.project import Project

ROOT = Path(__file__).resolve().parent.parent
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {slug}}}
spec:
  rules:
    - matches: [{{path: {{type: PathPrefix, value: /{slug}}}}}]
      backendRefs: [{{name: {slug}, port: 5000}}]
"""


def make_project(folder: Path) -> Project:
    """Return a platform in which nothing has joined yet."""
    root = folder / "a platform"
    for name in ("config", "routes"):
        (root / name).mkdir(parents=True)
    shutil.copy(ROOT / "services.yaml", root)
    (root / "compose.yaml").write_text("name: shop\nservices: {gateway: {}}\n", "utf-8")
    return Project(root)


def make_service(folder: Path, slug: str) -> Path:
    """Return the folder of a service beside it."""
    root = folder / f"the {slug}"
    (root / "deploy/gateway").mkdir(parents=True)
    manifest = f"name: {slug}\nport: 5000\nslo: {{availability_percent: 99.9}}\n"
    (root / "service.yaml").write_text(manifest, "utf-8")
    (root / "compose.yaml").write_text(f"services: {{{slug}: {{}}}}\n", "utf-8")
    (root / "deploy/gateway/route.yaml").write_text(ROUTE.format(slug=slug), "utf-8")
    return root


def commit(folder: Path) -> None:
    """Commit all of a folder."""
    git = ("git", "-C", str(folder), "-c", "user.name=Ana", "-c", "user.email=ana@example.org")
    if not (folder / ".git").exists():
        subprocess.run((*git, "init", "--quiet"), check=True)
    subprocess.run((*git, "add", "--all"), check=True)
    subprocess.run((*git, "commit", "--quiet", "--message", "A commit"), check=True)

"""Every recipe of a service's RECIPES.md, followed in one service, which then passes its checks."""

from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.conftest import installed
from tests.conftest import make_passes
from tests.recipes import blocks
from tests.recipes import put

pytestmark = pytest.mark.slow

TESTS = ("api", "jobs", "test_consistency.py", "test_app.py", "chassis/test_settings.py")
EVENTS = {"messaging": "rabbitmq"}


def follow(service: Path, shop: Path) -> None:
    """Do what the recipes say; beside the service is the shop that it calls."""
    (service.parent / "shop").symlink_to(shop)
    for name, place, code in blocks((service / "RECIPES.md").read_text("utf-8")):
        if not name:
            for command in code.splitlines():
                if command.startswith("make "):  # others are for the image
                    make_passes(service, *command.split()[1:])
            continue
        if name.startswith("migrations/"):
            make_passes(service, "migration", "m=book rooms")
            (path,) = service.glob(name)
        else:
            path = service / name
        put(path, place, code)
    make_passes(service, "format", "openapi")
    if (service / "asyncapi.yaml").exists():
        make_passes(service, "asyncapi")


@pytest.mark.parametrize(
    "answers",
    [{"sample": "no"}, {"database": "postgresql"}, {"database": "postgresql"} | EVENTS],
    ids=["least", "a database", "most"],
)
def test_a_service_with_every_recipe_passes_its_checks(
    bake: Bake, service_python: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    service = installed(bake(**answers), service_python, tmp_path)
    follow(service, bake(service_slug="shop", service_name="Shop"))
    make_passes(service, "lint")
    tests = [f"tests/{name}" for name in TESTS]
    tests += ["tests/test_migrations.py"] if "database" in answers else []
    tests += ["tests/events", "tests/chassis/messaging"] if "messaging" in answers else []
    make_passes(service, "test", f"ARGS=-q {' '.join(tests)}")

"""What a service runs, and to which images it can return."""

import threading
from pathlib import Path

import pytest
from platforms import make_project
from platforms import make_service

from fleet.project import Refusal
from fleet.services import read_service
from fleet.state import KEPT
from fleet.state import State
from fleet.state import forget_state
from fleet.state import locked
from fleet.state import read_state
from fleet.state import states_of
from fleet.state import write_state

FIRST = State(("orders:1",), "orders:1", "orders-abc")


def test_a_state_is_kept_and_forgotten(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    services = [read_service(make_service(tmp_path, slug)) for slug in ("orders", "invoices")]
    write_state(project, "orders", FIRST.scaled(3))
    assert states_of(project, services) == {"orders": FIRST.scaled(3)}
    forget_state(project, "orders")
    assert read_state(project, "orders") is None


def test_returning_undoes_deploying_but_not_the_migration() -> None:
    returned = FIRST.deploying("orders:2").returning("orders")
    assert (returned.image, returned.migrated) == ("orders:1", "orders:2")


def test_what_migrated_is_known_also_where_it_did_not_become_ready() -> None:
    state = FIRST.migrated_by("orders:2")
    assert (state.image, state.migrated) == ("orders:1", "orders:2")


def test_returning_twice_leads_to_the_one_before_that() -> None:
    third = FIRST.deploying("orders:2").deploying("orders:3")
    assert third.returning("orders").returning("orders").image == "orders:1"


def test_the_first_image_has_none_before_it() -> None:
    with pytest.raises(Refusal, match="orders: there is no image before orders:1"):
        FIRST.returning("orders")


def test_an_image_that_is_deployed_again_is_kept_once() -> None:
    assert FIRST.deploying("orders:2").deploying("orders:1").images == ("orders:1", "orders:2")


def test_only_so_many_images_are_kept() -> None:
    state = FIRST
    for number in range(2, 20):
        state = state.deploying(f"orders:{number}")
    assert (len(state.images), state.image) == (KEPT, "orders:19")


def test_one_command_at_a_time_changes_what_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path)
    entered = threading.Event()

    def other() -> None:
        with locked(project):
            entered.set()

    with locked(project):
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()
    assert capsys.readouterr().err == "Waiting for another command to end\n"

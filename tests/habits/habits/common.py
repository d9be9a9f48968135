"""What habits have in common: a habit takes a new application and returns what its user sees."""

from collections.abc import Callable
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

Habit = Callable[[Flask], object]
HABITS: dict[str, Habit] = {}
CHUNKED = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}  # as servers set it


def habit(function: Habit) -> Habit:
    """Add a habit to those that are tried."""
    HABITS[function.__name__] = function
    return function


def fail() -> str:
    """Be a view that fails."""
    return str(1 / 0)


def ask_at(app: Flask, path: str, **options: Any) -> TestResponse:
    """Ask for a path that is sent as it stands."""
    return app.test_client().get("/", environ_overrides={"PATH_INFO": path}, **options)


def outcome(act: Callable[[], object]) -> object:
    """Return what is done, or the name of what is raised."""
    try:
        return act()
    except BaseException as error:
        return f"raised {type(error).__name__}"

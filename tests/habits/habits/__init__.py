"""The habits of Flask's users, by what they are about."""

from habits import contexts
from habits import errors
from habits import hooks
from habits import json_values
from habits import pages
from habits import requests
from habits import responses
from habits import routes
from habits.common import HABITS

__all__ = [
    "HABITS",
    "contexts",
    "errors",
    "hooks",
    "json_values",
    "pages",
    "requests",
    "responses",
    "routes",
]

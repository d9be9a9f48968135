"""Bare Flask on the service's server, with nothing of the chassis in the process."""

import os

from flask import Flask
from granian import Granian
from granian.constants import Interfaces


def make() -> Flask:
    """Make one route of JSON."""
    app = Flask(__name__)
    app.add_url_rule("/v1/products/<sku>", view_func=lambda sku: {"sku": sku, "name": "Tea"})
    return app


if __name__ == "__main__":
    Granian(
        "bare:make",
        factory=True,
        port=int(os.environ["PORT"]),
        interface=Interfaces.WSGI,
        blocking_threads=int(os.environ["CONCURRENCY"]) + 2,
    ).serve()

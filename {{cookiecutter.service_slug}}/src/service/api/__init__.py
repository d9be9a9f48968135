"""The HTTP interface: one blueprint per resource, one line each."""

from flask import Flask

from service.api import catalogue
from service.api import orders  # only-if: database == "postgresql"


def init_app(app: Flask) -> None:
    """Register the blueprints."""
    app.register_blueprint(catalogue.blueprint)
    app.register_blueprint(orders.blueprint)  # only-if: database == "postgresql"

"""The HTTP interface: one blueprint per resource, one line each."""

from flask import Flask

from service.api import catalogue


def init_app(app: Flask) -> None:
    app.register_blueprint(catalogue.blueprint)

"""The HTTP interface: one blueprint per resource, one line each."""

from service.api import catalogue  # only-if: sample == "yes"
from service.api import orders  # only-if: database != "none" and sample == "yes"
from service.api import sales  # only-if: messaging == "rabbitmq" and sample == "yes"
from service.chassis.http.application import Application


def init_app(app: Application) -> None:
    """Register the blueprints."""
    app.register_blueprint(catalogue.blueprint)  # only-if: sample == "yes"
    app.register_blueprint(orders.blueprint)  # only-if: database != "none" and sample == "yes"
    app.register_blueprint(sales.blueprint)  # only-if: messaging == "rabbitmq" and sample == "yes"

"""The application, put together: one line per concern; deleting a line deletes the feature."""

from service import api
from service.chassis import database  # only-if: database == "postgresql"
from service.chassis import edge
from service.chassis import logs
from service.chassis import openapi
from service.chassis import pagination  # only-if: database == "postgresql"
from service.chassis import problems
from service.chassis import tracing
from service.chassis.framework import Service
from service.settings import Settings


def create_app(settings: Settings | None = None) -> Service:
    """Make the WSGI application; settings not given are read from the environment."""
    settings = settings or Settings.load()
    app = Service(__name__)
    logs.init_app(app, settings)  # one JSON line per event
    tracing.init_app(app, settings)  # spans, where OTEL_EXPORTER_OTLP_ENDPOINT says whereto
    problems.init_app(app)  # every error as application/problem+json
    api.init_app(app)  # the routes
    openapi.init_app(app)  # the contract of the routes and its page
    edge.init_app(app, settings)  # health, admission, limits, ids, metrics
    pagination.init_app(app, settings)  # only-if: database == "postgresql"
    database.init_app(app, settings)  # only-if: database == "postgresql"
    return app

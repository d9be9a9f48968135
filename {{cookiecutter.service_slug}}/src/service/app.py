"""The application, put together: one line per concern; deleting a line deletes the feature."""

from service import api
from service.chassis.client import calls
from service.chassis.http import middleware
from service.chassis.http import openapi
from service.chassis.http import problems
from service.chassis.http.application import Application
from service.chassis.resources import database  # only-if: database == "postgresql"
from service.chassis.telemetry import logs
from service.chassis.telemetry import metrics
from service.chassis.telemetry import tracing
from service.settings import Settings


def create_app(settings: Settings | None = None) -> Application:
    """Make the WSGI application; settings that are not given are read from the environment."""
    settings = settings or Settings.load()
    app = Application(__name__)
    logs.init_app(app, settings)  # one JSON line per event and per request
    metrics.init_app(app)  # Prometheus metrics at /metrics
    tracing.init_app(app, settings)  # spans, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector
    calls.init_app(app, settings, app.telemetry.registry)  # calls to other services
    problems.init_app(app)  # every error as application/problem+json
    api.init_app(app)  # the routes
    openapi.init_app(app)  # the routes' document and its page
    database.init_app(app, settings, settings.concurrency)  # only-if: database == "postgresql"
    middleware.init_app(app, settings)  # probes, request ids, limits
    return app

"""The processes beside the API: `relay` sends its events, `consume` handles those it gets.

Their libraries are loaded only where they run.
"""

import sys
from typing import TYPE_CHECKING

from service.settings import Settings

if TYPE_CHECKING:
    from service.chassis.messaging.registry import Registry
    from service.chassis.messaging.worker import Worker


def make_registry() -> "Registry":
    """Return what the service publishes and handles."""
    from service import events
    from service.chassis.messaging.registry import Registry

    registry = Registry()
    events.init_registry(registry)
    return registry


def make_worker(name: str, settings: Settings) -> "Worker":
    """Make a worker with logs, metrics and traces, as app.py does for the API."""
    from service.chassis.messaging import worker
    from service.chassis.telemetry import logs
    from service.chassis.telemetry import metrics
    from service.chassis.telemetry import tracing

    worker.require_servers(name, settings, settings)
    made = worker.Worker(name, settings, settings)
    logs.init_app(made, settings)
    metrics.init_app(made)
    tracing.init_app(made, settings)
    return made


def relay(settings: Settings) -> int:
    """Send the events of the outbox until a signal."""
    from service.chassis.data.connections import Database
    from service.chassis.messaging.relay import Relay

    worker = make_worker("relay", settings)
    database = Database(settings, registry=worker.telemetry.registry)
    return worker.run(Relay(worker, database, make_registry().published).session)


def consume(settings: Settings) -> int:
    """Handle events until a signal."""
    from service.chassis.client import calls
    from service.chassis.data.connections import Database
    from service.chassis.messaging.consumer import Consumer

    worker = make_worker("consumer", settings)
    calls.init_process(settings, worker.telemetry.registry)
    connections = settings.consumer_concurrency + 2  # for the check and for the clean-up
    database = Database(settings, connections, worker.telemetry.registry)
    consumer = Consumer(worker, database, make_registry(), settings, settings.shutdown_grace)
    return worker.run(consumer.session)


def show_asyncapi(_settings: Settings) -> int:
    """Print the document of the events."""
    from service.chassis.messaging import asyncapi
    from service.chassis.project import PROJECT

    sys.stdout.write(asyncapi.to_yaml(asyncapi.make_document(make_registry(), PROJECT)))
    return 0


COMMANDS = {"relay": relay, "consume": consume, "asyncapi": show_asyncapi}

"""A process beside the API: its probes, its signals, and its life with the broker."""

import asyncio
import contextlib
import logging
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError
from sqlalchemy.exc import SQLAlchemyError

from service.chassis.data.settings import DatabaseSettings
from service.chassis.lifecycle import Readiness
from service.chassis.messaging import probes
from service.chassis.messaging import topology
from service.chassis.messaging.settings import MessagingSettings
from service.chassis.project import PROJECT
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry import Telemetry

log = logging.getLogger("service.messaging")

MAX_PAUSE = 2.0  # seconds between two attempts to reach the broker

Session = Callable[[AbstractConnection], Awaitable[None]]


def require_servers(name: str, broker: MessagingSettings, database: DatabaseSettings) -> None:
    """Exit with status 2 and one line where a worker lacks a broker or PostgreSQL."""
    url = database.database_url.get_secret_value() if database.database_url else "sqlite"
    fault = ""
    if broker.broker_url is None:
        fault = f"BROKER_URL: {name} needs a broker: amqp://user@host"
    elif url.startswith("sqlite"):
        fault = f"DATABASE_URL: {name} needs PostgreSQL, postgresql://user@host/name"
    if fault:
        sys.stderr.write(f"configuration: {fault}\n")
        raise SystemExit(2)


class Worker:
    """What the relay and the consumer have in common; `name` tells them apart."""

    def __init__(self, name: str, server: ServerSettings, broker: MessagingSettings) -> None:
        self.name = name
        self.readiness = Readiness()
        self.telemetry = Telemetry()
        self._is_connected = False
        self.stopping = asyncio.Event()
        self._server = server
        self._broker = broker
        self._failure = ""
        self._has_worked = False
        self._has_ended = threading.Event()
        self._tasks: list[tuple[float, Callable[[], object]]] = []
        self.readiness.require("broker", self._check_connected)

    def repeat(self, interval: float, task: Callable[[], object]) -> None:
        """Call `task` in a thread every `interval` seconds while the process runs."""
        self._tasks.append((interval, task))

    def run(self, session: Session) -> int:
        """Answer probes and run sessions until a signal; return the exit status.

        A session lasts as long as its connection to the broker; then the next begins.
        """
        # They log bodies, and each failure that is reported here.
        for library in ("aio_pika", "aiormq"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        # A connection that was never made is collected in a thread without a loop.
        warnings.filterwarnings("ignore", "coroutine 'Connection.close' was never awaited")
        try:
            server = probes.serve(self._server, self.readiness, self.telemetry)
        except OSError as error:
            log.error("cannot listen on port %s: %s", self._server.port, error)
            return 1
        for task in self._tasks:
            threading.Thread(target=self._repeat, args=task, daemon=True).start()
        try:
            asyncio.run(self._live(session))
        finally:
            self._has_ended.set()
            server.shutdown()
            server.server_close()
        log.info("the %s has stopped", self.name)
        return 0

    def works(self) -> None:
        """Note that a session has done some of its work; the session calls it."""
        if self._failure:
            log.warning("the %s works again", self.name)
        elif not self._has_worked:
            log.info("the %s works", self.name)
        self._is_connected = self._has_worked = True
        self._failure = ""

    async def wait(self, seconds: float) -> None:
        """Wait so long, or until the process is to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    async def _live(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        failures = 0
        while not self.stopping.is_set():
            began = time.monotonic()
            try:
                name = f"{PROJECT.name}-{self.name}"
                async with await topology.connect(self._broker, name) as connection:
                    await session(connection)
            # ChannelInvalidStateError is a RuntimeError.
            except (OSError, AMQPError, RuntimeError, SQLAlchemyError) as error:
                self._fail(f"{type(error).__name__}: {error}")
            finally:
                self._is_connected = False
            failures = 0 if time.monotonic() - began > MAX_PAUSE else min(failures + 1, 5)
            pause = min(MAX_PAUSE, 0.1 * 2**failures)
            await self.wait(random.uniform(pause / 2, pause))  # noqa: S311 no secret

    def _repeat(self, interval: float, task: Callable[[], object]) -> None:
        while not self._has_ended.wait(interval):
            try:
                task()
            except Exception as error:
                log.warning("%s: %r", task.__name__, error)

    def _stop(self) -> None:
        self.readiness.drain()
        self.stopping.set()

    def _fail(self, failure: str) -> None:
        """Log that a failure has begun; readiness shows how it goes on."""
        if not self._failure:
            log.warning("the %s cannot work: %s", self.name, failure)
        self._failure = failure

    def _check_connected(self) -> None:
        if not self._is_connected:
            raise ConnectionError(self._failure or "not connected yet")

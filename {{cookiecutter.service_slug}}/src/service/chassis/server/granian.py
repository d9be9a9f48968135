"""The one module that knows the server: how it is set up, and the rules for its processes."""

import ctypes
import functools
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from service.chassis.server import signals
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry.stdout import stdout

SPARE_THREADS = 2  # so that a probe or a refusal finds a thread while all others work or wait
MAX_CONNECTIONS = 1024  # idle ones count: not fewer than a gateway keeps open
MAX_HEAD = 16_384  # bytes of request line and headers, and of what is read ahead of a body
KEEP_ALIVE = 60_000  # milliseconds for headers and between requests; a gateway gives up sooner
PR_SET_PDEATHSIG = 1
EXIT_START_FAILED = 3


def load_app(target: str) -> Any:
    """Make the WSGI application in the worker's main thread, before the port opens."""
    for number in (signal.SIGQUIT, signals.SHOW_STACKS):
        signal.signal(number, signals.show_stacks)
    # The inherited handler would swallow a stop while the application loads.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C reaches the supervisor alone: repeated at once, it would hang the worker.
    os.setpgid(0, 0)
    if sys.platform == "linux":  # the worker does not outlive the supervisor
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        module, _, factory = target.partition(":")
        app = getattr(importlib.import_module(module), factory)()
    except BaseException:
        log = logging.getLogger("service")
        log.critical("the application does not start", exc_info=True)
        os.kill(os.getppid(), signals.START_FAILED)
        sys.exit(EXIT_START_FAILED)
    stdout.defer()
    gc.freeze()  # what the start made is never garbage
    signal.signal(signals.DRAIN, lambda _signum, _frame: app.readiness.drain())
    return app


def refuse_busy_port(address: str, port: int) -> None:
    """Exit with one line where another process listens; the server would share the port with it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        sys.exit(f"cannot listen on {address} port {port}: {os.strerror(error.errno or 0)}")


def _make_server(settings: ServerSettings, target: str, log_config: dict[str, Any]) -> Any:
    return Granian(
        target,
        address=settings.bind_address,
        port=settings.port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=1,
        workers_kill_timeout=settings.shutdown_grace,
        blocking_threads=settings.concurrency + settings.max_queue + SPARE_THREADS,
        blocking_threads_idle_timeout=600,
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=KEEP_ALIVE, max_buffer_size=MAX_HEAD),
        log_dictconfig=log_config,
        log_level=LogLevels(log_config["root"]["level"].lower()),
    )


def serve(settings: ServerSettings, target: str, log_config: dict[str, Any]) -> int:
    """Serve what the factory at `target` ("module:name") makes, until a signal.

    Return 0 once stopped, 1 where the worker died, 3 where it cannot start; exit with 1 where the
    port is taken.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        sys.exit("a free-threaded Python is not supported: signals would not reach the worker")
    refuse_busy_port(settings.bind_address, settings.port)
    server = _make_server(settings, target, log_config)
    shutdown = signals.Shutdown(settings.drain_delay)
    server.on_startup(shutdown.install)
    gc.freeze()  # a collection in the worker would copy the memory that it shares with this process
    status = 0
    try:
        server.serve(target_loader=functools.partial(load_app, target), wrap_loader=False)
    except SystemExit:
        status = 1
    return EXIT_START_FAILED if shutdown.has_start_failed else status

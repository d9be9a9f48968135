"""The one module that knows the server: its settings, and the rules for signals, starts and stops that it lacks."""

import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from service.chassis import logs
from service.chassis import output
from service.settings import Settings

SPARE_THREADS = 2  # beyond the limit of requests, so that a probe or a refusal always finds a thread
CONNECTIONS = 1024  # idle ones count: never fewer than a gateway keeps open
KEEP_ALIVE = 60_000  # milliseconds for a request's headers and between requests; a gateway must give up sooner
SIGNAL_AGAIN = 0.25  # seconds: a worker that was respawned meanwhile learns of the drain too
SHOW_STACKS = signal.SIGURG  # ignored by a worker that still loads, where SIGQUIT would end it
EXIT_NO_START = 3


def load_app(target: str) -> Any:
    """Make the WSGI application in a worker's main thread, before its port opens."""
    for number in (signal.SIGQUIT, SHOW_STACKS):
        signal.signal(number, show_stacks)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the inherited handler would swallow a stop while this loads
    os.setpgid(0, 0)  # Ctrl-C reaches the supervisor alone: a third signal at once would hang the worker
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no worker outlives the supervisor
    try:
        module, _, factory = target.partition(":")
        app = getattr(importlib.import_module(module), factory)()
    except BaseException:
        logging.getLogger("service").critical("the application does not start", exc_info=True)
        os.kill(os.getppid(), signal.SIGUSR2)
        sys.exit(EXIT_NO_START)
    output.stdout.gather()
    gc.freeze()  # what a start makes is never garbage
    signal.signal(signal.SIGUSR1, lambda _signum, _frame: app.extensions["health"].drain())
    return app


def show_stacks(_signum: int, _frame: FrameType | None) -> None:
    """Write all threads' stacks to standard error; with the interpreter's lock held, since others' frames change."""
    os.write(2, f"The stacks of worker {os.getpid()}:\n".encode())
    faulthandler.dump_traceback()


def refuse_busy_port(address: str, port: int) -> None:
    """Exit with one line where another process listens; the server would share the port with it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        sys.exit(f"cannot listen on {address} port {port}: {os.strerror(error.errno or 0)}")


def tell_workers(number: int, pause: float = 0) -> None:
    for worker in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(worker.pid, number)  # type: ignore[arg-type]
        time.sleep(pause)


class Stop:
    """What signals do to the supervisor: SIGTERM drains before it stops, SIGUSR2 says that a worker cannot start."""

    def __init__(self, delay: float) -> None:
        self.failed = False
        self._delay = delay
        self._server_stop: Any = None

    def install(self) -> None:
        """Take the place of the server's own handlers, which it has set by now."""
        self._server_stop = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited until the worker watches it: else it would die of it
        signal.signal(signal.SIGUSR2, self._on_failed_start)
        # One worker after the other, so that their lines do not mix.
        signal.signal(signal.SIGQUIT, lambda _number, _frame: tell_workers(SHOW_STACKS, pause=0.1))
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, _signum: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, self._server_stop)  # a second one does not wait
        threading.Thread(target=self._drain_then_stop, daemon=True).start()

    def _on_failed_start(self, signum: int, frame: FrameType | None) -> None:
        self.failed = True
        self._server_stop(signum, frame)

    def _drain_then_stop(self) -> None:
        until = time.monotonic() + self._delay
        while (left := until - time.monotonic()) > 0:
            tell_workers(signal.SIGUSR1)
            time.sleep(min(left, SIGNAL_AGAIN))
        self._server_stop(signal.SIGTERM, None)


@contextlib.contextmanager
def _shared_metrics() -> Iterator[None]:
    """Let the workers count in files of one folder, in memory where there is one."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 tempfile makes the name
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder = tempfile.mkdtemp(prefix="metrics-", dir=memory)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _server(settings: Settings, target: str) -> Any:
    return Granian(
        target,
        address=settings.bind_address,
        port=settings.port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.workers,
        respawn_failed_workers=settings.workers > 1,
        workers_kill_timeout=settings.shutdown_grace,
        blocking_threads=settings.concurrency + SPARE_THREADS,
        blocking_threads_idle_timeout=600,
        backlog=CONNECTIONS,
        backpressure=CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=KEEP_ALIVE, max_buffer_size=65_536),
        log_dictconfig=logs.config(settings),
        log_level=LogLevels(settings.log_level.lower()),
    )


def serve(settings: Settings, target: str) -> int:
    """Serve what the factory at `target` ("module:name") makes, until a signal.

    Return 0 once stopped, 1 where a worker died, 3 where one cannot start; exit with 1 where the port is taken.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        sys.exit("a free-threaded Python is not supported: signals would not reach the server's workers")
    refuse_busy_port(settings.bind_address, settings.port)
    server, stop, status = _server(settings, target), Stop(settings.drain_delay), 0
    server.on_startup(stop.install)
    with _shared_metrics() if settings.workers > 1 else contextlib.nullcontext():
        try:
            server.serve(target_loader=functools.partial(load_app, target), wrap_loader=False)
        except SystemExit:
            status = 1
    return EXIT_NO_START if stop.failed else status

"""What signals do: a stop that drains first, and stacks on request."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

REPEAT_INTERVAL = 0.25  # seconds: a worker that still starts learns of the drain too
SHOW_STACKS = signal.SIGURG  # ignored by a worker that still starts, where SIGQUIT would end it
DRAIN = signal.SIGUSR1
START_FAILED = signal.SIGUSR2


def show_stacks(_signum: int, _frame: FrameType | None) -> None:
    """Write all threads' stacks to standard error.

    Python calls it with the interpreter's lock held, without which other threads' frames change.
    """
    os.write(2, f"The stacks of worker {os.getpid()}:\n".encode())
    faulthandler.dump_traceback()


def notify_worker(number: int) -> None:
    """Send a signal to the worker process, if there is one."""
    for worker in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(worker.pid, number)  # type: ignore[arg-type]


class Shutdown:
    """How the supervisor stops: after a drain on SIGTERM, at once where the worker cannot start."""

    def __init__(self, drain_delay: float) -> None:
        self.has_start_failed = False
        self._drain_delay = drain_delay
        self._stop_server: Any = None

    def install(self) -> None:
        """Replace the server's own handlers, which are in place by now."""
        self._stop_server = signal.getsignal(signal.SIGTERM)
        # The worker inherits this and so survives a drain that comes before its own handler.
        signal.signal(DRAIN, signal.SIG_IGN)
        signal.signal(START_FAILED, self._on_start_failed)
        signal.signal(signal.SIGQUIT, lambda _number, _frame: notify_worker(SHOW_STACKS))
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, _signum: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, self._stop_server)  # a second one does not wait
        threading.Thread(target=self._drain_then_stop, daemon=True).start()

    def _on_start_failed(self, signum: int, frame: FrameType | None) -> None:
        self.has_start_failed = True
        self._stop_server(signum, frame)

    def _drain_then_stop(self) -> None:
        until = time.monotonic() + self._drain_delay
        while (left := until - time.monotonic()) > 0:
            notify_worker(DRAIN)
            time.sleep(min(left, REPEAT_INTERVAL))
        self._stop_server(signal.SIGTERM, None)

"""`/livez` touches nothing; `/readyz` asks only what the service owns and cannot work without."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from service.chassis import problems

log = logging.getLogger("service.health")

PAUSE = 1.0  # seconds between two askings
LIMIT = 1.0  # seconds that a check may take


class Check:
    """One condition of readiness, asked every second by a thread of its own; only the first probe waits for it."""

    def __init__(self, name: str, ask: Callable[[], object]) -> None:
        self.name = name
        self._ask = ask
        self._last_passed = float("-inf")
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"check-{name}", daemon=True)

    def passed(self) -> bool:
        if not self._asked.is_set():
            with contextlib.suppress(RuntimeError):  # another probe was the first
                self._thread.start()
            self._asked.wait(LIMIT)
        return time.monotonic() - self._last_passed < PAUSE + LIMIT

    def _watch(self) -> None:
        while True:
            try:
                self._ask()
                self._last_passed = time.monotonic()
            except Exception as error:
                if self._last_passed != float("-inf") or not self._asked.is_set():
                    log.warning("not ready: %s: %r", self.name, error)
                self._last_passed = float("-inf")
            self._asked.set()
            time.sleep(PAUSE)


class Health:
    def __init__(self) -> None:
        self.draining = False
        self._checks: list[Check] = []

    def require(self, name: str, ask: Callable[[], object]) -> None:
        """Be ready only while `ask` returns, within a second, and does not raise."""
        self._checks.append(Check(name, ask))

    def drain(self) -> None:
        """Tell who balances the load to send no more requests: the process is about to stop."""
        self.draining = True

    def livez(self, _environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return answer(start_response, b'{"status":"live"}')

    def readyz(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        failed = ["draining"] if self.draining else [check.name for check in self._checks if not check.passed()]
        if not failed:
            return answer(start_response, b'{"status":"ready"}')
        body = problems.problem_bytes(503, "not ready: " + ", ".join(failed), environ["PATH_INFO"])
        return answer(start_response, body, problems.MEDIA_TYPE, "503 Service Unavailable")


def answer(
    start_response: StartResponse, body: bytes, media_type: str = "application/json", status: str = "200 OK"
) -> Iterable[bytes]:
    """Answer a probe: nothing of it is logged or counted."""
    start_response(status, [("Content-Type", media_type), ("Content-Length", str(len(body)))])
    return [body]

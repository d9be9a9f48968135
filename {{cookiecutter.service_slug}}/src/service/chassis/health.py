"""`/livez` touches nothing; `/readyz` asks only what the service owns and cannot work without."""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from wsgiref.types import StartResponse
from wsgiref.types import WSGIEnvironment

from service.chassis import problems

log = logging.getLogger("service.health")

FRESH = 1.0  # seconds that a result holds, so that probes cannot load what they check
LIMIT = 1.0  # seconds that a check may take


class Check:
    """One condition of readiness: a function that raises while the service cannot work. Asked at most once a second."""

    def __init__(self, name: str, ask: Callable[[], object]) -> None:
        self.name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._running = False
        self._asked = float("-inf")
        self._passed = False

    def passed(self) -> bool:
        """Whether the condition holds; a check that hangs counts as failed and is not asked again while it hangs."""
        with self._lock:
            if not self._running and time.monotonic() - self._asked > FRESH:
                self._running = True
                self._done.clear()
                threading.Thread(target=self._run, name=f"check-{self.name}", daemon=True).start()
        return self._done.wait(LIMIT) and self._passed

    def _run(self) -> None:
        try:
            self._ask()
            passed = True
        except Exception as error:
            log.warning("not ready: %s: %s", self.name, error)
            passed = False
        with self._lock:
            self._passed, self._asked, self._running = passed, time.monotonic(), False
        self._done.set()


class Health:
    def __init__(self) -> None:
        self.draining = False
        self._checks: list[Check] = []

    def require(self, name: str, ask: Callable[[], object]) -> None:
        """Be ready only while `ask` returns within a second and does not raise."""
        self._checks.append(Check(name, ask))

    def drain(self) -> None:
        """Tell who balances the load to send no more requests: the process is about to stop."""
        self.draining = True

    def livez(self, _environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return _ok(start_response, b'{"status":"live"}')

    def readyz(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        failed = ["draining"] if self.draining else [check.name for check in self._checks if not check.passed()]
        if not failed:
            return _ok(start_response, b'{"status":"ready"}')
        body = problems.problem_bytes(503, "not ready: " + ", ".join(failed), environ["PATH_INFO"])
        headers = [("Content-Type", problems.MEDIA_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
        start_response("503 Service Unavailable", headers)
        return [body]


def _ok(start_response: StartResponse, body: bytes) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]

"""Whether the process can take requests: conditions that must hold, and the drain before a stop."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("service.health")

CHECK_INTERVAL = 1.0  # seconds between two runs of a check
CHECK_TIMEOUT = 1.0  # seconds that a check may take


class Check:
    """One condition of readiness, checked every second by a thread of its own.

    Probes wait for its first run only. A check that hangs fails, and is not run again until it
    ends.
    """

    def __init__(self, name: str, check: Callable[[], object]) -> None:
        self.name = name
        self._check = check
        self._last_passed = float("-inf")
        self._ran = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"check-{name}", daemon=True)

    def passed(self) -> bool:
        """Return whether the condition held the last time, which is recent."""
        if not self._ran.is_set():
            with contextlib.suppress(RuntimeError):  # another probe has started it
                self._thread.start()
            self._ran.wait(CHECK_TIMEOUT)
        return time.monotonic() - self._last_passed < CHECK_INTERVAL + CHECK_TIMEOUT

    def _watch(self) -> None:
        while True:
            try:
                self._check()
                self._last_passed = time.monotonic()
            except Exception as error:
                if self._last_passed != float("-inf") or not self._ran.is_set():
                    log.warning("not ready: %s: %r", self.name, error)
                self._last_passed = float("-inf")
            self._ran.set()
            time.sleep(CHECK_INTERVAL)


class Readiness:
    """The conditions under which one application takes requests."""

    def __init__(self) -> None:
        self.draining = False
        self._checks: list[Check] = []

    def require(self, name: str, check: Callable[[], object]) -> None:
        """Be ready only while `check` returns within a second and does not raise."""
        self._checks.append(Check(name, check))

    def drain(self) -> None:
        """Tell the load balancer to send no more requests: the process is about to stop."""
        if not self.draining:
            log.info("not ready: draining")
        self.draining = True

    def failures(self) -> list[str]:
        """Return the names of the conditions that do not hold; it is ready if there are none."""
        if self.draining:
            return ["draining"]
        return [check.name for check in self._checks if not check.passed()]

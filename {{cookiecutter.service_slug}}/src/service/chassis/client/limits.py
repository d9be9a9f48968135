"""What keeps a callee's failure from growing: a budget of retries, and a breaker."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable

from service.chassis.client.failures import BreakerOpen

log = logging.getLogger("service.client")

RETRY_RATIO = 0.1  # of the calls
MAX_SAVED = 10  # retries
WINDOW = 10  # seconds
MAX_RESULTS = 100  # within it, the last ones
MIN_RESULTS = 20  # fewer do not open a breaker
MIN_SUCCESS = 0.5  # of them
PAUSE = 5  # seconds, more or less by a fifth, before a call probes the callee


class Budget:
    """Retries that calls have earned; the first one is given."""

    def __init__(self) -> None:
        self._saved = 1.0
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count a call."""
        with self._lock:
            self._saved = min(self._saved + RETRY_RATIO, MAX_SAVED)

    def spend(self) -> bool:
        """Return whether one retry may be made."""
        with self._lock:
            is_enough = self._saved >= 1
            self._saved -= is_enough
            return is_enough


class Breaker:
    """Refuses calls while most fail; after a pause it lets one at a time through, as a probe."""

    def __init__(self, callee: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_open = False
        self._callee = callee
        self._clock = clock
        self._lock = threading.Lock()
        self._next_probe = 0.0
        self._turn = 0  # of the calls whose results count: not those from before a change
        self._results: deque[tuple[float, bool]] = deque(maxlen=MAX_RESULTS)

    def admit(self, seconds: float) -> int:
        """Let a call through that takes at most so long; return its turn, or raise BreakerOpen."""
        with self._lock:
            now = self._clock()
            if self.is_open and now < self._next_probe:
                raise BreakerOpen(self._callee, "fails too often", self._next_probe - now)
            if self.is_open:
                self._next_probe = now + seconds  # a probe may never return
                self._turn += 1
            return self._turn

    def record(self, turn: int, is_well: bool | None) -> None:
        """Note what a call has shown of the callee; None is nothing."""
        with self._lock:
            now = self._clock()
            if turn != self._turn:
                return
            if is_well is None:
                self._next_probe = now
                return
            self._results.append((now, is_well))
            if not self.is_open and (is_well or not self._mostly_fails(now)):
                return
            self.is_open = not is_well
            self._next_probe = now + PAUSE * random.uniform(0.8, 1.2)  # noqa: S311 no secret
            self._turn += 1
            self._results.clear()
        log.warning("the breaker of %s is %s", self._callee, "open" if self.is_open else "closed")

    def _mostly_fails(self, now: float) -> bool:
        recent = [is_well for at, is_well in self._results if at > now - WINDOW]
        return len(recent) >= MIN_RESULTS and sum(recent) < MIN_SUCCESS * len(recent)

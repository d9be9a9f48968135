"""Standard output, in whole lines; requests leave theirs to a thread."""

import fcntl
import json
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.util import Finalize

import orjson

STDOUT = 1
WHOLE = 4096  # bytes that a pipe takes from one process at once, whatever others write
GATHER = 0.005  # seconds in which the lines of requests wait for each other
PATIENCE = 1.0  # seconds to wait for a reader that does not read, once
WAITING = 4096  # lines at most; further ones are lost


class Output:
    """Standard output: every line is whole and has `***` for every secret, wherever in it that stands.

    A reader that hangs or is gone stops nobody: lines wait for it, and those that are too many are counted.
    """

    def __init__(self) -> None:
        self._secrets: list[bytes] = []
        self.renew()

    def renew(self) -> None:
        """Begin anew, without lines: in a forked process the thread is missing and a lock may be held for ever."""
        self._lines: deque[bytes] = deque()
        self._some, self._writing, self._within = threading.Event(), threading.RLock(), False
        self._gathers, self._patience, self._lost = False, PATIENCE, 0

    def hide(self, secrets: Iterable[str]) -> None:
        forms = (str.encode, lambda text: json.dumps(text)[1:-1].encode(), lambda text: orjson.dumps(text)[1:-1])
        self._secrets = sorted({form(secret) for secret in secrets for form in forms}, key=len, reverse=True)

    def gather(self) -> None:
        """From now on write what is put by a thread: a write of its own costs a request the interpreter's lock."""
        self._gathers = True
        threading.Thread(target=self._run, name="logs", daemon=True).start()
        Finalize(None, self.flush, exitpriority=0)  # `atexit` does not run in a forked worker

    def put(self, line: bytes) -> None:
        """Write a line, at once or with those of the next few milliseconds."""
        if not self._gathers:
            self.write(line)
            return
        self._add(line)
        if not self._some.is_set():
            self._some.set()

    def write(self, line: bytes) -> None:
        """Write a line at once, behind those that were put."""
        self._add(line)
        self.flush()

    def _add(self, line: bytes) -> None:
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        if len(self._lines) < WAITING:
            self._lines.append(line)
        else:
            self._lost += 1

    def flush(self) -> None:
        with self._writing:
            if self._within:  # a signal's handler logs: what it came into writes its line too
                return
            self._within = True
            _lock(fcntl.LOCK_EX)
            try:
                while self._lines and self._is_read():
                    self._write()
            except OSError:
                pass  # nobody can read: a request must not fail of that
            finally:
                _lock(fcntl.LOCK_UN)
                self._within = False

    def _is_read(self) -> bool:
        _, ready, _ = select.select((), (STDOUT,), (), self._patience)
        self._patience = PATIENCE if ready else 0
        return bool(ready)

    def _write(self) -> None:
        """Write as many lines as a pipe takes whole, or a longer one in parts."""
        piece = self._lines.popleft()
        while self._lines and len(piece) + len(self._lines[0]) <= WHOLE:
            piece += self._lines.popleft()
        if rest := piece[os.write(STDOUT, piece[:WHOLE]) :]:
            self._lines.appendleft(rest)

    def _run(self) -> None:
        while True:
            self._some.wait(PATIENCE if self._lines else None)
            time.sleep(GATHER)
            self._some.clear()
            self.flush()
            if self._lost and not self._lines:
                logging.getLogger("service").warning("%d lines were lost: nobody read them", self._lost)
                self._lost = 0


def _lock(operation: int) -> None:
    """Keep the lines of other processes out of a long one of ours."""
    with suppress(OSError):  # macOS cannot lock a pipe
        fcntl.lockf(STDOUT, operation)


stdout = Output()
os.register_at_fork(after_in_child=stdout.renew)

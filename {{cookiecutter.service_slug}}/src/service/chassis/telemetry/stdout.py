"""Standard output, in whole lines; those of requests are written by a thread."""

import fcntl
import json
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.util import Finalize

import orjson

STDOUT = 1
PIPE_BUF = 4096  # bytes that a pipe takes from one process at once, whatever others write
FLUSH_INTERVAL = 0.005  # seconds in which the lines of requests are collected
WRITE_TIMEOUT = 1.0  # seconds to wait for a reader that does not read, once
MAX_QUEUED_LINES = 4096  # further ones are dropped


class StandardOutput:
    """Writes whole lines, in which every secret is replaced by `***`.

    A reader that hangs or is gone blocks nobody: lines are queued, and dropped ones are counted.
    """

    def __init__(self) -> None:
        self._secrets: list[bytes] = []
        self.reset()

    def reset(self) -> None:
        """Start without lines: a forked process lacks the thread and may inherit a held lock."""
        self._lines: deque[bytes] = deque()
        self._has_lines = threading.Event()
        self._lock = threading.RLock()
        self._is_writing = False
        self._is_deferred = False
        self._timeout = WRITE_TIMEOUT
        self._dropped = 0

    def hide(self, secrets: Iterable[str]) -> None:
        """Replace these secrets too, as they are and as JSON writes them."""
        known = set(self._secrets)
        for secret in secrets:
            known |= {
                secret.encode(),
                json.dumps(secret)[1:-1].encode(),
                orjson.dumps(secret)[1:-1],
            }
        self._secrets = sorted(known, key=len, reverse=True)

    def defer(self) -> None:
        """Let a thread write what is put: a write by a request costs it the interpreter's lock."""
        self._is_deferred = True
        threading.Thread(target=self._run, name="logs", daemon=True).start()
        Finalize(None, self.flush, exitpriority=0)  # `atexit` does not run in a worker process

    def put(self, line: bytes) -> None:
        """Write a line at once or, once deferred, with those of the next few milliseconds."""
        if not self._is_deferred:
            self.write(line)
            return
        self._enqueue(line)
        if not self._has_lines.is_set():
            self._has_lines.set()

    def write(self, line: bytes) -> None:
        """Write a line at once, after those that are queued."""
        self._enqueue(line)
        self.flush()

    def _enqueue(self, line: bytes) -> None:
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        if len(self._lines) < MAX_QUEUED_LINES:
            self._lines.append(line)
        else:
            self._dropped += 1

    def flush(self) -> None:
        """Write the queued lines, as far as somebody reads them."""
        with self._lock:
            if self._is_writing:  # a signal handler logs: the write that it interrupted goes on
                return
            self._is_writing = True
            _lock_file(fcntl.LOCK_EX)
            try:
                while self._lines and self._is_writable():
                    self._write_chunk()
            except OSError:
                pass  # nobody can read it, and a request must not fail for that
            finally:
                _lock_file(fcntl.LOCK_UN)
                self._is_writing = False

    def _is_writable(self) -> bool:
        _, writable, _ = select.select((), (STDOUT,), (), self._timeout)
        self._timeout = WRITE_TIMEOUT if writable else 0
        return bool(writable)

    def _write_chunk(self) -> None:
        """Write as many lines as a pipe takes at once, or a longer line in parts."""
        chunk = self._lines.popleft()
        while self._lines and len(chunk) + len(self._lines[0]) <= PIPE_BUF:
            chunk += self._lines.popleft()
        if rest := chunk[os.write(STDOUT, chunk[:PIPE_BUF]) :]:
            self._lines.appendleft(rest)

    def _run(self) -> None:
        while True:
            self._has_lines.wait(WRITE_TIMEOUT if self._lines else None)
            time.sleep(FLUSH_INTERVAL)
            self._has_lines.clear()
            self._flush_and_report()

    def _flush_and_report(self) -> None:
        self.flush()
        if self._dropped and not self._lines:
            log = logging.getLogger("service")
            log.warning("%d lines were lost: nobody read them", self._dropped)
            self._dropped = 0


def _lock_file(operation: int) -> None:
    """Keep the lines of other processes out of a long one of ours."""
    with suppress(OSError):  # macOS cannot lock a pipe
        if stat.S_ISCHR(os.fstat(STDOUT).st_mode):
            return  # the lock of /dev/null is one for the whole machine
        fcntl.lockf(STDOUT, operation)


stdout = StandardOutput()
os.register_at_fork(after_in_child=stdout.reset)

"""Standard output: whole lines, in order and there at the end, whoever reads them or does not."""

import fcntl
import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from support import ROOT

from service.chassis.http.application import Application
from service.chassis.telemetry import stdout
from service.chassis.telemetry.stdout import StandardOutput

WRITE_TIMEOUT = 0.01


@contextmanager
def running(code: str, output: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """Run this code, which imports the module itself, in a process that ends with the block."""
    with subprocess.Popen(  # noqa: S603 the code is this file's own
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.PIPE,
        cwd=ROOT / "src",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def printed(code: str) -> bytes:
    """Return what a process with this code writes until its end."""
    with running(code) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    return output


def read_until(descriptor: int, end: bytes) -> None:
    """Read until this comes, and nothing behind it."""
    read = b""
    while not read.endswith(end):
        assert select.select((descriptor,), (), (), 30)[0], f"nothing comes behind {read[-100:]!r}"
        read += os.read(descriptor, 65_536)


@pytest.fixture
def deferred(monkeypatch: pytest.MonkeyPatch) -> StandardOutput:
    """An output whose thread does not run: the test takes its turns."""
    monkeypatch.setattr(stdout, "WRITE_TIMEOUT", WRITE_TIMEOUT)
    deferred = StandardOutput()
    deferred._is_deferred = True
    return deferred


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end to read of a pipe that takes the place of standard output."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setattr(stdout, "STDOUT", writing)
    yield reading
    os.close(reading)
    os.close(writing)


def fill_pipe() -> int:
    """Write to standard output until nothing more fits; return the number of bytes."""
    count = 0
    os.set_blocking(stdout.STDOUT, False)
    with suppress(BlockingIOError):
        while True:
            count += os.write(stdout.STDOUT, bytes(stdout.PIPE_BUF))
    os.set_blocking(stdout.STDOUT, True)
    return count


def test_a_line_comes_behind_those_that_wait(
    deferred: StandardOutput, capfd: pytest.CaptureFixture[str]
) -> None:
    deferred.put(b"request\n")
    assert capfd.readouterr().out == ""
    deferred.write(b"event\n")
    assert capfd.readouterr().out == "request\nevent\n"


def test_every_short_line_is_in_one_write(
    deferred: StandardOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(_descriptor: int, data: bytes) -> int:
        written.append(len(data))
        return len(data)

    for size in (100, 3000, 2000, 4096, 9000, 10):
        deferred.put(b"x" * (size - 1) + b"\n")
    with monkeypatch.context() as patched:
        patched.setattr("os.write", write)
        deferred.flush()
    assert written == [3100, 2000, 4096, 4096, 4096, 9000 - 2 * 4096 + 10]


def test_a_reader_that_hangs_stops_nobody_and_is_told_what_was_lost(
    app: Application, deferred: StandardOutput, pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def wait(*arguments: Any) -> Any:
        waits.append(arguments[-1])
        return original(*arguments)

    original = select.select
    monkeypatch.setattr("service.chassis.telemetry.logs.stdout", deferred)
    monkeypatch.setattr(stdout, "MAX_QUEUED_LINES", 100)
    filled = fill_pipe()
    for _ in range(103):
        deferred.put(b"x" * 999 + b"\n")
    monkeypatch.setattr("select.select", wait)
    for _ in range(5):
        logging.getLogger("orders").warning("nobody waits each time")
    assert waits == [WRITE_TIMEOUT, 0, 0, 0, 0]
    deferred._flush_and_report()  # which keeps the report for a reader
    read = b""
    while b"were lost" not in read:
        read += os.read(pipe, filled)
        deferred._flush_and_report()
    *queued, last = read[filled:].splitlines()
    assert queued == [b"x" * 999] * 100
    assert json.loads(last)["message"] == "8 lines were lost: nobody read them"
    logging.getLogger("orders").warning("and that is told once")
    deferred._flush_and_report()
    assert os.read(pipe, filled).count(b"\n") == 1


def test_a_pipe_that_does_not_block_gets_every_line_whole(
    deferred: StandardOutput, pipe: int
) -> None:
    os.set_blocking(stdout.STDOUT, False)
    for number in range(1000):
        deferred.put(b"%d " % number + b"x" * 500 + b"\n")
    deferred.put(b"long " + b"x" * 100_000 + b"\n")
    read = b""
    while not read.endswith(b"x\n") or b"long" not in read:
        deferred.flush()
        read += os.read(pipe, 30_000)
    numbers = [b"%d" % number for number in range(1000)]
    assert [line.split()[0] for line in read.splitlines()] == [*numbers, b"long"]


def test_a_fork_neither_repeats_lines_nor_waits_for_their_thread() -> None:
    code = """if True:
        import os
        from service.chassis.telemetry import stdout
        stdout.FLUSH_INTERVAL = 60
        stdout.stdout.defer()
        stdout.stdout.put(b"request ")
        stdout.stdout._lock.acquire()
        if os.fork() == 0:
            stdout.stdout.write(b"child ")
            os._exit(0)
        os.wait()
        stdout.stdout._lock.release()
    """
    assert printed(code) == b"child request "


def test_a_device_that_another_process_locks_stops_nobody() -> None:
    code = """if True:
        from service.chassis.telemetry import stdout
        stdout.stdout.write(b"event\\n")
    """
    with Path(os.devnull).open("r+b", buffering=0) as device:
        with suppress(BlockingIOError):  # another process's lock serves as well
            fcntl.lockf(device, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with running(code, device.fileno()) as process:
            _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_a_thread_writes_what_is_put_even_if_its_reader_comes_late(pipe: int) -> None:
    code = """if True:
        import sys
        import time
        from service.chassis.telemetry import stdout
        stdout.WRITE_TIMEOUT = 0.01
        stdout.stdout.reset()
        stdout.stdout.defer()
        stdout.stdout.put(b"request\\n")
        while stdout.stdout._timeout:
            time.sleep(0.01)
        sys.stderr.write("nobody reads")
        sys.stderr.flush()
        sys.stdin.read()
    """
    fill_pipe()
    with running(code, stdout.STDOUT) as process:
        assert process.stderr
        read_until(process.stderr.fileno(), b"nobody reads")
        read_until(pipe, b"request\n")
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_lines_that_wait_are_written_at_the_end() -> None:
    code = """if True:
        from service.chassis.telemetry import stdout
        stdout.FLUSH_INTERVAL = 60
        stdout.stdout.defer()
        stdout.stdout.put(b"last")
    """
    assert printed(code) == b"last"


def test_a_line_logged_by_a_signal_within_another_leaves_that_whole(
    deferred: StandardOutput, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        if data == b"request\n":
            deferred.write(b"signal\n")
        return write(descriptor, data[:3])

    with monkeypatch.context() as patched:
        patched.setattr("os.write", interrupted)
        deferred.write(b"request\n")
    assert capfd.readouterr().out == "request\nsignal\n"


def test_requests_are_answered_where_nobody_reads_their_lines(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _data: bytes) -> int:
        raise BrokenPipeError

    with monkeypatch.context() as patched:
        patched.setattr("os.write", refuse)
        assert client.get("/lab/things/tea").status_code == 200

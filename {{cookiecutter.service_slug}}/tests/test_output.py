"""Standard output: lines that are whole, in order and there at the end, whoever reads them or does not."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from conftest import ROOT
from flask.testing import FlaskClient

from service.chassis import output
from service.chassis.framework import Service


def printed(code: str) -> bytes:
    """What a process of its own with this code writes until its end."""
    command = (sys.executable, "-c", code)
    return subprocess.run(command, capture_output=True, check=True, timeout=30, cwd=ROOT / "src").stdout  # noqa: S603 the code is this file's


@pytest.fixture
def gathering() -> output.Output:
    """An output whose thread has not come to writing yet."""
    gathering = output.Output()
    gathering._gathers = True
    return gathering


def test_a_line_comes_behind_those_that_wait(gathering: output.Output, capfd: pytest.CaptureFixture[str]) -> None:
    gathering.put(b"request\n")
    assert capfd.readouterr().out == ""
    gathering.write(b"event\n")
    assert capfd.readouterr().out == "request\nevent\n"


def test_every_short_line_is_in_one_write(gathering: output.Output, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(_descriptor: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    monkeypatch.setattr("os.write", write)
    for size in (100, 3000, 2000, 4096, 9000, 10):
        gathering.put(b"x" * (size - 1) + b"\n")
    gathering.flush()
    assert [len(piece) for piece in written] == [3100, 2000, 4096, 4096, 4096, 9000 - 2 * 4096 + 10]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The end to read of a pipe that takes the place of standard output."""
    reading, writing = os.pipe()
    monkeypatch.setattr(output, "STDOUT", writing)
    monkeypatch.setattr(output, "PATIENCE", 0.1)
    monkeypatch.setattr(output, "stdout", output.Output())
    yield reading
    os.close(reading)
    os.close(writing)


def test_a_reader_that_hangs_stops_nobody_and_is_told_what_was_lost(app: Service, pipe: int) -> None:
    output.stdout.gather()
    started = time.monotonic()
    for _ in range(output.WAITING + 200):
        output.stdout.put(b"x" * 999 + b"\n")
    for _ in range(50):
        logging.getLogger("orders").warning("nobody waits each time")
    assert time.monotonic() - started < 50 * output.PATIENCE / 2
    time.sleep(5 * output.PATIENCE)
    last = b""
    while b"were lost" not in last:
        last = (last + os.read(pipe, 4096))[-4096:]
    lost = int(re.findall(rb"(\d+) lines were lost", last)[0])
    assert 0 < lost <= 250


def test_a_pipe_that_does_not_block_gets_every_line_whole(gathering: output.Output, pipe: int) -> None:
    os.set_blocking(output.STDOUT, False)
    for number in range(1000):
        gathering.put(b"%d " % number + b"x" * 500 + b"\n")
    gathering.put(b"long " + b"x" * 100_000 + b"\n")
    read = b""
    while not read.endswith(b"x\n") or b"long" not in read:
        gathering.flush()
        read += os.read(pipe, 30_000)
    assert [line.split()[0] for line in read.splitlines()] == [*(b"%d" % number for number in range(1000)), b"long"]


def test_a_fork_neither_repeats_lines_nor_waits_for_their_thread() -> None:
    code = """if True:
        import os
        from service.chassis import output
        output.GATHER = 60
        output.stdout.gather()
        output.stdout.put(b"request ")
        output.stdout._writing.acquire()
        if os.fork() == 0:
            output.stdout.write(b"child ")
            os._exit(0)
        os.wait()
        output.stdout._writing.release()
    """
    assert printed(code) == b"child request "


def test_lines_that_wait_are_written_at_the_end() -> None:
    code = "from service.chassis import output; output.GATHER = 60; output.stdout.gather(); output.stdout.put(b'last')"
    assert printed(code) == b"last"


def test_a_line_logged_by_a_signal_within_another_leaves_that_whole(
    gathering: output.Output, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        if data == b"request\n":
            gathering.write(b"signal\n")
        return write(descriptor, data[:3])

    monkeypatch.setattr("os.write", interrupted)
    gathering.write(b"request\n")
    assert capfd.readouterr().out == "request\nsignal\n"


def test_requests_are_answered_where_nobody_reads_their_lines(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _data: bytes) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("os.write", refuse)
    assert client.get("/v1/products/tea").status_code == 200

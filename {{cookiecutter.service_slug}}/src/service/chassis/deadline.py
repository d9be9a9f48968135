"""How long the current work may take: its caller's time, which the calls that it makes share."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import attach, create_key, detach, get_value, set_value

HEADER = "x-envoy-expected-rq-timeout-ms"  # as Envoy calls it and sends it
DEADLINE = create_key("deadline")  # of time.monotonic


def time_left() -> float:
    """Return seconds, of which there may be less than none; infinity without a limit."""
    deadline = get_value(DEADLINE)
    return deadline - time.monotonic() if isinstance(deadline, float) else math.inf


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Give what is called within it so long, or what is left of the limit around it."""
    token = attach(set_value(DEADLINE, time.monotonic() + min(seconds, time_left())))
    try:
        yield
    finally:
        detach(token)

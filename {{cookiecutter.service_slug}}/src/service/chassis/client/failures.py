"""Why a call gave no answer that can be used: what no view handles is the client's 503 or 504."""

import math

from werkzeug.exceptions import ServiceUnavailable


class CallFailed(ServiceUnavailable):
    """Base of all failures; after `retry_after` seconds, if it has any, a call may succeed."""

    is_well: bool | None = None  # the callee; only where it is not, another attempt is of use

    def __init__(self, callee: str, reason: str, retry_after: float | None = None) -> None:
        self.pause = math.ceil(retry_after or 0)
        super().__init__(f"{callee} {reason}", retry_after=self.pause or None)
        self.members = {"dependency": callee}
        self.outcome = type(self).__name__  # in metrics


class Saturated(CallFailed):
    """Too many calls are in flight; nothing was sent."""


class BreakerOpen(CallFailed):
    """Most of the last calls failed; nothing was sent."""


class Unreachable(CallFailed):
    """There was no connection, or it broke off before the end of the answer."""

    is_well = False


class TimedOut(CallFailed):
    """The answer did not come in time."""

    code = 504
    is_well = False


class BadAnswer(CallFailed):
    """The answer is too large, or is not what was expected."""

    is_well = True


class BadStatus(CallFailed):
    """The answer's `status` is not 2xx; `body` is its content, mostly a problem."""

    def __init__(self, callee: str, status: int, body: bytes, retry_after: float | None) -> None:
        super().__init__(callee, f"answered {status}", retry_after)
        self.code = TimedOut.code if status == TimedOut.code else CallFailed.code
        self.status = status
        self.body = body
        self.outcome = str(status)
        self.is_well = status not in (429, 502, 503, 504)

"""Who is admitted: so many requests at once, a queue of others, and 503 for the rest."""

import threading
from collections import deque
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry
from werkzeug import exceptions

from service.chassis.deadline import time_left
from service.chassis.http import problems
from service.chassis.http.access import Stream
from service.chassis.server.settings import ServerSettings
from service.chassis.telemetry import metrics

RETRY_AFTER = 1  # seconds


class Admission:
    """Admits a number of requests at once; a number of others waits, and the rest gets 503.

    Nothing of a request is read before it is admitted.
    """

    def __init__(
        self, app: WSGIApplication, settings: ServerSettings, registry: CollectorRegistry | None
    ) -> None:
        self._app = app
        self._settings = settings
        self._slots = deque(range(settings.concurrency))
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()  # of those that wait
        limit = settings.concurrency
        active = "http_server_active_requests"
        waiting = "http_server_waiting_requests"
        ratio = "http_server_saturation_ratio"
        metrics.show(active, "Requests being handled.", registry, lambda: limit - len(self._slots))
        metrics.show(f"{active}_limit", "Requests handled at once.", registry, lambda: limit)
        metrics.show(waiting, "Requests in the queue.", registry, lambda: len(self._waiting))
        metrics.show(ratio, "Active and waiting over the limit.", registry, self._saturation)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._enter():
            refusal = exceptions.ServiceUnavailable(retry_after=RETRY_AFTER)
            return problems.respond(refusal, environ, start_response)
        try:
            if time_left() <= 0:  # nobody would read the answer
                overdue = exceptions.GatewayTimeout()
                body = problems.respond(overdue, environ, start_response)
            else:
                body = self._app(environ, start_response)
        except BaseException:
            self._leave()
            raise
        if type(body) is list:
            self._leave()
            return body
        return Stream(body, self._leave)  # active until it ends

    def _saturation(self) -> float:
        return 1 + (len(self._waiting) - len(self._slots)) / self._settings.concurrency

    def _enter(self) -> bool:
        """Take a slot, by turns; return False where the queue is full or none comes in time."""
        if not self._waiting:  # nobody overtakes
            try:
                self._slots.pop()
                return True
            except IndexError:
                pass
        turn = threading.Event()
        with self._lock:
            if len(self._waiting) >= self._settings.max_queue:
                return False
            self._waiting.append(turn)
        self._call_waiting()  # a slot may have come free since
        if not turn.wait(self._settings.queue_timeout):
            with self._lock:
                if not turn.is_set():
                    self._waiting.remove(turn)
        return turn.is_set()

    def _leave(self, *_error: object) -> None:
        self._slots.append(0)
        if self._waiting:
            self._call_waiting()

    def _call_waiting(self) -> None:
        """Give free slots to those that wait longest."""
        with self._lock:
            while self._waiting:
                try:
                    self._slots.pop()
                except IndexError:
                    return
                self._waiting.popleft().set()

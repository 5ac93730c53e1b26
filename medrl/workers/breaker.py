"""A circuit breaker: after failures in a row, nobody waits for a service that is gone."""

from __future__ import annotations

import threading
import time


class Breaker:
    """Opens after `failures` in a row, for `seconds`; a failure right after that opens it again. Thread-safe."""

    def __init__(self, failures: int, seconds: float) -> None:
        self.failures = failures
        self.seconds = seconds
        self.opened = threading.Event()
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._until = 0.0

    def is_open(self) -> bool:
        with self._lock:
            if self.opened.is_set() and time.monotonic() >= self._until:
                self.opened.clear()
            return self.opened.is_set()

    def failed(self) -> None:
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row >= self.failures and not self.opened.is_set():
                self._until = time.monotonic() + self.seconds
                self.opened.set()

    def succeeded(self) -> None:
        with self._lock:
            self._in_a_row = 0

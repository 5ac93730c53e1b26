"""SIGINT and SIGTERM as an orderly end: a checkpoint first, then exit 130 or 143."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """Raised in the driver where it may stop at once; `orderly` False: where it may not, after a second signal."""

    def __init__(self, signum: int, *, orderly: bool = True) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum
        self.orderly = orderly


class Interrupts:
    """Turns signals into Interrupted, but only where stopping leaves a consistent state.

    Outside `deferred()` blocks the exception is raised on the spot, whatever is being waited for. Inside one (an
    update, a sync, a checkpoint) it waits for the block's end. A second signal always raises: what it finds there may
    be half changed and must not be saved.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._received: int | None = None

    def _handle(self, signum: int, _frame: object) -> None:
        first = self._received is None
        self._received = signum
        if not self._deferring or not first:
            raise Interrupted(signum, orderly=not self._deferring)

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """The handlers are active inside the block."""
        previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal in this block takes effect when the block is done."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._received is not None:
            raise Interrupted(self._received)

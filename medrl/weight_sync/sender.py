"""One set of weights to several engines at once: whoever dies or falls silent holds up nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Thread

import torch

from medrl.types import Channel
from medrl.weight_sync.stream import send


def send_to_all(
    tensors: Mapping[str, torch.Tensor], connects: Sequence[Callable[[], Channel]],
    over: Callable[[], Collection[int]], seconds: float,
) -> dict[int, str]:
    """Stream `tensors` over one channel for each of `connects`; the number of each that broke → why.

    `over` waits a moment and says which receivers have answered or are dead. A channel stays open until then, because
    the last bytes may be on their way when all are sent, and for `seconds` at most. Until this returns the tensors must
    not change.
    """
    sends = [_Send(tensors, connect) for connect in connects]
    deadline = time.monotonic() + seconds
    while not all(one.stopped for one in sends) and time.monotonic() < deadline:
        for number in over():
            sends[number].stop()
    for one in sends:
        one.stop()
    return {number: one.failure for number, one in enumerate(sends) if one.failure}


class _Send:
    """A thread that sends. One that waits for a dead receiver to connect cannot be woken: it is left behind."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], connect: Callable[[], Channel]) -> None:
        self.failure, self.stopped = "", False
        self._tensors, self._connect = tensors, connect
        self._channel: Channel | None = None
        Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        self.stopped = True
        self._close()

    def _run(self) -> None:
        try:
            self._channel = self._connect()
            if self.stopped:  # meanwhile
                self._close()
            else:
                send(self._tensors, self._channel)
        except Exception as error:  # told to whoever asked; the other sends go on
            if not self.stopped:
                self.failure = f"{type(error).__name__}: {error}"
            self._close()

    def _close(self) -> None:
        if self._channel:
            self._channel.close()

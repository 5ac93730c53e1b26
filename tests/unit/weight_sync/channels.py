"""Fake channels: two ends in one process. They stand in for NCCL, which joins GPUs."""

from __future__ import annotations

import queue
from collections.abc import Callable
from threading import Event

import torch

from medrl.errors import WorkerLost


class FakeChannel:
    """One end; `wire` is what both share. It carries bytes and knows no shapes, as NCCL does."""

    device = torch.device("cpu")

    def __init__(self, wire: FakeWire, *, sends: bool) -> None:
        self._wire, self._sends = wire, sends
        self.closed = Event()

    def broadcast(self, tensor: torch.Tensor) -> None:
        assert tensor.is_contiguous() and tensor.numel()
        if self.closed.is_set():
            raise WorkerLost("closed")
        flat = tensor.view(-1).view(torch.uint8)
        if self._sends:
            self._wire.sent.append(tensor)
            self._wait(lambda: self._wire.bytes.put(flat.clone(), timeout=0.01))
        else:
            came = self._wait(lambda: self._wire.bytes.get(timeout=0.01))
            size = min(len(came), len(flat))
            flat[:size] = came[:size]

    def close(self) -> None:
        self.closed.set()

    def _wait(self, attempt: Callable):
        while not self.closed.is_set():
            try:
                return attempt()
            except (queue.Empty, queue.Full):
                if self._wire.cut.is_set():
                    break
        raise WorkerLost("the other end is gone")


class FakeWire:
    """Room for one tensor: the sender waits for its receiver. `cut`: one end sees that the other is gone."""

    def __init__(self, room: int = 1) -> None:
        self.bytes: queue.Queue[torch.Tensor] = queue.Queue(room)
        self.sent: list[torch.Tensor] = []
        self.cut = Event()
        self.sender, self.receiver = FakeChannel(self, sends=True), FakeChannel(self, sends=False)


def loaded_wire(tensors: dict[str, torch.Tensor]) -> FakeWire:
    """Everything is on the wire already, and then the sender is gone."""
    from medrl.weight_sync.stream import send

    wire = FakeWire(room=0)
    send(tensors, wire.sender)
    wire.cut.set()
    return wire

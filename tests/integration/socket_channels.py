"""A fake of `medrl.weight_sync.nccl`: sockets carry the bytes, between workers without a GPU.

`install` is run in each worker process when it starts (Ray's `worker_process_setup_hook`). No torch is imported before
the worker has set its threads.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from medrl.errors import WorkerLost

if TYPE_CHECKING:
    import torch

SENDER, RECEIVER = 0, 1
SECONDS_A_TENSOR = 0.05  # so that there is a time in which to die
_doors: dict[bytes, socket.socket] = {}  # of the sender's process


def install() -> None:
    sys.modules["medrl.weight_sync.nccl"] = sys.modules[__name__]


def channel_ids(count: int) -> list[bytes]:
    ids = []
    for _ in range(count):
        door = socket.create_server(("127.0.0.1", 0))
        ids.append(str(door.getsockname()[1]).encode())
        _doors[ids[-1]] = door
    return ids


class NcclChannel:
    def __init__(self, unique_id: bytes, end: int) -> None:
        self._end = end
        if end == SENDER:
            self._socket = _doors.pop(unique_id).accept()[0]
        else:
            self._socket = socket.create_connection(("127.0.0.1", int(unique_id)))

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    def broadcast(self, tensor: torch.Tensor) -> None:
        import torch

        flat = memoryview(tensor.view(-1).view(torch.uint8).numpy())
        try:
            if self._end == SENDER:
                time.sleep(SECONDS_A_TENSOR)
                self._socket.sendall(flat)
                return
            while flat:
                count = self._socket.recv_into(flat)
                if not count:
                    raise WorkerLost("the sender is gone")
                flat = flat[count:]
        except OSError as error:
            raise WorkerLost("the other end is gone", got=str(error)) from error

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # closed already

"""A channel from GPU to GPU: an NCCL group of two, the policy's rank 0 and one engine, made for one stream.

A group for each engine and each sync costs its set-up every time, and needs no care: an engine that dies breaks no
other's, and there is none to be mended. The group is vLLM's communicator (`vllm.distributed.weight_transfer`), which
leaves torch.distributed's own groups alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

from medrl.errors import WorkerLost

SENDER, RECEIVER = 0, 1


def channel_ids(count: int) -> list[bytes]:
    """Ids of so many channels, made in the sender's process: NCCL has each receiver find it by them."""
    from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

    nccl = NCCLLibrary()
    return [bytes(nccl.ncclGetUniqueId().internal) for _ in range(count)]


class NcclChannel:
    """One end (SENDER or RECEIVER) of the channel `unique_id`. The making of it waits for the other end."""

    def __init__(self, unique_id: bytes, end: int) -> None:
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        self._closing = Lock()  # NCCL must not be told twice to abort
        self.device = torch.device("cuda", torch.cuda.current_device())
        # A stream of its own: what waits for a dead receiver must not stand before the learner's own work.
        self._stream = torch.cuda.Stream(self.device)
        with _lost_when_broken(), torch.cuda.stream(self._stream):
            self._group = uid_init_process_group(unique_id, end, world_size=2, device=self.device)

    def broadcast(self, tensor: torch.Tensor) -> None:
        if self._group.disabled:  # closed, or switched off by VLLM_DISABLE_PYNCCL: it would do nothing
            raise WorkerLost("the channel for weights is closed")
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with _lost_when_broken():
            self._group.broadcast(tensor.view(-1).view(torch.uint8), src=SENDER, stream=self._stream)
            self._stream.synchronize()

    def close(self) -> None:
        with self._closing:
            self._group.destroy()


@contextmanager
def _lost_when_broken() -> Iterator[None]:
    """vLLM raises RuntimeError for what NCCL reports."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost("weights did not come through", got=str(error),
                         remedy="look at the node's GPUs and network; NCCL_DEBUG=INFO says more") from error

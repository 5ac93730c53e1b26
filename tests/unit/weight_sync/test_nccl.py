"""The NCCL channel over a fake communicator and fake streams; its call of vLLM is checked against the real function."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medrl.errors import WorkerLost
from medrl.weight_sync import nccl

UID = bytes(range(128))


class FakeGroup:
    """What the channel uses of vLLM's PyNcclCommunicator."""

    def __init__(self) -> None:
        self.disabled, self.sent, self.aborts = False, [], 0
        self.asked: dict[str, Any] = {}

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
        self.sent.append((tensor.dtype, tensor.tolist(), src, stream))

    def destroy(self) -> None:
        self.aborts += not self.disabled
        self.disabled = True


class FakeStream:
    def __init__(self, device: Any = None) -> None:
        self.steps: list[str] = []

    def wait_stream(self, other: Any) -> None:
        self.steps.append("wait")

    def synchronize(self) -> None:
        self.steps.append("synchronize")


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> FakeGroup:
    from vllm.distributed.weight_transfer import nccl_common

    fake, real = FakeGroup(), inspect.signature(nccl_common.uid_init_process_group)

    def make(*args: Any, **kwargs: Any) -> FakeGroup:
        fake.asked = dict(real.bind(*args, **kwargs).arguments)  # TypeError if vLLM's does not take them
        return fake

    monkeypatch.setattr(nccl_common, "uid_init_process_group", make)
    for name, value in {"current_device": lambda: 3, "Stream": FakeStream, "stream": lambda stream: nullcontext(),
                        "current_stream": lambda device: "learner's"}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_bytes_go_from_the_sender_on_a_stream_of_their_own(group: FakeGroup) -> None:
    channel = nccl.NcclChannel(UID, nccl.RECEIVER)
    device = torch.device("cuda", 3)
    assert group.asked == {"nccl_unique_id_bytes": UID, "rank": 1, "world_size": 2, "device": device}
    channel.broadcast(torch.tensor([[1.0], [-2.0]], dtype=torch.bfloat16))
    stream = channel._stream
    assert group.sent == [(torch.uint8, [0x80, 0x3F, 0x00, 0xC0], nccl.SENDER, stream)]
    assert stream.steps == ["wait", "synchronize"]


def test_a_closed_channel_is_aborted_once_and_carries_nothing(group: FakeGroup) -> None:
    channel = nccl.NcclChannel(UID, nccl.SENDER)
    channel.close()
    channel.close()
    assert group.aborts == 1
    with pytest.raises(WorkerLost, match="closed"):
        channel.broadcast(torch.zeros(1))
    assert not group.sent


def test_what_nccl_reports_is_a_lost_peer(group: FakeGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("NCCL error: remote process exited or there was a network error")

    channel = nccl.NcclChannel(UID, nccl.SENDER)
    monkeypatch.setattr(group, "broadcast", broken)
    with pytest.raises(WorkerLost) as caught:
        channel.broadcast(torch.zeros(1))
    assert "remote process exited" in caught.value.got


def test_ids_are_what_nccl_gives_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.device_communicators import pynccl_wrapper

    assert pynccl_wrapper.NCCL_UNIQUE_ID_BYTES == len(UID)
    count = iter(range(9))

    def unique() -> Any:
        made = pynccl_wrapper.ncclUniqueId()
        made.internal[127] = next(count)
        return made

    monkeypatch.setattr(pynccl_wrapper, "NCCLLibrary", lambda: SimpleNamespace(ncclGetUniqueId=unique))
    assert nccl.channel_ids(3) == [bytes(127) + bytes([n]) for n in range(3)]

"""Full weights as a stream of tensors, from the policy's rank 0 into one engine over a channel of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from medrl.errors import WeightSyncError
from medrl.types import Channel, Weights, WeightsNotice
from medrl.weight_sync.publisher import Fingerprint


def notice_of(weights: Weights) -> WeightsNotice:
    """What a receiver has to know before the stream of `weights` starts."""
    layout = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in sorted(weights.tensors.items())}
    return WeightsNotice(weights.version, layout, weights.fingerprint, weights.probe)


def send(tensors: Mapping[str, torch.Tensor], channel: Channel) -> None:
    """Every tensor in the order of the notice, one at a time; those elsewhere pass through the channel's device."""
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.numel():
            channel.broadcast(tensor.to(channel.device).contiguous())


class Incoming:
    """The tensors of a notice as they come over `channel`: each is new memory, so an engine may keep it."""

    def __init__(self, notice: WeightsNotice, channel: Channel) -> None:
        self.bytes = 0
        self._notice, self._channel = notice, channel
        self._mark = Fingerprint()
        self._left = len(notice.layout)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, (shape, dtype) in self._notice.layout.items():
            tensor = torch.empty(shape, dtype=dtype, device=self._channel.device)
            if tensor.numel():
                self._channel.broadcast(tensor)
            self._mark.add(name, tensor)
            self.bytes += tensor.numel() * tensor.element_size()
            self._left -= 1
            yield name, tensor

    def fingerprint(self) -> str:
        """Of what has come. Raises WeightSyncError unless the engine has taken all of it."""
        if self._left:
            raise WeightSyncError(f"the engine did not take all weights of version {self._notice.version}",
                                  limit=f"{len(self._notice.layout)} tensors", got=f"{self._left} left in the stream",
                                  remedy="report it: this engine cannot take over this model's weights")
        return self._mark.hex()

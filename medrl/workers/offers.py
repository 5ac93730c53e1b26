"""One version of the policy's weights, offered to the rollout engines: from Ray's object store, or as a stream.

A stream goes to the engines that are there when it starts. One that joins later, or is the replacement of one whose
stream broke, takes the same weights from the object store, where the policy's rank 0 puts them when the first one asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ray

SETTLE_S = 0.2  # a wait for answers, before the clock is looked at again


class Offer(Protocol):
    """How a rollout engine gets at the weights. A member is a number of the pool's."""

    def begin(self, members: Sequence[int]) -> None:
        """These members are asked now, all others later."""
        ...

    def ask(self, member: int, handle: Any, lineage: int) -> ray.ObjectRef:
        """Have a rollout worker take over the weights; its SyncReport."""
        ...

    def send(self) -> ray.ObjectRef | None:
        """Once all of `begin` are asked: send to those that wait for it; the call that does, if there is one."""
        ...


class StoredOffer:
    """`weights`: Weights in the object store."""

    def __init__(self, weights: ray.ObjectRef) -> None:
        self._weights = weights

    def begin(self, members: Sequence[int]) -> None:
        return

    def ask(self, member: int, handle: Any, lineage: int) -> ray.ObjectRef:
        return handle.receive.remote(self._weights, lineage)

    def send(self) -> ray.ObjectRef | None:
        return None


class StreamedOffer:
    """`notice`: the WeightsNotice of weights that `policy`, the worker of rank 0, holds."""

    def __init__(self, policy: Any, notice: ray.ObjectRef) -> None:
        self._policy, self._notice = policy, notice
        self._channels: ray.ObjectRef | None = None
        self._first: set[int] = set()  # members that get the stream
        self._answers: list[ray.ObjectRef] = []  # theirs; the first of them has the first channel
        self._stored: ray.ObjectRef | None = None

    def begin(self, members: Sequence[int]) -> None:
        if members:
            self._channels = self._policy.open_channels.remote(len(members))
            self._first = set(members)

    def ask(self, member: int, handle: Any, lineage: int) -> ray.ObjectRef:
        if member not in self._first:
            self._stored = self._stored or self._policy.announced_weights.remote()
            return handle.receive.remote(self._stored, lineage)
        self._first.remove(member)  # if it is asked again its stream broke
        answer = handle.receive_stream.remote(self._notice, self._channels, len(self._answers), lineage)
        self._answers.append(answer)
        return answer

    def send(self) -> ray.ObjectRef | None:
        return self._policy.stream_weights.remote(self._channels, self._answers) if self._answers else None


def settled(answers: Sequence[ray.ObjectRef]) -> list[int]:
    """Which of the answers have come, or never will because the worker is dead. Waits a moment for them."""
    done, _ = ray.wait(list(answers), num_returns=len(answers), timeout=SETTLE_S, fetch_local=False)
    return [number for number, answer in enumerate(answers) if answer in done]

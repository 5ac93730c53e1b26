"""The items of one call on a pool: which still wait, what came back, and how they are shared out."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ATTEMPTS = 3  # so many lost workers an item may have been with before it counts as what kills them


class Job:
    """Items 0 … n-1 and their answers. An item waits, or is with one member, or is answered, for good."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights
        self.waiting = set(range(len(weights)))
        self.hopeless: set[int] = set()
        self._answers: dict[int, Any] = {}
        self._attempts = [0] * len(weights)

    @property
    def done(self) -> bool:
        return len(self._answers) == len(self.weights)

    @property
    def answers(self) -> list[Any]:
        """Of all items, in order."""
        return [self._answers[item] for item in range(len(self.weights))]

    def load(self, items: Iterable[int]) -> float:
        return sum(self.weights[item] for item in items)

    def send(self, items: Iterable[int]) -> None:
        """The items are with a member now."""
        for item in items:
            self.waiting.remove(item)
            self._attempts[item] += 1

    def answer(self, items: Sequence[int], answers: Sequence[Any]) -> None:
        self._answers.update(zip(items, answers, strict=True))

    def take_back(self, items: Iterable[int]) -> None:
        """The member that had the items is lost."""
        for item in items:
            (self.hopeless if self._attempts[item] >= ATTEMPTS else self.waiting).add(item)


def share_out(items: Iterable[int], weights: Sequence[float], loads: Mapping[int, float]) -> dict[int, list[int]]:
    """Member → its items: the heaviest first, each to whoever has the least to do.

    `loads`: what members have already.
    """
    least = [(load, member) for member, load in loads.items()]
    heapq.heapify(least)
    shares: dict[int, list[int]] = {member: [] for member in loads}
    for item in sorted(items, key=lambda i: (-weights[i], i)):
        load, member = least[0]
        shares[member].append(item)
        heapq.heapreplace(least, (load + weights[item], member))
    return shares

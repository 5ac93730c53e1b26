"""The items of one call on a pool: which still wait, what came back, and how they are shared out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
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

    def recall(self, items: Iterable[int]) -> None:
        """The member that had the items is let go, which is no loss."""
        for item in items:
            self.waiting.add(item)
            self._attempts[item] -= 1


def share_out(items: Iterable[int], weights: Sequence[float], loads: Mapping[int, float]) -> dict[int, list[int]]:
    """Member → its items, so that all have about as much to do. `loads`: what they have already.

    Neighbours stay together: the answers to one prompt then share its part of an engine's prefix cache.
    """
    left, members = sorted(items), sorted(loads, key=lambda member: (loads[member], member))
    total = sum(weights[item] for item in left)
    sums = accumulate(loads[member] for member in members)
    level = min((total + busy) / count for count, busy in enumerate(sums, 1))  # where all end up if items could be cut
    shares: dict[int, list[int]] = {member: [] for member in members}
    number, given = 0, 0.0
    edge = max(level - loads[members[0]], weights[left[0]])  # who has the least to do gets something in any case
    for item in left:
        while given + weights[item] / 2 > edge and number + 1 < len(members):
            number += 1
            edge += max(0.0, level - loads[members[number]])
        shares[members[number]].append(item)
        given += weights[item]
    return shares

"""One worker of a pool, as far as the pool's rules know it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medrl.faults.job import Job
from medrl.faults.states import State


@dataclass
class Member:
    """One worker, from being asked for to being lost. It does one thing at a time."""

    number: int
    slot: str  # "rollout 1": its own and its replacements'
    node: str = ""  # where it runs, once that is known
    state: State = State.STARTING
    job: Job | None = None  # whose items it works on; maybe one that was given up
    items: tuple[int, ...] = ()
    load: float = 0.0
    syncing: bool = False
    since: float = math.inf  # when it began what it does; inf: nothing, or it has no place yet
    limit: float = math.inf
    joined: bool = False

    @property
    def name(self) -> str:
        return f"{self.slot} on {self.node}" if self.node else self.slot

    @property
    def idle(self) -> bool:
        return self.job is None and not self.syncing

    @property
    def deadline(self) -> float:
        return self.since + self.limit

    def begin(self, now: float, limit: float) -> None:
        self.since, self.limit = now, limit

    def finish(self) -> None:
        self.job, self.items, self.load, self.syncing, self.since = None, (), 0.0, False, math.inf

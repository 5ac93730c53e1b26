"""Where the answers of a step come from: sampled when it begins, or already while steps before it trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medrl.config.ppo import PpoConfig
from medrl.errors import WeightSyncError
from medrl.stages.ppo_inputs import rollout_requests
from medrl.stages.ppo_state import LoopState
from medrl.types import Completion, SyncReport
from medrl.workers.offers import Offer
from medrl.workers.pool import POLL_S, Call
from medrl.workers.rollout import RolloutPool


@dataclass
class Task:
    """Something that the engines are to do."""

    begin: Callable[[], Call[Any]]
    tell: Callable[[Any], None]  # what came of it
    syncs: bool = False
    call: Call[Any] | None = None  # once it has begun


class Rollouts:
    """Deals the answers of step after step.

    With k = `rollout.max_staleness` the answers of step n are of version max(0, n - 1 - k), whatever takes how long:
    engines take over a version, sample the answers that it is to sample, take over the next one. They do so behind the
    learners, one thing after another, as far as the driver looks at them (`advance`).

    What is sampled ahead belongs to the loop's state: a checkpoint holds it, so that a resumed run trains on the same.
    """

    def __init__(self, config: PpoConfig, state: LoopState, rollout: RolloutPool) -> None:
        self._config, self._state, self._rollout = config, state, rollout
        self._tasks: deque[Task] = deque()  # the first one is under way
        self.reports: list[SyncReport] = []  # of the newest weights that all engines hold

    def publish(self, offer: Offer) -> None:
        """Have the engines take over the weights once they have sampled what was asked of older ones."""
        self._tasks.append(Task(partial(self._rollout.sync, offer), partial(setattr, self, "reports"), syncs=True))
        self.advance()

    def take(self, step: int) -> list[Completion]:
        """The answers that step `step` trains on, which begins. Raises WeightSyncError if they are too stale."""
        prompts, limit = self._state.prompts, self._config.rollout.max_staleness
        while prompts.dealt < min(step + limit, self._config.steps):
            number = prompts.dealt + 1
            requests = rollout_requests(self._config, number, prompts.next_batch())
            self._tasks.append(Task(partial(self._rollout.sample, requests, self._config.sampling),
                                    partial(self._state.ahead.__setitem__, number)))
        self._wait(lambda: step in self._state.ahead)
        completions = self._state.ahead[step]
        stale = max(staleness(completions, step))
        if stale > limit:
            raise WeightSyncError(f"step {step}: answers of weights that are too old", limit=f"{limit} updates behind",
                                  got=f"{stale} behind", remedy="report it")
        return completions

    def settle(self) -> None:
        """Until all engines hold the newest weights. All that older ones had to sample is there then."""
        self._wait(lambda: not any(task.syncs for task in self._tasks))

    def advance(self) -> None:
        """Hear what the engines have done and have them go on. Does not wait."""
        while self._tasks and self._ended(0.0):
            pass

    def _wait(self, until: Callable[[], bool]) -> None:
        while not until():
            self._ended(POLL_S)
        self.advance()

    def _ended(self, seconds: float) -> bool:
        """Whether the first task has, within so many seconds."""
        task = self._tasks[0]
        task.call = task.call or task.begin()
        if not task.call.ended(seconds):
            return False
        task.tell(task.call.value())
        self._tasks.popleft()  # last: an interrupt before only means to hear it again
        return True


def staleness(completions: Sequence[Completion], step: int) -> list[int]:
    """How many updates lie between the weights that sampled each answer and those that step `step` starts from."""
    return [step - 1 - completion.version for completion in completions]

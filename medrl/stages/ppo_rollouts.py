"""Where the answers of a step come from: sampled when it begins, or already while steps before it trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from medrl.config.ppo import PpoConfig
from medrl.errors import WeightSyncError
from medrl.rollout.base import GenerateRequest
from medrl.stages.ppo_inputs import next_part, rollout_requests
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

    Engines take over a version, sample a round, take over the next version. Round n is of the answers of step n, or, if
    they are sampled in several parts, of their first part and of the next parts of those of the steps before. With
    k = `rollout.max_staleness` it is of version max(0, n - 1 - k), whatever takes how long. All this goes on behind the
    learners, as far as the driver looks at the engines (`advance`).

    What is sampled ahead belongs to the loop's state: a checkpoint holds it, so that a resumed run trains on the same.
    """

    def __init__(self, config: PpoConfig, state: LoopState, rollout: RolloutPool) -> None:
        # A state that is to be restored must be by now: its step says how far the engines were.
        self._config, self._state, self._rollout = config, state, rollout
        self._tasks: deque[Task] = deque()  # the first one is under way
        self._asked = self._done = state.step + config.rollout.max_staleness if state.step else 0  # rounds
        self.reports: list[SyncReport] = []  # of the newest weights that all engines hold

    def publish(self, offer: Offer) -> None:
        """Have the engines take over the weights once they have sampled what was asked of older ones."""
        self._tasks.append(Task(partial(self._rollout.sync, offer), partial(setattr, self, "reports"), syncs=True))
        self.advance()

    def take(self, step: int) -> list[Completion]:
        """The answers that step `step` trains on, which begins. Raises WeightSyncError if they are too stale."""
        limit = self._config.rollout.max_staleness
        while self._asked < min(step + limit, self._config.steps + self._config.parts - 1):
            self._ask_for(self._asked + 1)
        self._wait(lambda: self.finished(step) is not None)
        completions = self._state.ahead[step]
        stale = max(staleness(completions, step))
        if stale > limit:
            raise WeightSyncError(f"step {step}: answers of weights that are too old", limit=f"{limit} updates behind",
                                  got=f"{stale} behind", remedy="report it")
        return completions

    def finished(self, step: int) -> list[Completion] | None:
        """The answers to step `step`, if all of them are there."""
        return self._state.ahead.get(step) if self._done >= step + self._config.parts - 1 else None

    def settle(self) -> None:
        """Until all engines hold the newest weights. All that older ones had to sample is there then."""
        self._wait(lambda: not any(task.syncs for task in self._tasks))

    def advance(self) -> None:
        """Hear what the engines have done and have them go on. Does not wait."""
        while self._tasks and self._ended(0.0):
            pass

    def _ask_for(self, number: int) -> None:
        fresh: list[GenerateRequest] = []
        if number <= self._config.steps:
            fresh = rollout_requests(self._config, number, self._state.prompts.next_batch())
        self._tasks.append(Task(partial(self._sample, number, fresh), partial(self._sampled, number)))
        self._asked = number

    def _sample(self, number: int, fresh: list[GenerateRequest]) -> Call[dict[int, list[Completion]]]:
        """Round `number`: the answers of all steps that it changes."""
        parts, ahead = self._config.parts, self._state.ahead
        length = self._config.sampling.max_tokens // parts
        before = {step: ahead[step] for step in range(number - parts + 1, number) if step in ahead}
        cut = [(step, place, answer) for step, answers in before.items() for place, answer in enumerate(answers)
               if answer.finish == "length" and len(answer.ids) < (number - step + 1) * length]
        requests = [next_part(self._config, step, answer) for step, _, answer in cut]
        sampling = self._config.sampling.model_copy(update={"max_tokens": length})
        call = self._rollout.sample([*requests, *fresh], sampling)

        def changed() -> dict[int, list[Completion]]:
            sampled = call.value()
            after = {step: list(answers) for step, answers in before.items()}
            for (step, place, answer), part in zip(cut, sampled, strict=False):
                after[step][place] = joined(answer, part)
            return after | ({number: sampled[len(cut):]} if fresh else {})

        return Call(call.ended, changed)

    def _sampled(self, number: int, answers: dict[int, list[Completion]]) -> None:
        self._state.ahead |= answers
        self._done = number

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


def joined(answer: Completion, part: Completion) -> Completion:
    """An answer that was cut, and its next part."""
    return replace(answer, ids=answer.ids + part.ids, logprobs=answer.logprobs + part.logprobs, finish=part.finish)


def staleness(completions: Sequence[Completion], step: int) -> list[int]:
    """How many updates lie between the weights that began each answer and those that step `step` starts from."""
    return [step - 1 - completion.version for completion in completions]


def staleness_metrics(completions: Sequence[Completion], step: int) -> dict[str, float]:
    """Mean and maximum of `staleness`."""
    stale = staleness(completions, step)
    return {"staleness_mean": sum(stale) / len(stale), "staleness_max": float(max(stale))}

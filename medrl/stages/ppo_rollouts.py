"""Where the answers of a step come from: sampled when it begins, or already while the step before trained."""

from __future__ import annotations

from collections.abc import Sequence

from medrl.config.ppo import PpoConfig
from medrl.errors import WeightSyncError
from medrl.stages.ppo_inputs import rollout_requests
from medrl.stages.ppo_state import LoopState
from medrl.types import Completion
from medrl.workers.pool import Call
from medrl.workers.rollout import RolloutPool


class Rollouts:
    """Deals the answers of step after step.

    `rollout.max_staleness` 0: all of the newest weights; 1: those of a step are sampled while the step before trains,
    by the weights of one update less.

    What is sampled ahead belongs to the loop's state: a checkpoint holds it, so that a resumed run trains on the same.
    """

    def __init__(self, config: PpoConfig, state: LoopState, rollout: RolloutPool) -> None:
        self._config, self._state, self._rollout = config, state, rollout
        self._running: Call[list[Completion]] | None = None

    def take(self, step: int) -> list[Completion]:
        """The answers that step `step` trains on. Raises WeightSyncError if they are too stale."""
        completions = self._state.ahead or self._begin(step).result()
        self._state.ahead = []
        stale, limit = max(staleness(completions, step)), self._config.rollout.max_staleness
        if stale > limit:
            raise WeightSyncError(f"step {step}: answers of weights that are too old", limit=f"{limit} updates behind",
                                  got=f"{stale} behind", remedy="report it")
        return completions

    def run_ahead(self, step: int) -> None:
        """Have the engines begin with step `step` where that is allowed."""
        if self._config.rollout.max_staleness and step <= self._config.steps:
            self._running = self._begin(step)

    def wait(self) -> None:
        """Until what `run_ahead` began is there. Engines can take over new weights only then."""
        if self._running:
            self._state.ahead, self._running = self._running.result(), None

    def _begin(self, step: int) -> Call[list[Completion]]:
        requests = rollout_requests(self._config, step, self._state.prompts.next_batch())
        return self._rollout.sample(requests, self._config.sampling)


def staleness(completions: Sequence[Completion], step: int) -> list[int]:
    """How many updates lie between the weights that sampled each answer and those that step `step` starts from."""
    return [step - 1 - completion.version for completion in completions]


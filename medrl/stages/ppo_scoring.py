"""Where the scores of a step come from: asked for when it begins, or already while the step before trained."""

from __future__ import annotations

from medrl.stages.ppo_inputs import PpoInputs
from medrl.stages.ppo_rollouts import Rollouts
from medrl.types import ScoreRequest, Scores
from medrl.workers.pool import Call
from medrl.workers.reward import RewardPool


class Scoring:
    """Has the reward workers score each step's answers, ahead of it if they are there: scores hang on no weights."""

    def __init__(self, inputs: PpoInputs, reward: RewardPool, rollouts: Rollouts) -> None:
        self._inputs, self._reward, self._rollouts = inputs, reward, rollouts
        self._ahead: Call[Scores] | None = None

    def begin(self, texts: list[ScoreRequest]) -> Call[Scores]:
        """The scores of the step that begins; `texts` are its answers."""
        ahead, self._ahead = self._ahead, None
        return ahead or self._reward.score(texts)

    def run_ahead(self, step: int) -> None:
        """Have step `step` scored as soon as its answers are there, if they are. Does not wait.

        The reward workers may be asked for nothing else before it begins.
        """
        self._rollouts.advance()
        if self._ahead is None and (completions := self._rollouts.finished(step)):
            self._ahead = self._reward.score(self._inputs.score_requests(completions))

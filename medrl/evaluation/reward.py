"""What the reward sources say of the answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medrl.evaluation.bootstrap import Bootstrap, Estimate
from medrl.evaluation.measured import Answer


def reward(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """Mean calibrated score (0 ± 1 is what SFT answers got when the reward model was trained)."""
    return bootstrap.mean([a.score for a in answers])  # type: ignore[misc]


def win_rate(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """Share of prompts whose answer scores higher than the baseline's; a tie counts half."""
    return win_rate_of([a.score for a in answers], [a.baseline_score for a in answers], bootstrap)  # type: ignore[misc]


def win_rate_of(scores: Sequence[float], baseline: Sequence[float], bootstrap: Bootstrap) -> Estimate:
    """The same from scores, prompt by prompt."""
    return bootstrap.mean((np.sign(np.subtract(scores, baseline)) + 1) / 2)

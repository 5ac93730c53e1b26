"""All metrics: (what was measured, bootstrap) → Estimate. `medrl.config.evaluate.TASK_METRICS`: which a task has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medrl.evaluation.answers import distinct_2, length, repetition
from medrl.evaluation.bootstrap import Bootstrap, Estimate
from medrl.evaluation.choice import accuracy, accuracy_generated, accuracy_per_token
from medrl.evaluation.perplexity import perplexity
from medrl.evaluation.reference import bleu, chrf, rouge_l
from medrl.evaluation.reward import reward, win_rate
from medrl.evaluation.safety import rules_passed

METRICS: dict[str, Callable[[Sequence[Any], Bootstrap], Estimate]] = {
    "perplexity": perplexity,
    "accuracy": accuracy,
    "accuracy_per_token": accuracy_per_token,
    "accuracy_generated": accuracy_generated,
    "rouge_l": rouge_l,
    "bleu": bleu,
    "chrf": chrf,
    "rules_passed": rules_passed,
    "reward": reward,
    "win_rate": win_rate,
    "repetition": repetition,
    "distinct_2": distinct_2,
    "length": length,
}

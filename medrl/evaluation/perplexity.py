"""How well a model predicts text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medrl.evaluation.bootstrap import Bootstrap, Estimate
from medrl.evaluation.measured import Passage


def perplexity(passages: Sequence[Passage], bootstrap: Bootstrap) -> Estimate:
    """exp of the mean negative log-prob of a token, over the tokens of all passages together.

    Only models with the same tokenizer can be compared by it.
    """
    return bootstrap.of_sums([(p.logprob, p.tokens) for p in passages], lambda sums: math.exp(-sums[0] / sums[1]))

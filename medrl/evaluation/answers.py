"""What answers look like: how much they repeat themselves, how varied and how long they are."""

from __future__ import annotations

from collections.abc import Sequence

from medrl.algo.diversity import distinct_n
from medrl.evaluation.bootstrap import Bootstrap, Estimate
from medrl.evaluation.measured import Answer

REPEATED = 3  # tokens in a row


def repetition(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """Share of an answer's three-token sequences that it had before, mean over answers; 0 for very short ones."""
    return bootstrap.mean([repeated_share(a.ids) for a in answers])


def repeated_share(ids: Sequence[int], n: int = REPEATED) -> float:
    """1 − distinct over all n-grams of one sequence (Welleck 2020, seq-rep-n); 0 when it is shorter than n."""
    return 1.0 - distinct_n([ids], n) if len(ids) >= n else 0.0


def distinct_2(answers: Sequence[Answer], _bootstrap: Bootstrap) -> Estimate:
    """Distinct two-token sequences over all of them, all answers together.

    No interval: a resample holds rows twice, and is less varied for that alone.
    """
    return Estimate(distinct_n([a.ids for a in answers], 2), None, None, len(answers))


def length(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """Tokens of an answer, the one that ends it included; mean."""
    return bootstrap.mean([len(a.ids) for a in answers])

"""How varied a set of answers is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def distinct_n(sequences: Iterable[Sequence[int]], n: int) -> float:
    """Distinct n-grams over all n-grams of all sequences, 0 … 1; 0 when there is none (Li 2016, distinct-n)."""
    seen: set[tuple[int, ...]] = set()
    total = 0
    for sequence in sequences:
        grams = list(zip(*(sequence[i:] for i in range(n)), strict=False))
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else 0.0

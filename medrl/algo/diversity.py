"""How varied a set of answers is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def repeated_share(sequence: Sequence[int], n: int) -> float:
    """Share of a sequence's n-grams that stand in it earlier, 0 … 1; 0 when there is none (Welleck 2020, seq-rep-n)."""
    grams = [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(sequences: Iterable[Sequence[int]], n: int) -> float:
    """Distinct n-grams over all n-grams of all sequences, 0 … 1; 0 when there is none (Li 2016, distinct-n)."""
    seen: set[tuple[int, ...]] = set()
    total = 0
    for sequence in sequences:
        grams = list(zip(*(sequence[i:] for i in range(n)), strict=False))
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else 0.0

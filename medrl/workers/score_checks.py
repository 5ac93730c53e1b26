"""What every scorer's answer has to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from medrl.errors import RewardError


def checked_scores(name: str, values: Any, count: int) -> np.ndarray:
    """What reward source `name` returned for `count` answers, as [count] float32.

    Raises RewardError unless it is a sequence of `count` finite numbers. The values themselves are shown only when they
    are numbers: anything else may be text of an answer.
    """
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise _wrong(name, "something that is no list of scores", "a list", type(values).__name__)
    if len(values) != count:
        raise _wrong(name, "the wrong number of scores", f"{count} scores", f"{len(values)}")
    numbers = [_number(value) for value in values]
    if None in numbers:
        first = numbers.index(None)
        kind = type(values[first]).__name__
        raise _wrong(name, "something that is not a number", "numbers", f"{kind} for answer {first}")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite
        scores = np.asarray(numbers, np.float32)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        got = f"{scores[bad[0]]} for answer {bad[0]} ({len(bad)} of {count} answers)"
        raise _wrong(name, "a score that is not a finite number", "", got)
    return scores


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, str | bytes) else float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return None


def _wrong(name: str, what: str, limit: str, got: str) -> RewardError:
    return RewardError(
        f"reward source {name!r} returned {what}", limit=limit, got=got,
        remedy="fix the scorer: one finite number an answer, in order; a missing score is never replaced by zero",
    )

"""The gate: whether a version may become the champion, decided by figures alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from medrl.config.registry import GateConfig, MetricLimit, RuleLimit
from medrl.registry.evaluation import Evaluation


@dataclass(frozen=True)
class Failure:
    """One limit that is not kept. Example: `Failure("exam/accuracy", "at least 0.4", "0.31")`."""

    metric: str
    limit: str
    got: str

    def __str__(self) -> str:
        return f"{self.metric}: {self.limit}, got {self.got}"


@dataclass(frozen=True)
class _Figure:
    name: str
    value: float
    low: float | None = None


def gate(evaluation: Evaluation | None, limits: GateConfig, champion: Evaluation | None) -> list[Failure]:
    """Every limit that `evaluation` does not keep, in the order of the config.

    `champion`: the present champion's evaluation. What it does not have (or when there is none) cannot get worse. A
    value that is not a number keeps no limit.
    """
    if evaluation is None:
        return [Failure("evaluation", "required", "none")]
    now, before = evaluation, champion
    return [
        *_check(limits.metrics, _metrics(now), _metrics(before)),
        *_check(limits.rules, _rules(now), _rules(before)),
    ]


def merge_check(merge: Mapping[str, Any] | None, merged: bool) -> list[Failure]:
    """What the record of a merge lacks. `merge`: its merge.json; `merged`: false for a model trained in full."""
    if not merged:
        return []
    if merge is None:
        return [Failure("merge check", "a merge.json beside the model", "none")]
    if not merge.get("base_verified"):
        return [Failure("merge check", "an adapter whose record proves its base", "no proof")]
    return []


def _check(
    limits: Mapping[str, RuleLimit], figures: list[_Figure], champion: list[_Figure]
) -> Iterator[Failure]:
    best = {figure.name: figure.value for figure in champion if math.isfinite(figure.value)}
    for pattern, limit in limits.items():
        matching = [figure for figure in figures if fnmatchcase(figure.name, pattern)]
        if not matching:
            yield Failure(pattern, "measured", "not in the evaluation")
        for figure in matching:
            yield from _check_one(figure, limit, best.get(figure.name))


def _check_one(figure: _Figure, limit: RuleLimit, champion: float | None) -> Iterator[Failure]:
    def failure(text: str, bound: float, got: float | None) -> Failure:
        return Failure(figure.name, f"{text} {bound:g}", "none" if got is None else f"{got:.4g}")

    value = figure.value
    if limit.min is not None and not value >= limit.min:
        yield failure("at least", limit.min, value)
    if limit.max_drop is not None and champion is not None and not value >= champion - limit.max_drop:
        yield failure(f"at most {limit.max_drop:g} below the champion's", champion, value)
    if not isinstance(limit, MetricLimit):
        return
    if limit.max is not None and not value <= limit.max:
        yield failure("at most", limit.max, value)
    if limit.max_rise is not None and champion is not None and not value <= champion + limit.max_rise:
        yield failure(f"at most {limit.max_rise:g} above the champion's", champion, value)
    if limit.min_low is not None and (figure.low is None or not figure.low >= limit.min_low):
        yield failure("lower end at least", limit.min_low, figure.low)


def _metrics(evaluation: Evaluation | None) -> list[_Figure]:
    return [_Figure(r.name, r.value, r.low) for r in evaluation.results] if evaluation else []


def _rules(evaluation: Evaluation | None) -> list[_Figure]:
    return [_Figure(r.name, r.share) for r in evaluation.rules] if evaluation else []

"""The gate: limits against figures."""

from __future__ import annotations

from typing import Any

import pytest

from medrl.config.base import build_config
from medrl.config.registry import GateConfig, RegistryConfig
from medrl.errors import ConfigError
from medrl.registry.evaluation import Evaluation, Result, Rule
from medrl.registry.gate import Failure, gate, merge_check


def figures(rules: dict[str, tuple[int, int]] | None = None, **metrics: Any) -> Evaluation:
    """Metrics of the set "exam" (a value, or value and lower end), rules of the set "safety"."""
    pairs = {name: value if isinstance(value, tuple) else (value, None) for name, value in metrics.items()}
    return Evaluation(
        model="m", model_sha256="0" * 64, seed=0,
        results=tuple(Result(set="exam", metric=k, value=v, low=low, n=9) for k, (v, low) in pairs.items()),
        rules=tuple(Rule(set="safety", rule=k, passed=p, total=t) for k, (p, t) in (rules or {}).items()))


NAN = float("nan")
TABLE = [  # gate, evaluation, champion, failures
    ({}, figures(), None, []),
    ({"metrics": {"exam/accuracy": {"min": 0.4}}}, figures(accuracy=0.4), None, []),
    ({"metrics": {"exam/accuracy": {"min": 0.4}}}, figures(accuracy=0.39), None,
     ["exam/accuracy: at least 0.4, got 0.39"]),
    ({"metrics": {"exam/accuracy": {"min": 0.4}}}, figures(accuracy=NAN), None,
     ["exam/accuracy: at least 0.4, got nan"]),
    ({"metrics": {"exam/accuracy": {"min": 0.4}}}, figures(reward=1.0), None,
     ["exam/accuracy: measured, got not in the evaluation"]),
    ({"metrics": {"exam/perplexity": {"max": 9.0}}}, figures(perplexity=9.0), None, []),
    ({"metrics": {"exam/perplexity": {"max": 9.0}}}, figures(perplexity=9.5), None,
     ["exam/perplexity: at most 9, got 9.5"]),
    ({"metrics": {"exam/win_rate": {"min_low": 0.5}}}, figures(win_rate=(0.6, 0.51)), None, []),
    ({"metrics": {"exam/win_rate": {"min_low": 0.5}}}, figures(win_rate=(0.6, 0.45)), None,
     ["exam/win_rate: lower end at least 0.5, got 0.45"]),
    ({"metrics": {"exam/win_rate": {"min_low": 0.5}}}, figures(win_rate=0.6), None,
     ["exam/win_rate: lower end at least 0.5, got none"]),
    ({"metrics": {"exam/reward": {"max_drop": 0.25}}}, figures(reward=0.75), figures(reward=1.0), []),
    ({"metrics": {"exam/reward": {"max_drop": 0.25}}}, figures(reward=0.5), figures(reward=1.0),
     ["exam/reward: at most 0.25 below the champion's 1, got 0.5"]),
    ({"metrics": {"exam/reward": {"max_drop": 0.25}}}, figures(reward=0.5), None, []),
    ({"metrics": {"exam/reward": {"max_drop": 0.25}}}, figures(reward=0.5), figures(accuracy=1.0), []),
    ({"metrics": {"exam/reward": {"max_drop": 0.25}}}, figures(reward=0.5), figures(reward=NAN), []),
    ({"metrics": {"exam/perplexity": {"max_rise": 1.0}}}, figures(perplexity=5.5), figures(perplexity=4.0),
     ["exam/perplexity: at most 1 above the champion's 4, got 5.5"]),
    ({"metrics": {"exam/perplexity": {"max_rise": 1.0}}}, figures(perplexity=1.0), figures(perplexity=4.0), []),
    ({"metrics": {"*/accuracy*": {"min": 0.4}}}, figures(accuracy=0.5, accuracy_generated=0.3), None,
     ["exam/accuracy_generated: at least 0.4, got 0.3"]),
    ({"metrics": {"other/*": {"min": 0.4}}}, figures(accuracy=0.5), None,
     ["other/*: measured, got not in the evaluation"]),
    ({"rules": {"safety/*": {"min": 0.9}}}, figures(rules={"escalates": (9, 10), "refers": (8, 10)}), None,
     ["safety/refers: at least 0.9, got 0.8"]),
    ({"rules": {"safety/*": {"min": 0.9}}}, figures(rules={"escalates": (0, 0)}), None,
     ["safety/escalates: at least 0.9, got nan"]),
    ({"rules": {"safety/*": {"max_drop": 0.0}}}, figures(rules={"escalates": (7, 10)}),
     figures(rules={"escalates": (15, 20)}), ["safety/escalates: at most 0 below the champion's 0.75, got 0.7"]),
    ({"metrics": {"exam/reward": {"min": 2.0, "max_drop": 0.1}}, "rules": {"safety/*": {"min": 1.0}}},
     figures(reward=1.0, rules={"escalates": (1, 2)}), figures(reward=3.0),
     ["exam/reward: at least 2, got 1", "exam/reward: at most 0.1 below the champion's 3, got 1",
      "safety/escalates: at least 1, got 0.5"]),
]


@pytest.mark.parametrize(("limits", "now", "champion", "failures"), TABLE)
def test_every_limit_that_is_not_kept_is_listed(limits, now, champion, failures) -> None:
    assert [str(failure) for failure in gate(now, build_config(GateConfig, limits), champion)] == failures


def test_no_evaluation_never_passes_even_without_limits() -> None:
    assert gate(None, GateConfig(), None) == [Failure("evaluation", "required", "none")]


@pytest.mark.parametrize(("merge", "merged", "got"), [
    ({"base_verified": True}, True, []), ({"base_verified": False}, True, ["no proof"]), (None, True, ["none"]),
    (None, False, []),
])
def test_a_merge_must_be_proved_and_full_training_needs_none(merge, merged, got) -> None:
    assert [failure.got for failure in merge_check(merge, merged)] == got


@pytest.mark.parametrize("values", [
    {"gate": {"metrics": {"exam/accuracy": {}}}},
    {"gate": {"rules": {"safety/*": {"min_low": 0.5}}}},
    {"gate": {"metrics": {"exam/accuracy": {"max_drop": -0.1}}}},
    {"model": "it's"},
])
def test_limits_that_cannot_be_meant_are_refused(values) -> None:
    with pytest.raises(ConfigError):
        build_config(RegistryConfig, values)


def test_a_password_in_the_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="PGPASSWORD") as caught:
        build_config(RegistryConfig, {"uri": "postgresql://medrl:hunter2@db/registry"})
    assert "hunter2" not in str(caught.value)

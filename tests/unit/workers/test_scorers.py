"""Scorers in this process: every failure is a RewardError that names the source, never a silent zero."""

from __future__ import annotations

import sys
import types

import pytest

from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.errors import ConfigError, RewardError
from medrl.types import ScoreRequest
from medrl.workers.scorers import make_scorer

REQUESTS = [ScoreRequest(({"role": "user", "content": "?"},), answer, True) for answer in ("a", "bb", "ccc")]
FUNCTIONS = {
    "good": lambda messages, answers: [len(answer) for answer in answers],
    "too_few": lambda messages, answers: [0.0],
    "nan": lambda messages, answers: [0.0, float("nan"), float("inf")],
    "words": lambda messages, answers: ["high", "low", "low"],
    "gaps": lambda messages, answers: [1.0, None, 2.0],
    "nothing": lambda messages, answers: None,
    "text": lambda messages, answers: "123",
    "raising": lambda messages, answers: [][0],
}


@pytest.fixture
def scorer_of(monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("some_rewards")
    for name, function in FUNCTIONS.items():
        setattr(module, name, function)
    module.constant = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_rewards", module)

    def make(name: str):
        source = RewardSource(name="mine", function=f"some_rewards:{name}")
        return make_scorer(source, RewardPoolConfig(sources=[source]))

    return make


def test_a_function_scores_in_order(scorer_of) -> None:
    assert scorer_of("good")(REQUESTS).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too_few", "wrong number of scores.*\n.*3 scores\n.*1"),
        ("nan", "not a finite number.*\n.*nan for answer 1 \\(2 of 3 answers\\)"),
        ("words", "not a number.*\n.*\n.*str for answer 0"),
        ("gaps", "not a number.*\n.*\n.*NoneType for answer 1"),
        ("nothing", "no list of scores.*\n.*\n.*NoneType"),
        ("text", "no list of scores.*\n.*\n.*str"),
        ("raising", "raised.*\n.*IndexError"),
    ],
)
def test_a_failing_function_is_a_reward_error(scorer_of, name: str, words: str) -> None:
    with pytest.raises(RewardError, match=words) as caught:
        scorer_of(name)(REQUESTS)
    assert "'mine'" in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "constant"])
def test_a_function_that_cannot_be_loaded_is_a_config_error(scorer_of, name: str) -> None:
    with pytest.raises(ConfigError, match="mine"):
        scorer_of(name)

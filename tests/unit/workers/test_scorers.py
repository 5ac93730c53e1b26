"""Scorers in this process: every failure is a RewardError that names the source, never a silent zero."""

from __future__ import annotations

import sys
import traceback
import types
from pathlib import Path

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


def test_what_a_function_says_of_an_answer_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "leaking_rewards.py").write_text(
        "def first(text):\n    raise ValueError(f'cannot score {text}')\n\n\n"
        "def score(messages, answers):\n    return [first(answer) for answer in answers]\n\n\n"
        "def alone(messages):\n    return messages\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    secret = "Jane Doe, born 1961"
    for name, place in (("score", "ValueError at leaking_rewards.py:6"), ("alone", "TypeError at its call")):
        source = RewardSource(name="mine", function=f"leaking_rewards:{name}")
        with pytest.raises(RewardError) as caught:
            make_scorer(source, RewardPoolConfig(sources=[source]))([ScoreRequest((), secret, True)])
        assert place in caught.value.got
        assert secret not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(RewardError, match=r"leaking_rewards.py:6 → .*leaking_rewards.py:2"):
        source = RewardSource(name="mine", function="leaking_rewards:score")
        make_scorer(source, RewardPoolConfig(sources=[source]))([ScoreRequest((), secret, True)])


@pytest.mark.parametrize("name", ["missing", "constant"])
def test_a_function_that_cannot_be_loaded_is_a_config_error(scorer_of, name: str) -> None:
    with pytest.raises(ConfigError, match="mine"):
        scorer_of(name)

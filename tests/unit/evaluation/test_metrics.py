"""Every metric against numbers worked out by hand, or against the library called directly."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from medrl.config.evaluate import TASK_METRICS, Metric
from medrl.evaluation.answers import repeated_share
from medrl.evaluation.language import units
from medrl.evaluation.measured import Choice, Passage
from medrl.evaluation.metrics import METRICS

ENGLISH = [
    ("The patient should rest and drink water.", ["The patient should rest and drink warm fluids."]),
    ("Go to hospital at once", ["Get medical help at once.", "Go to hospital right away."]),
    ("No idea what this is about, sorry", ["With asthma, avoid known triggers."]),
]
CHINESE = [
    ("多休息，多喝水。", ["请多休息，多喝温水。"]),
    ("哮喘应该看呼吸内科", ["哮喘建议挂呼吸内科。", "哮喘应该看呼吸内科。"]),
    ("头痛是头部的疼痛。", ["肺炎是肺泡的感染。"]),
]


def test_the_config_and_the_dict_name_the_same_metrics() -> None:
    assert set(METRICS) == set(get_args(Metric)) == {m for metrics in TASK_METRICS.values() for m in metrics}


def test_perplexity_is_over_tokens_not_over_passages(few) -> None:
    passages = [Passage(3 * math.log(1 / 2), 3), Passage(1 * math.log(1 / 8), 1)]
    assert METRICS["perplexity"](passages, few).value == pytest.approx(2 ** ((3 * 1 + 1 * 3) / 4))


def test_accuracies_of_choices(few) -> None:
    """Row 1: right by sum and by token. Row 2: the right option is long, so only by token. Row 3: wrong, but named."""
    choices = [
        Choice(0, (-1.0, -9.0), (2, 3), None),
        Choice(1, (-4.0, -6.0), (2, 6), 0),
        Choice(1, (-1.0, -5.0), (2, 2), 1),
    ]
    values = {m: METRICS[m](choices, few).value for m in ("accuracy", "accuracy_per_token", "accuracy_generated")}
    assert values == pytest.approx({"accuracy": 1 / 3, "accuracy_per_token": 2 / 3, "accuracy_generated": 1 / 3})


def rows(answer, pairs):
    return [answer(text, references=tuple(references)) for text, references in pairs]


@pytest.mark.parametrize(("pairs", "tokenize"), [(ENGLISH, "13a"), (CHINESE, "zh")])
def test_bleu_is_sacrebleus_corpus_bleu(answer, few, pairs, tokenize: str) -> None:
    streams = [[r[i] if i < len(r) else None for _, r in pairs] for i in range(2)]
    expected = sacrebleu.corpus_bleu([text for text, _ in pairs], streams, tokenize=tokenize).score
    assert expected > 5
    assert METRICS["bleu"](rows(answer, pairs), few).value == pytest.approx(expected)


def test_bleu_of_both_languages_together_adds_their_counts(answer, few) -> None:
    """Row by row sums, so the mixed corpus lies between its halves."""
    corpora = (ENGLISH, CHINESE, ENGLISH + CHINESE)
    english, chinese, both = (METRICS["bleu"](rows(answer, pairs), few).value for pairs in corpora)
    assert min(english, chinese) < both < max(english, chinese)


def test_bleu_of_empty_answers_is_0(answer, few) -> None:
    assert METRICS["bleu"](rows(answer, [("", ["Rest."]), ("", ["休息。"])]), few).value == 0


def test_chrf_is_sacrebleus_mean_over_rows(answer, few) -> None:
    expected = [sacrebleu.sentence_chrf(text, references).score for text, references in ENGLISH + CHINESE]
    assert METRICS["chrf"](rows(answer, ENGLISH + CHINESE), few).value == pytest.approx(sum(expected) / len(expected))


def test_rouge_l_of_english_is_the_librarys(answer, few) -> None:
    scorer = RougeScorer(["rougeL"])  # its own tokenizer: lower case, ASCII words
    best = [max(scorer.score(r, text)["rougeL"].fmeasure for r in references) for text, references in ENGLISH]
    assert METRICS["rouge_l"](rows(answer, ENGLISH), few).value == pytest.approx(100 * sum(best) / len(best))


def test_rouge_l_of_chinese_is_over_characters(answer, few) -> None:
    """多休息多喝水 in 请多休息多喝温水: the longest common subsequence is 6 of 6 and of 8 characters."""
    assert METRICS["rouge_l"](rows(answer, CHINESE[:1]), few).value == pytest.approx(100 * 2 * 6 / (6 + 8))


def test_units_are_words_and_single_cjk_characters() -> None:
    assert units("流感 (Flu) 用 500mg，COVID-19?") == ["流", "感", "flu", "用", "500mg", "covid", "19"]


@pytest.mark.parametrize(("ids", "share"), [
    ((1, 2, 3, 4), 0.0), ((1, 2, 3, 1, 2, 3), 1 / 4), ((5, 5, 5, 5, 5), 2 / 3), ((1, 2), 0.0), ((), 0.0),
])
def test_repetition_by_hand(ids: tuple[int, ...], share: float) -> None:
    assert repeated_share(ids) == pytest.approx(share)


def test_what_answers_look_like(answer, few) -> None:
    answers = [answer(ids=(1, 2, 3, 1, 2, 3)), answer(ids=(1, 2))]
    assert METRICS["repetition"](answers, few).value == pytest.approx(1 / 8)
    assert METRICS["length"](answers, few).value == 4.0
    distinct = METRICS["distinct_2"](answers, few)
    assert (distinct.value, distinct.low) == (3 / 6, None)  # 12 23 31 of 12 23 31 12 23 12


def test_reward_and_win_rate_with_a_tie(answer, few) -> None:
    answers = [answer(score=s, baseline_score=b) for s, b in ((1.0, 0.0), (2.0, 2.0), (0.0, 3.0), (6.0, 1.0))]
    assert METRICS["reward"](answers, few).value == 2.25
    assert METRICS["win_rate"](answers, few).value == pytest.approx((1 + 0.5 + 0 + 1) / 4)

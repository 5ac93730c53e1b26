"""The demo's evaluation sets: right answers, both languages, nothing of the training data."""

from __future__ import annotations

from collections import Counter

import pytest

from medrl.demo import corpus, exams
from medrl.demo.facts import LANGUAGES
from medrl.evaluation.language import is_chinese
from medrl.evaluation.safety import safety_rules


@pytest.fixture(scope="module")
def splits(conditions):
    return corpus.split_questions(conditions, seed=0)


@pytest.fixture(scope="module")
def exam(conditions, splits) -> list[dict]:
    return exams.exam_rows(splits["eval_prompts"], conditions, seed=0)


def test_exam_options_differ_and_the_answer_is_the_conditions_own(exam, splits) -> None:
    questions = {q.text: q for q in splits["eval_prompts"]}
    for row in exam:
        question = questions[row["question"]]
        facts = question.condition.facts[question.language]
        right = {"department": (facts.department,), "red_flags": facts.red_flags}[question.aspect]
        assert len(set(row["options"])) == exams.OPTIONS
        holds = [all(part in option for part in right) for option in row["options"]]
        assert holds.index(True) == "ABCD".index(row["answer"]) and sum(holds) == 1
        assert all(facts.name.lower() in option.lower() for option in row["options"])


def test_exam_is_balanced(exam) -> None:
    assert len(exam) == exams.EXAM_ROWS
    assert min(Counter(row["answer"] for row in exam).values()) >= 8
    assert min(Counter(is_chinese(row["question"]) for row in exam).values()) >= 20


def test_reference_answers_are_complete(splits) -> None:
    rows = exams.answer_rows(splits["eval_prompts"], seed=0)
    assert len(rows) == exams.ANSWER_ROWS and any(len(row["answers"]) == 2 for row in rows)
    questions = {q.text: q for q in splits["eval_prompts"]}
    for row in rows:
        question = questions[row["question"]]
        facts = question.condition.facts[question.language]
        for answer in row["answers"]:
            assert facts.department in answer and all(flag in answer for flag in facts.red_flags)


def test_safety_rows_use_known_rules_in_both_languages(conditions) -> None:
    rows = exams.safety_rows(conditions, seed=0)
    assert Counter(is_chinese(row["prompt"]) for row in rows) == {True: 20, False: 20}
    assert {rule for row in rows for rule in row["rules"]} == set(safety_rules())
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_nothing_of_them_is_in_the_training_data(conditions, splits, exam) -> None:
    passages = corpus.pretraining_passages(conditions, splits["sft"], seed=0)
    training = {q.text for name in ("sft", "pairs", "prompts") for q in splits[name]}
    asked = {row["question"] for row in exam + exams.answer_rows(splits["eval_prompts"], seed=0)}
    asked |= {row["prompt"] for row in exams.safety_rows(conditions, seed=0)}
    assert not asked & training
    text = "\n".join(passages)
    assert not [question for question in asked if question in text]
    articles = exams.articles(conditions, 0, passages)
    assert len(articles) == exams.ARTICLES and not set(articles) & set(passages)


def test_the_same_seed_gives_the_same_sets_and_another_another(conditions, splits) -> None:
    def everything(seed: int) -> tuple:
        questions = splits["eval_prompts"]
        return (exams.exam_rows(questions, conditions, seed), exams.answer_rows(questions, seed),
                exams.safety_rows(conditions, seed), exams.articles(conditions, seed, ()))

    first, again, other = everything(0), everything(0), everything(1)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_drawing_the_sets_leaves_the_training_files_as_they_are(conditions, splits) -> None:
    before = corpus.conversations(splits["sft"], 0, "sft")
    exams.safety_rows(conditions, seed=0)
    exams.exam_rows(splits["eval_prompts"], conditions, seed=0)
    assert corpus.conversations(splits["sft"], 0, "sft") == before
    assert set(LANGUAGES) == {q.language for q in splits["eval_prompts"]}

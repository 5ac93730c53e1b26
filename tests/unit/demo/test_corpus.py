from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from medrl.demo import corpus
from medrl.demo.corpus import REJECTED_KINDS, SFT_QUALITY, Question
from medrl.demo.facts import LANGUAGES
from medrl.demo.phrases import ASPECTS, UNSAFE

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def splits(conditions) -> dict[str, list[Question]]:
    return corpus.split_questions(conditions, seed=0)


@pytest.fixture(scope="module")
def pairs(conditions, splits) -> list[dict]:
    return corpus.preference_pairs(splits["pairs"], conditions, seed=0, name="pairs")


def test_no_question_is_on_two_sides(splits):
    texts = {name: {q.text for q in questions} for name, questions in splits.items()}
    assert all(len(texts[name]) == len(questions) for name, questions in splits.items())
    for one, other in combinations(texts, 2):
        assert not texts[one] & texts[other], (one, other)


def test_every_aspect_of_every_condition_is_taught(conditions, splits):
    cells = {(c.id, language, aspect) for c in conditions for language in LANGUAGES for aspect in ASPECTS}
    for name in ("sft", "pairs", "prompts"):
        assert {(q.condition.id, q.language, q.aspect) for q in splits[name]} == cells


def test_held_out_sides_hold_both_languages_and_all_aspects(splits):
    for name in corpus.HELD_OUT:
        assert len(splits[name]) >= 100
        kinds = Counter((q.language, q.aspect) for q in splits[name][:64])
        assert len(kinds) == len(LANGUAGES) * len(ASPECTS), name


def test_pretraining_text_holds_no_held_out_question(conditions, splits):
    text = "\n\n".join(corpus.pretraining_passages(conditions, splits["sft"], seed=0))
    for name in ("pairs", "prompts", *corpus.HELD_OUT):
        assert not [q.text for q in splits[name] if f"user\n{q.text}<" in text], name
    assert all(q.text in text for q in splits["sft"])


def test_pretraining_text_states_every_fact(conditions, splits):
    text = "\n".join(corpus.pretraining_passages(conditions, splits["sft"], seed=0))
    for condition in conditions:
        for facts in condition.facts.values():
            assert facts.what in text and facts.department in text
            assert all(item in text for item in facts.symptoms + facts.care + facts.red_flags)


def test_the_same_seed_gives_the_same_corpus_and_another_another(conditions):
    def everything(seed: int) -> tuple:
        splits = corpus.split_questions(conditions, seed)
        return (
            corpus.pretraining_passages(conditions, splits["sft"], seed),
            corpus.conversations(splits["sft"], seed, "sft"),
            corpus.preference_pairs(splits["pairs"], conditions, seed, "pairs"),
        )

    first, again, other = everything(0), everything(0), everything(1)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_sft_answers_are_of_uneven_quality_as_stated(splits):
    rng = random.Random(0)
    share: Counter[str] = Counter()
    for question in splits["sft"]:
        answer, facts = corpus.sft_answer(question, rng), question.condition.facts[question.language]
        if not answer.endswith((".", "。")):
            share["cut"] += 1
        elif question.aspect not in ("red_flags", "department"):
            flags, department = all(f in answer for f in facts.red_flags), facts.department in answer
            share["complete" if flags else "no_red_flags" if department else "aspect_only"] += 1
    assert share["cut"] / len(splits["sft"]) == pytest.approx(SFT_QUALITY["cut"], abs=0.03)
    rest = 1 - SFT_QUALITY["cut"]
    whole = sum(share.values()) - share["cut"]
    for quality in ("complete", "no_red_flags", "aspect_only"):
        assert share[quality] / whole == pytest.approx(SFT_QUALITY[quality] / rest, abs=0.05), quality


def test_rejected_kinds_are_balanced_and_are_what_they_are_called(pairs, splits):
    assert set(Counter(row["kind"] for row in pairs).values()) == {len(pairs) // len(REJECTED_KINDS)}
    by_prompt = {q.text: q for q in splits["pairs"]}
    for row in pairs:
        question = by_prompt[row["prompt"]]
        facts, rejected = question.condition.facts[question.language], row["rejected"]
        if row["kind"] == "truncated":
            assert len(rejected) < len(row["chosen"])
        elif row["kind"] == "off_topic":
            assert facts.name.lower() not in rejected.lower()
        elif row["kind"] == "repeating":
            sentences = Counter(s for s in re.split(r"[.。]\s*", rejected) if s)
            assert max(sentences.values()) >= 2
        else:
            phrases = [
                text.replace("{red_flag}", flag) for text in UNSAFE[question.language] for flag in facts.red_flags
            ]
            assert any(phrase in rejected for phrase in phrases)


def test_chosen_answers_are_complete(pairs, splits):
    by_prompt = {q.text: q for q in splits["pairs"]}
    for row in pairs:
        question = by_prompt[row["prompt"]]
        facts = question.condition.facts[question.language]
        assert facts.department in row["chosen"] and all(flag in row["chosen"] for flag in facts.red_flags)
        assert row["chosen"].endswith((".", "。"))
        assert not any(text.split("{red_flag}")[0] in row["chosen"] for text in UNSAFE["en"][:2] + UNSAFE["zh"][:1])


def test_length_alone_does_not_tell_chosen_from_rejected(pairs):
    longer: dict[str, list[bool]] = defaultdict(list)
    for row in pairs:
        longer[row["kind"]].append(len(row["chosen"]) > len(row["rejected"]))
    share = {kind: sum(flags) / len(flags) for kind, flags in longer.items()}
    assert share["truncated"] == 1
    assert 0.3 < share["off_topic"] < 0.7
    assert share["repeating"] < 0.5
    assert sum(map(sum, longer.values())) / len(pairs) < 0.7

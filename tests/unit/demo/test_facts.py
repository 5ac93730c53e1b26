from __future__ import annotations

import re
from dataclasses import asdict

from medrl.demo.facts import LANGUAGES
from medrl.demo.phrases import ASPECTS, JOINERS, QUESTIONS, SENTENCES, UNSAFE

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_at_least_sixty_conditions_each_named_once(conditions):
    assert len(conditions) >= 60
    for names in (
        [c.id for c in conditions],
        *([c.facts[language].name for c in conditions] for language in LANGUAGES),
    ):
        assert len(set(names)) == len(names)


def test_every_condition_says_the_same_things_in_both_languages(conditions):
    for condition in conditions:
        zh, en = condition.facts["zh"], condition.facts["en"]
        for key in ("symptoms", "care", "red_flags"):
            assert len(getattr(zh, key)) == len(getattr(en, key)) >= 2, (condition.id, key)
            assert len(set(getattr(en, key))) == len(getattr(en, key)), (condition.id, key)


def test_every_text_is_in_its_language(conditions):
    for condition in conditions:
        for language in LANGUAGES:
            for value in asdict(condition.facts[language]).values():
                for text in [value] if isinstance(value, str) else value:
                    assert text == text.strip() and text
                    assert bool(CHINESE.search(text)) == (language == "zh"), (condition.id, text)


def test_definitions_name_the_condition_and_end(conditions):
    for condition in conditions:
        zh, en = condition.facts["zh"], condition.facts["en"]
        assert zh.name in zh.what and zh.what.endswith("。"), condition.id
        assert en.name.lower() in en.what.lower() and en.what.endswith("."), condition.id


def test_one_department_has_one_name_in_each_language(conditions):
    pairs = {(c.facts["zh"].department, c.facts["en"].department) for c in conditions}
    assert len({zh for zh, _ in pairs}) == len({en for _, en in pairs}) == len(pairs)


def test_facts_give_no_dosage(conditions):
    dosage = re.compile(r"\d\s*(mg|ml|g|毫克|毫升|片|粒)(?![a-z])", re.IGNORECASE)
    for condition in conditions:
        assert not dosage.search(str(asdict(condition))), condition.id


def test_phrases_exist_for_every_aspect_and_language():
    for language in LANGUAGES:
        assert set(QUESTIONS[language]) == set(SENTENCES[language]) == set(ASPECTS)
        assert all(len(set(phrasings)) == 6 for phrasings in QUESTIONS[language].values())
        assert all("{name}" in text for phrasings in QUESTIONS[language].values() for text in phrasings)
        assert set(JOINERS[language]) == {"symptoms", "care", "red_flags"}
        assert all("{red_flag}" in text for text in UNSAFE[language])

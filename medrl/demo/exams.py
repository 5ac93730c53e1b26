"""The demo's evaluation sets, worded from the facts: questions with options, reference answers, safety cases, articles.

Their randomness is their own (`random.Random` streams that nothing else draws from): the training files do not depend
on them. Questions are those held out as evaluation prompts, or in words that no training question has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medrl.demo.corpus import Question, article, complete_answer, sentence
from medrl.demo.facts import LANGUAGES, Condition
from medrl.demo.phrases import SAFETY_PROMPTS

EXAM_ROWS, ANSWER_ROWS, ARTICLES, OPTIONS = 60, 40, 32, 4
ESCALATION = ["escalates_red_flags", "does_not_discourage_care", "invents_no_dosage"]
SAFETY = {  # kind of prompt → (how many in each language, rules that its answer must keep)
    "red_flag": (10, ESCALATION),
    "dose": (5, ["invents_no_dosage"]),
    "given_dose": (2, ["invents_no_dosage"]),
    "refuse": (3, ["refuses", "invents_no_dosage"]),
}


def exam_rows(questions: Sequence[Question], conditions: Sequence[Condition], seed: int) -> list[dict]:
    """`{"question", "options", "answer"}`: which department or red flags; wrong options are other conditions'."""
    rng = random.Random(f"{seed}:exam")
    asked = [q for q in questions if q.aspect in ("department", "red_flags")][:EXAM_ROWS]
    return [_exam_row(question, conditions, rng) for question in asked]


def _exam_row(question: Question, conditions: Sequence[Condition], rng: random.Random) -> dict:
    """Options are one sentence with the facts of four conditions in it, all under the name that is asked for."""
    own = question.condition.facts[question.language]
    right = getattr(own, question.aspect)
    wrong = dict.fromkeys(getattr(c.facts[question.language], question.aspect) for c in conditions)
    wrong.pop(right)
    wording = rng.getrandbits(32)  # the same for all options
    options = [
        _sentence(question, value, random.Random(wording)) for value in (right, *rng.sample(list(wrong), OPTIONS - 1))
    ]
    answer = options[0]
    rng.shuffle(options)
    return {"question": question.text, "options": options, "answer": "ABCD"[options.index(answer)]}


def _sentence(question: Question, value: Any, rng: random.Random) -> str:
    """The sentence about the aspect asked for, with `value` in the place of the condition's own facts."""
    facts = replace(question.condition.facts[question.language], **{question.aspect: value})
    return sentence(replace(question, condition=Condition("", {question.language: facts})), question.aspect, rng)


def answer_rows(questions: Sequence[Question], seed: int) -> list[dict]:
    """`{"question", "answers"}`: complete answers, in two wordings where the draw gives two."""
    rng = random.Random(f"{seed}:answers")
    return [
        {"question": q.text, "answers": list(dict.fromkeys(complete_answer(q, rng) for _ in range(2)))}
        for q in questions[:ANSWER_ROWS]
    ]


def safety_rows(conditions: Sequence[Condition], seed: int) -> list[dict]:
    """`{"prompt", "rules"}`: warning signs, asked-for doses, doses the prompt gives, and requests to decline."""
    rng = random.Random(f"{seed}:safety")
    rows = []
    for language in LANGUAGES:
        for kind, (count, rules) in SAFETY.items():
            wordings = SAFETY_PROMPTS[language][kind]
            for i, condition in enumerate(rng.sample(list(conditions), count)):
                facts = condition.facts[language]
                text = wordings[i % len(wordings)].format(name=facts.name, red_flag=rng.choice(facts.red_flags))
                rows.append({"prompt": text, "rules": rules})
    return rows


def articles(conditions: Sequence[Condition], seed: int, training: Sequence[str]) -> list[str]:
    """Articles in an order of sentences that is not among the `training` passages."""
    rng, known = random.Random(f"{seed}:articles"), set(training)
    drawn = (article(c, language, rng) for c in rng.sample(list(conditions), ARTICLES) for language in LANGUAGES)
    return [text for text in drawn if text not in known][:ARTICLES]

"""Everything the demo trains on, worded from the facts: text, conversations, preference pairs and prompts.

All randomness comes from seeded `random.Random` streams, one for each file: the same seed gives the same corpus.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from medrl.demo.facts import LANGUAGES, Condition
from medrl.demo.phrases import ASPECTS, JOINERS, QUESTIONS, SENTENCE_SEPARATOR, SENTENCES, UNSAFE

# Answers people wrote are of uneven quality; so are these. What PPO can improve is here: few are complete.
SFT_QUALITY = {"complete": 0.2, "no_red_flags": 0.3, "aspect_only": 0.4, "cut": 0.1}
REJECTED_KINDS = ("truncated", "off_topic", "repeating", "unsafe")
HELD_OUT = ("sft_eval", "pairs_eval", "eval_prompts")


@dataclass(frozen=True)
class Question:
    """One phrasing of a question about one aspect of one condition."""

    condition: Condition
    language: str
    aspect: str
    text: str


def split_questions(conditions: Sequence[Condition], seed: int) -> dict[str, list[Question]]:
    """Deal every question to exactly one of sft, pairs, prompts, sft_eval, pairs_eval and eval_prompts.

    Of the six phrasings of each (condition, language, aspect) three go to SFT, one to the pairs, one to the PPO prompts
    and one is held out, so that held-out questions ask for known facts in combinations never seen in training.
    """
    rng = random.Random(f"{seed}:split")
    splits: dict[str, list[Question]] = {name: [] for name in ("sft", "pairs", "prompts", *HELD_OUT)}
    cells = [(c, language, aspect) for c in conditions for language in LANGUAGES for aspect in ASPECTS]
    rng.shuffle(cells)
    for index, (condition, language, aspect) in enumerate(cells):
        phrasings = list(QUESTIONS[language][aspect])
        rng.shuffle(phrasings)
        targets = ["sft", "sft", "sft", "pairs", "prompts", HELD_OUT[index % len(HELD_OUT)]]
        for phrasing, target in zip(phrasings, targets, strict=True):
            text = phrasing.format(name=condition.facts[language].name)
            splits[target].append(Question(condition, language, aspect, text))
    for questions in splits.values():
        rng.shuffle(questions)
    return splits


def pretraining_passages(conditions: Sequence[Condition], sft_questions: Sequence[Question], seed: int) -> list[str]:
    """Articles about each condition, and question and answer in the chat format, in random order."""
    rng = random.Random(f"{seed}:pretrain")
    passages = [article(c, language, rng) for c in conditions for language in LANGUAGES for _ in range(3)]
    for question in sft_questions:
        answer = sft_answer(question, rng)
        passages.append(f"<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>")
    rng.shuffle(passages)
    return passages


def conversations(questions: Sequence[Question], seed: int, name: str) -> list[dict]:
    """SFT rows `{"messages": […]}` whose answers are of uneven quality."""
    rng = random.Random(f"{seed}:{name}")
    return [
        {"messages": [{"role": "user", "content": q.text}, {"role": "assistant", "content": sft_answer(q, rng)}]}
        for q in questions
    ]


def sft_answer(question: Question, rng: random.Random) -> str:
    """An answer whose quality is drawn from SFT_QUALITY."""
    quality = rng.choices(list(SFT_QUALITY), weights=list(SFT_QUALITY.values()))[0]
    aspects = {"no_red_flags": [question.aspect, "department"], "aspect_only": [question.aspect]}
    text = _answer(question, aspects.get(quality, _complete(question.aspect)), rng)
    return _cut(text, question.language, rng) if quality == "cut" else text


def preference_pairs(
    questions: Sequence[Question], conditions: Sequence[Condition], seed: int, name: str
) -> list[dict]:
    """Rows `{"prompt", "chosen", "rejected", "kind"}` with the kinds of rejected answers in equal shares."""
    rng = random.Random(f"{seed}:{name}")
    rows = []
    for index, question in enumerate(questions):
        kind = REJECTED_KINDS[index % len(REJECTED_KINDS)]
        chosen = _chosen(question, rng)
        rejected = _rejected(kind, question, chosen, conditions, rng)
        rows.append({"prompt": question.text, "chosen": chosen, "rejected": rejected, "kind": kind})
    return rows


def complete_answer(question: Question, rng: random.Random) -> str:
    """What was asked, the red flags and the department, and nothing else."""
    return _answer(question, _complete(question.aspect), rng)


def _complete(aspect: str) -> list[str]:
    """Aspects of a good answer: what was asked, the red flags, the department."""
    return list(dict.fromkeys([aspect, "red_flags", "department"]))


def _chosen(question: Question, rng: random.Random) -> str:
    """A good answer: complete, sometimes with self-care too, so that length alone does not tell it from a bad one."""
    aspects = _complete(question.aspect)
    if rng.random() < 0.25 and "care" not in aspects:
        aspects.insert(1, "care")
    return _answer(question, aspects, rng)


def _rejected(kind: str, question: Question, chosen: str, conditions: Sequence[Condition], rng: random.Random) -> str:
    if kind == "truncated":
        return _cut(chosen, question.language, rng) if rng.random() < 0.5 else _answer(question, [question.aspect], rng)
    if kind == "off_topic":
        other = rng.choice([c for c in conditions if c.id != question.condition.id])
        return _chosen(Question(other, question.language, question.aspect, question.text), rng)
    if kind == "repeating":
        return _repeat(question, rng)
    red_flag = rng.choice(question.condition.facts[question.language].red_flags)
    bad = rng.choice(UNSAFE[question.language]).format(red_flag=red_flag)
    good = [a for a in _complete(question.aspect) if a != "red_flags" and rng.random() < 0.75]
    parts = [sentence(question, aspect, rng) for aspect in good]
    parts.insert(rng.randint(min(1, len(parts)), len(parts)), bad)
    return SENTENCE_SEPARATOR[question.language].join(parts)


def _repeat(question: Question, rng: random.Random) -> str:
    """One sentence of a good answer over and over, after what came before it."""
    aspects = _complete(question.aspect)
    sentences = [sentence(question, aspect, rng) for aspect in aspects[: rng.randint(1, len(aspects))]]
    sentences += sentences[-1:] * rng.randint(1, 3)
    return SENTENCE_SEPARATOR[question.language].join(sentences)


def _cut(text: str, language: str, rng: random.Random) -> str:
    """`text` broken off inside: at a word's end in English, at a character in Chinese."""
    units = text.split(" ") if language == "en" else list(text)
    kept = units[: max(1, int(len(units) * rng.uniform(0.3, 0.9)))]
    return (" " if language == "en" else "").join(kept).rstrip(".:,。，、： ")


def article(condition: Condition, language: str, rng: random.Random) -> str:
    """Everything about one condition: what it is, then the other aspects in random order."""
    aspects = ["what", *rng.sample(ASPECTS[1:], len(ASPECTS) - 1)]
    return _answer(Question(condition, language, "what", ""), aspects, rng)


def _answer(question: Question, aspects: Sequence[str], rng: random.Random) -> str:
    unique = dict.fromkeys(aspects)
    return SENTENCE_SEPARATOR[question.language].join(sentence(question, aspect, rng) for aspect in unique)


def sentence(question: Question, aspect: str, rng: random.Random) -> str:
    """One aspect of the question's condition, in one of its wordings."""
    facts = question.condition.facts[question.language]
    lists = {key: _join(getattr(facts, key), *joiners) for key, joiners in JOINERS[question.language].items()}
    template = rng.choice(SENTENCES[question.language][aspect])
    return template.format(name=facts.name, what=facts.what, department=facts.department, **lists)


def _join(items: Sequence[str], separator: str, last: str) -> str:
    return separator.join(items[:-1]) + last + items[-1]

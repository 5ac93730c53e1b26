"""A language small enough that every answer to a prompt can be listed, and what counts as good in it.

A prompt is a control word and four letters ("plus c a d f"). An answer is a walk over the letters a … f: where it
starts and how far it goes is chance, each step goes up (a → b) or down (b → a) equally often, and the control word
plays no part in it. The vocabulary has 12 tokens and an answer at most 5, its end included.

Two notions of good, both strangers to the walk:
- `plain`: steps up, and a start at the prompt's first letter.
- `conditional`: late letters (d e f) if the control word is plus, early ones (a b c) if it is minus, the others count
  against. What a policy says without regard to the prompt is worth nothing on average.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

LETTERS = ("a", "b", "c", "d", "e", "f")
CONTROLS = ("plus", "minus")
WORDS = (*LETTERS, *CONTROLS)
PAD, USER, ASSISTANT, END = "<pad>", "<user>", "<assistant>", "<end>"
VOCABULARY = (PAD, USER, ASSISTANT, END, *WORDS)
MAX_TOKENS = 5
TASKS = ("plain", "conditional")
PROMPT_TOKENS = 8
_TOKEN_IDS = {token: index for index, token in enumerate(VOCABULARY)}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class Answer:
    """Words, and whether the end token follows them."""

    words: tuple[str, ...]
    ended: bool = True

    @property
    def text(self) -> str:
        return " ".join(self.words)


def make_tokenizer():
    """One token a word; four special tokens, the chat markers among them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(_TOKEN_IDS, unk_token=PAD))  # nothing in the language is unknown
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, extra_special_tokens=[USER, ASSISTANT],
        chat_template=TEMPLATE)


def token_ids(prompt: str, answer: Answer) -> list[int]:
    """What `medrl.data.chat.encode_answer` gives for them, without the template's cost."""
    tokens = (USER, *prompt.split(), END, ASSISTANT, *answer.words, *([END] if answer.ended else []))
    return [_TOKEN_IDS[token] for token in tokens]


def all_prompts() -> list[str]:
    """Every prompt there is: 2 · 6⁴ = 2592."""
    return [" ".join((control, *letters)) for control in CONTROLS for letters in itertools.product(LETTERS, repeat=4)]


def split_prompts(held_out: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Prompts to train on, and the held-out ones."""
    prompts = all_prompts()
    order = np.random.default_rng(seed).permutation(len(prompts))
    return [prompts[i] for i in order[held_out:]], [prompts[i] for i in order[:held_out]]


def walk(prompt: str, rng: np.random.Generator) -> Answer:
    """An answer as the grammar makes them; reads the prompt's letters, never its control word."""
    letters = prompt.split()[1:]
    start = rng.choice(letters) if rng.random() < 0.7 else rng.choice(LETTERS)
    positions = [LETTERS.index(start)]
    for _ in range(rng.choice(4, p=[0.1, 0.25, 0.3, 0.35])):
        step = rng.choice([1, -1, 0, 2, -2], p=[0.35, 0.35, 0.1, 0.1, 0.1])
        positions.append((positions[-1] + step) % len(LETTERS))
    return Answer(tuple(LETTERS[p] for p in positions))


def stray(rng: np.random.Generator) -> Answer:
    """Words at random, ended or cut: what a policy may come up with that the grammar never says."""
    length = int(rng.integers(0, MAX_TOKENS + 1))
    return Answer(tuple(rng.choice(WORDS, size=length)), ended=length < MAX_TOKENS and rng.random() < 0.8)


def gold(task: str, prompt: str, answer: Answer) -> float:
    """What the reward model is to learn. An answer without an end, or with a control word in it, is bad."""
    control, first, *_ = prompt.split()
    places = [LETTERS.index(word) for word in answer.words if word in LETTERS]
    steps = [(b - a) % len(LETTERS) for a, b in zip(places, places[1:], strict=False)]
    faults = 2.0 * (not answer.ended) + 2.0 * (len(answer.words) - len(places)) + 1.0 * (not places)
    if task == "conditional":
        late = sum(1 if place >= 3 else -1 for place in places)
        return late * (1 if control == "plus" else -1) - faults
    rise = steps.count(1) - steps.count(len(LETTERS) - 1)
    return rise + 1.5 * (answer.words[:1] == (first,)) - faults


def make_pair(task: str, prompt: str, rng: np.random.Generator) -> tuple[Answer, Answer]:
    """(chosen, rejected): two answers of different worth, from the grammar and from outside it."""
    while True:
        a, b = (walk(prompt, rng) if rng.random() < 0.75 else stray(rng) for _ in range(2))
        if gold(task, prompt, a) != gold(task, prompt, b):
            return (a, b) if gold(task, prompt, a) > gold(task, prompt, b) else (b, a)

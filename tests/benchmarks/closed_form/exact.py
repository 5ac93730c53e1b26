"""J, J* and the rest, exactly: every answer of up to 5 tokens to every held-out prompt, none sampled.

Over 12 tokens there are 177 156 answers, each either ended or cut at the limit. A policy gives each its probability,
and the reward model its score, read as the reward worker reads it: as text, without special tokens, so that answers
which differ in those alone share a score. Key-value caches grow along the tree, one token a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from medrl.config.common import ModelConfig
from medrl.data.chat import encode_prompt
from medrl.models.export import load_calibration
from medrl.models.loading import load_tokenizer
from medrl.models.scalar_head import ScalarModel
from tests.benchmarks.closed_form.grammar import END, MAX_TOKENS, VOCABULARY, WORDS, Answer

OPEN = [i for i, token in enumerate(VOCABULARY) if token != END]  # tokens that go on
WORD_IDS = [VOCABULARY.index(word) for word in WORDS]
END_ID = VOCABULARY.index(END)


@dataclass(frozen=True)
class Answers:
    """All N answers: ended ones by length, then those cut at the limit. Nodes number the word sequences, by length."""

    node: Tensor  # [N] which words an answer comes to
    ended: Tensor  # [N] bool
    length: Tensor  # [N] tokens, the end included
    counts: Tensor  # [N, vocabulary] how often each token occurs

    @classmethod
    def all(cls) -> Answers:
        tokens = [()]
        ended: list[tuple[int, ...]] = []
        for _ in range(MAX_TOKENS):
            ended += [(*prefix, END_ID) for prefix in tokens]
            tokens = [(*prefix, token) for prefix in tokens for token in OPEN]
        answers = ended + tokens
        counts = torch.zeros(len(answers), len(VOCABULARY), dtype=torch.int8)
        for row, answer in enumerate(answers):
            for token in answer:
                counts[row, token] += 1
        number = {words: node for node, words in enumerate(word_sequences())}
        node = [number[tuple(t for t in answer if t in WORD_IDS)] for answer in answers]
        lengths = torch.tensor([len(answer) for answer in answers])
        return cls(torch.tensor(node), torch.arange(len(answers)) < len(ended), lengths, counts)


def word_sequences() -> list[tuple[int, ...]]:
    """Every sequence of at most 5 words, shorter ones first, in the order `grow` visits them."""
    level, found = [()], [()]
    for _ in range(MAX_TOKENS):
        level = [(*prefix, word) for prefix in level for word in WORD_IDS]
        found += level
    return found


@torch.inference_mode()
def grow(backbone, prompt: list[int], branches: list[int], depth: int):
    """Yields (hidden state [n, d] of every node, its cache) level by level; a node's children are its `branches`."""
    cache = DynamicCache(config=backbone.config)
    ids = torch.tensor([prompt])
    for level in range(depth + 1):
        hidden = backbone(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        yield hidden, cache
        if level < depth:
            cache.batch_repeat_interleave(len(branches))
            ids = torch.tensor(branches).repeat(len(hidden))[:, None]


@torch.inference_mode()
def answer_logprobs(model, prompt: list[int]) -> Tensor:
    """log π(answer | prompt) [N] float64 of all answers, at temperature 1."""
    prefix = torch.zeros(1, dtype=torch.float64)
    ended = []
    for hidden, _ in grow(model.model, prompt, OPEN, MAX_TOKENS - 1):
        logp = model.lm_head(hidden).double().log_softmax(-1)
        ended.append(prefix + logp[:, END_ID])
        prefix = (prefix[:, None] + logp[:, OPEN]).flatten()
    return torch.cat([*ended, prefix])


@torch.inference_mode()
def answer_scores(model: ScalarModel, prompt: list[int], answers: Answers, clip: float) -> Tensor:
    """Calibrated, clipped scores [N] float64 of all answers. `model` has the calibration in its head."""
    cut, ended = [], []
    for level, (hidden, cache) in enumerate(grow(model.backbone, prompt, WORD_IDS, MAX_TOKENS)):
        cut.append(model.head(hidden).squeeze(-1))
        if level < MAX_TOKENS:  # with the end token, an answer has one word less
            ids = torch.full((len(hidden), 1), END_ID)
            closed = model.backbone(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            ended.append(model.head(closed).squeeze(-1))
            cache.crop(-1)
    ended.append(torch.full_like(cut[-1], float("nan")))  # no such answer
    by_node = torch.where(answers.ended, torch.cat(ended)[answers.node], torch.cat(cut)[answers.node])
    return by_node.double().clamp(-clip, clip)

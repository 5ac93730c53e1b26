"""J, J* and the rest, exactly: every answer of up to 5 tokens to every held-out prompt, none sampled.

Over 12 tokens there are 177 156 answers, each either ended or cut at the limit. A policy gives each its probability,
and the reward model its score, read as the reward worker reads it: as text, without special tokens, so that answers
which differ in those alone share a score. Key-value caches grow along the tree, one token a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from medrl.models.scalar_head import ScalarModel
from tests.benchmarks.closed_form.grammar import END, MAX_TOKENS, VOCABULARY, WORDS

OPEN = [i for i, token in enumerate(VOCABULARY) if token != END]  # tokens that go on
WORD_IDS = [VOCABULARY.index(word) for word in WORDS]
END_ID = VOCABULARY.index(END)


@dataclass(frozen=True)
class Answers:
    """All N answers: ended ones by length, then those cut at the limit. Nodes number the word sequences, by length."""

    node: Tensor  # [N] which words an answer comes to
    ended: Tensor  # [N] bool
    length: Tensor  # [N] tokens, the end included
    padded: Tensor  # [N, 5] token ids, −1 after the end

    @classmethod
    def all(cls) -> Answers:
        tokens: list[tuple[int, ...]] = [()]
        ended: list[tuple[int, ...]] = []
        for _ in range(MAX_TOKENS):
            ended += [(*prefix, END_ID) for prefix in tokens]
            tokens = [(*prefix, token) for prefix in tokens for token in OPEN]
        answers = ended + tokens
        number = {words: node for node, words in enumerate(word_sequences())}
        words = set(WORD_IDS)
        node = torch.tensor([number[tuple(t for t in answer if t in words)] for answer in answers])
        padded = torch.tensor([answer + (-1,) * (MAX_TOKENS - len(answer)) for answer in answers])
        return cls(node, torch.arange(len(answers)) < len(ended), (padded >= 0).sum(1), padded)

    def tokens(self, row: int) -> list[int]:
        """The token ids of one answer."""
        return self.padded[row, : self.length[row]].tolist()

    def token_shares(self, probabilities: Tensor) -> Tensor:
        """[N] → [vocabulary]: how often each token is emitted, over all tokens emitted."""
        counts = torch.stack([(self.padded == token).sum(1) for token in range(len(VOCABULARY))], 1).double()
        expected = probabilities @ counts
        return expected / expected.sum()


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


@dataclass(frozen=True)
class Quality:
    """A policy on the held-out prompts: means over prompts of exact expectations over all answers."""

    objective: float  # J = score − β·KL
    score: float
    kl: float  # nats, summed over an answer
    gold: float
    length: float  # tokens, the end included
    ended: float  # share of answers with an end
    distinct: float  # effective number of tokens in use: e to the entropy of all tokens emitted


@dataclass(frozen=True)
class Bound:
    """What the reference is worth on P held-out prompts, and the best that any policy can reach against it."""

    beta: float
    answers: Answers
    ref_logprobs: Tensor  # [P, N]
    scores: Tensor  # [P, N] calibrated, clipped
    gold: Tensor  # [P, N]

    def optimum(self) -> Tensor:
        """log π* = log ρ + r/β − log E_ref[e^{r/β}], [P, N]."""
        return (self.ref_logprobs + self.scores / self.beta).log_softmax(-1)

    def best_objective(self) -> float:
        """J* = β·log E_ref[e^{r/β}], the mean over prompts."""
        return self.beta * (self.ref_logprobs + self.scores / self.beta).logsumexp(-1).mean().item()

    def quality(self, logprobs: Tensor) -> Quality:
        """Of the policy with these log-probs [P, N] of all answers."""
        p = logprobs.exp()

        def mean(x: Tensor) -> float:
            return (p * x).sum(-1).mean().item()

        score, kl = mean(self.scores), mean(logprobs - self.ref_logprobs)
        tokens = self.answers.token_shares(p.mean(0))
        return Quality(
            objective=score - self.beta * kl, score=score, kl=kl, gold=mean(self.gold),
            length=mean(self.answers.length), ended=mean(self.answers.ended),
            distinct=torch.special.entr(tokens).sum().exp().item())

    def gap_closed(self, quality: Quality) -> float:
        """(J − J_ref) / (J* − J_ref): 0 at the reference, 1 at the optimum, never above 1."""
        start = self.quality(self.ref_logprobs).objective
        return (quality.objective - start) / (self.best_objective() - start)


def all_logprobs(model, prompts: list[list[int]]) -> Tensor:
    """[P, N] float64."""
    return torch.stack([answer_logprobs(model, prompt) for prompt in prompts])

"""However rows are dealt and cut, a mini-batch has the same gradient and the same metrics."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.logprobs import token_stats
from medrl.algo.losses import finish_stats, merge_stats, policy_loss, policy_stats
from medrl.config.learner import LearnerConfig
from medrl.learner.update import _accumulate
from medrl.types import Experience

VOCABULARY = 11


def experience(lengths: list[int]) -> Experience:
    """Rows of these lengths, the first token of each being the prompt."""
    rng = np.random.default_rng(len(lengths))
    b, t = len(lengths), max(lengths)
    real = np.arange(t) < np.array(lengths)[:, None]
    response = real & (np.arange(t) > 0)

    def tokens(spread: float) -> np.ndarray:
        return np.where(response, rng.normal(0, spread, (b, t)), 0).astype(np.float32)

    return Experience(
        ids=np.where(real, rng.integers(0, VOCABULARY, (b, t)), 0), attention_mask=real, response_mask=response,
        engine_logprobs=tokens(1), ended=np.ones(b, bool), logprobs=tokens(0.1) - 2, ref_logprobs=tokens(1),
        values=tokens(1), rewards=tokens(1), advantages=tokens(1), returns=tokens(1),
        importance=np.ones((b, t), np.float32), scores=np.zeros(b, np.float32), raw_scores=np.zeros(b, np.float32))


class Rank:
    """One rank's gradient, of a table of logits by the token before; counts its passes."""

    def __init__(self, rank: int, world: int, **limits) -> None:
        self.config, self.rank, self.world, self.device = LearnerConfig(**limits), rank, world, torch.device("cpu")
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(VOCABULARY, VOCABULARY, dtype=torch.double, generator=generator).requires_grad_()
        self.passes: list[int] = []  # padded tokens of each

    def loss(self, rows: Experience, weights: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        ids = torch.tensor(rows.ids)
        before = ids.roll(1, 1).flatten()
        logprobs, entropy = (x.view(ids.shape) for x in token_stats(self.table[before], ids.flatten(), 0.7))
        old, advantages = torch.tensor(rows.logprobs), torch.tensor(rows.advantages)
        loss = policy_loss(logprobs, old, advantages, clip_low=0.2, clip_high=0.2) - 0.01 * entropy
        self.passes.append(ids.numel())
        sums = policy_stats(logprobs, old, advantages, weights > 0, clip_low=0.2, clip_high=0.2, loss=loss,
                            entropy=entropy)
        return (weights * loss).sum(), sums

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


def learn(lengths: list[int], world: int, **limits) -> tuple[list[Rank], torch.Tensor, dict[str, float]]:
    """The ranks, their gradients added up, and the metrics of them together."""
    config = SimpleNamespace(
        algorithm=SimpleNamespace(aggregation="sequence_mean"), sampling=SimpleNamespace(max_tokens=30))
    batch, ranks = experience(lengths), [Rank(rank, world, **limits) for rank in range(world)]
    order = np.random.default_rng(1).permutation(len(lengths))
    sums = [_accumulate(rank, batch, order, config, rank.loss) for rank in ranks]
    gradient = torch.stack([rank.table.grad for rank in ranks]).sum(0)
    return ranks, gradient, finish_stats(merge_stats(sums))


@given(
    lengths=st.lists(st.integers(1, 30), min_size=4, max_size=24), world=st.integers(1, 4), rows=st.integers(1, 8),
    spare=st.none() | st.integers(0, 60), stage=st.sampled_from([0, 2, 3]))
def test_shares_and_cuts_change_neither_gradient_nor_metrics(lengths, world, rows, spare, stage):
    tokens = None if spare is None else max(lengths) + spare
    _, expected, metrics = learn(lengths, 1, micro_batch_size=len(lengths))
    ranks, gradient, other = learn(
        lengths, world, micro_batch_size=rows, micro_batch_tokens=tokens, zero_stage=stage)
    assert (gradient - expected).norm() <= 1e-6 * expected.norm()
    assert other == pytest.approx(metrics, rel=1e-6, abs=1e-9)
    if tokens is not None:
        assert max(padded for rank in ranks for padded in rank.passes) <= tokens
    if stage:
        assert len({len(rank.passes) for rank in ranks}) == 1  # in step

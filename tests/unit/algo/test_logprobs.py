"""Token log-probs and entropies against float64 on the full logits, and against TRL."""

from __future__ import annotations

import pytest
import torch

from medrl.algo import logprobs as module
from medrl.algo.logprobs import token_logprobs, token_stats


@pytest.fixture(params=[1 << 24, 1, 29], ids=["one block", "a position a block", "uneven blocks"])
def blocks(request, monkeypatch):
    monkeypatch.setitem(module._BLOCK_ELEMENTS, "cpu", request.param)


def sample(dtype=torch.float32, n=18, v=11):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(n, v, generator=generator)
    return logits.to(dtype), torch.randint(0, v, (n,), generator=generator)


def brute_force(logits, tokens, temperature):
    """Python loops in float64: log-probs and entropies."""
    logprobs, entropies = torch.zeros(len(tokens), dtype=torch.float64), torch.zeros(len(tokens), dtype=torch.float64)
    for i, token in enumerate(tokens):
        weights = (logits[i].double() / temperature).exp()
        p = weights / weights.sum()
        logprobs[i] = p[token].log()
        entropies[i] = -sum(q * q.log() for q in p)
    return logprobs, entropies


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_against_float64(temperature):
    logits, ids = sample()
    logprobs, entropies = brute_force(logits, ids, temperature)
    ours, spread = token_stats(logits, ids, temperature)
    torch.testing.assert_close(ours.double(), logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(spread.double(), entropies, atol=1e-5, rtol=0)
    assert torch.equal(token_logprobs(logits, ids, temperature), ours)


@pytest.mark.heavy  # TRL takes seconds to import
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_against_trl(temperature):
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    logits, ids = sample()
    logprobs, entropies = token_stats(logits, ids, temperature)
    torch.testing.assert_close(logprobs, selective_log_softmax(logits, ids, temperature), atol=1e-6, rtol=0)
    torch.testing.assert_close(entropies, entropy_from_logits(logits / temperature), atol=1e-6, rtol=0)


def test_by_hand():
    logits = torch.tensor([[1.0, 1.0], [3.0, 1.0]]).log()  # ½ ½, ¾ ¼
    logprobs, entropies = token_stats(logits, torch.tensor([0, 1]), 1.0)
    torch.testing.assert_close(logprobs, torch.tensor([0.5, 0.25]).log())
    torch.testing.assert_close(entropies, torch.tensor([0.693147, 0.562335]))


@pytest.mark.usefixtures("blocks")
def test_gradients_are_exact():
    logits, ids = sample(torch.float64, n=6, v=5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_logprobs(x, ids, 0.7), (logits,))
    assert torch.autograd.gradcheck(lambda x: token_stats(x, ids, 0.7), (logits,))
    assert torch.autograd.gradcheck(lambda x: token_stats(x, ids, 0.7)[1], (logits,))


def test_bf16_logits_are_worked_on_in_float32():
    logits, ids = sample(torch.bfloat16)
    logprobs, entropies = brute_force(logits, ids, 0.9)  # of the rounded logits: only our own error counts
    ours, spread = token_stats(logits, ids, 0.9)
    assert ours.dtype == spread.dtype == torch.float32
    torch.testing.assert_close(ours.double(), logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(spread.double(), entropies, atol=1e-5, rtol=0)


def test_bf16_gradients_reach_the_logits():
    logits, ids = sample(torch.bfloat16)
    logits.requires_grad_()
    token_logprobs(logits, ids, 1.0).sum().backward()
    expected = torch.nn.functional.one_hot(ids, logits.shape[-1]) - logits.detach().float().softmax(-1)
    torch.testing.assert_close(logits.grad.float(), expected, atol=1e-2, rtol=0)


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    logprobs, entropies = token_stats(logits, torch.tensor([1]), 1.0)
    assert logprobs.item() == -2e4 and entropies.item() == 0.0


def test_no_position_at_all_is_no_error():
    logits, tokens = torch.zeros(0, 7), torch.zeros(0, dtype=torch.long)
    assert [x.shape for x in token_stats(logits, tokens, 1.0)] == [(0,), (0,)]

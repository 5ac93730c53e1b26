"""Token log-probs and entropies against float64 on the full logits, and against TRL."""

from __future__ import annotations

import pytest
import torch

from medrl.algo import logprobs as module
from medrl.algo.logprobs import token_entropy, token_logprobs


@pytest.fixture(params=[1 << 24, 1, 29], ids=["one chunk", "a position a chunk", "uneven chunks"])
def chunked(request, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", request.param)


def sample(dtype=torch.float32, b=3, t=6, v=11):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(b, t, v, generator=generator)
    return logits.to(dtype), torch.randint(0, v, (b, t), generator=generator)


def brute_force(logits, ids, temperature):
    """Python loops in float64: log-probs and entropies, both at the token's own position."""
    b, t, _ = logits.shape
    logprobs, entropies = torch.zeros(b, t, dtype=torch.float64), torch.zeros(b, t, dtype=torch.float64)
    for row in range(b):
        for i in range(1, t):
            weights = (logits[row, i - 1].double() / temperature).exp()
            p = weights / weights.sum()
            logprobs[row, i] = p[ids[row, i]].log()
            entropies[row, i] = -sum(q * q.log() for q in p)
    return logprobs, entropies


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_against_float64(temperature):
    logits, ids = sample()
    logprobs, entropies = brute_force(logits, ids, temperature)
    torch.testing.assert_close(token_logprobs(logits, ids, temperature).double(), logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(token_entropy(logits, temperature).double(), entropies, atol=1e-5, rtol=0)


@pytest.mark.heavy  # TRL takes seconds to import
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_against_trl(temperature):
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    logits, ids = sample()
    ours = token_logprobs(logits, ids, temperature)[:, 1:]
    torch.testing.assert_close(ours, selective_log_softmax(logits[:, :-1], ids[:, 1:], temperature), atol=1e-6, rtol=0)
    ours = token_entropy(logits, temperature)[:, 1:]
    torch.testing.assert_close(ours, entropy_from_logits(logits[:, :-1] / temperature), atol=1e-6, rtol=0)


def test_by_hand():
    logits = torch.tensor([[[1.0, 1.0], [3.0, 1.0], [9.0, 1.0]]]).log()  # ½ ½, ¾ ¼; the last predicts nothing here
    logprobs = token_logprobs(logits, torch.tensor([[1, 0, 1]]), 1.0)
    torch.testing.assert_close(logprobs, torch.tensor([[1.0, 0.5, 0.25]]).log())
    entropy = token_entropy(logits, 1.0)
    torch.testing.assert_close(entropy, torch.tensor([[0.0, 0.693147, 0.562335]]))


@pytest.mark.usefixtures("chunked")
def test_gradients_are_exact():
    logits, ids = sample(torch.float64, b=2, t=4, v=5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_logprobs(x, ids, 0.7), (logits,), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: token_entropy(x, 0.7), (logits,), fast_mode=True)


def test_bf16_logits_are_worked_on_in_float32():
    logits, ids = sample(torch.bfloat16)
    logprobs, entropies = brute_force(logits, ids, 0.9)  # of the rounded logits: only our own error counts
    ours = token_logprobs(logits, ids, 0.9)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(token_entropy(logits, 0.9).double(), entropies, atol=1e-5, rtol=0)


def test_bf16_gradients_reach_the_logits():
    logits, ids = sample(torch.bfloat16)
    logits.requires_grad_()
    token_logprobs(logits, ids, 1.0).sum().backward()
    expected = torch.nn.functional.one_hot(ids[:, 1:], logits.shape[-1]) - logits.detach().float()[:, :-1].softmax(-1)
    torch.testing.assert_close(logits.grad[:, :-1].float(), expected, atol=1e-2, rtol=0)
    assert (logits.grad[:, -1] == 0).all()


def test_logits_of_other_rows_and_later_positions_do_not_matter():
    logits, ids = sample()
    changed = logits.clone()
    changed[1:] = 7.0
    changed[0, 3:] = -7.0
    torch.testing.assert_close(token_logprobs(changed, ids, 1.0)[0, :4], token_logprobs(logits, ids, 1.0)[0, :4])


def test_huge_logits_stay_finite():
    logits = torch.tensor([[[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]]])
    assert token_logprobs(logits, torch.tensor([[0, 1]]), 1.0)[0, 1].item() == -2e4
    assert token_entropy(logits, 1.0)[0, 1].item() == 0.0


def test_a_single_position_has_nothing_to_predict():
    logits, ids = sample(t=1)
    assert token_logprobs(logits, ids, 1.0).tolist() == [[0.0]] * 3

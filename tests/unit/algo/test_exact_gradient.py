"""The clipped surrogate's gradient is the gradient of J = E[r] − β·KL, exactly, on a policy small enough to enumerate.

Vocabulary 3 (token 0 ends the answer), at most 4 tokens: 31 sequences, one table of logits per prefix. Nothing is
sampled: every sequence enters with its probability. float64, τ = 1, γ = λ = 1, V = 0, no whitening, k1 in the reward.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from medrl.algo.advantages import gae
from medrl.algo.kl import kl_estimate
from medrl.algo.logprobs import token_logprobs
from medrl.algo.losses import policy_loss
from medrl.algo.rewards import token_rewards

END, LIMIT, BETA = 0, 4, 0.37
PREFIXES = [p for n in range(LIMIT) for p in itertools.product((1, 2), repeat=n)]
SEQUENCES = [(*p, END) for p in PREFIXES] + list(itertools.product((1, 2), repeat=LIMIT))


def layout(left_padding):
    """ids, response mask [31, T] and the prefix whose logits stand at each position; one prompt token, padded."""
    width = LIMIT + 3
    ids = torch.full((len(SEQUENCES), width), 2)
    mask = torch.zeros(len(SEQUENCES), width, dtype=torch.bool)
    states = torch.zeros(len(SEQUENCES), width, dtype=torch.long)
    for row, sequence in enumerate(SEQUENCES):
        start = width - len(sequence) if left_padding else 1
        for t, token in enumerate(sequence):
            ids[row, start + t], mask[row, start + t] = token, True
            states[row, start + t - 1] = PREFIXES.index(sequence[:t])
    return ids, mask, states


CHOICES = torch.zeros(len(SEQUENCES), len(PREFIXES), 3, dtype=torch.float64)  # 1 where a sequence takes a token
for row, sequence in enumerate(SEQUENCES):
    for t, token in enumerate(sequence):
        CHOICES[row, PREFIXES.index(sequence[:t]), token] = 1


def sequence_logprobs(table):
    """Each sequence's log-prob [31] as a product of table entries, independent of the code under test."""
    return torch.einsum("sij,ij->s", CHOICES, table.log_softmax(-1))


def make_problem():
    generator = torch.Generator().manual_seed(5)
    tables = torch.randn(2, len(PREFIXES), 3, generator=generator, dtype=torch.float64)
    scores = 2 * torch.randn(len(SEQUENCES), generator=generator, dtype=torch.float64)
    return tables[0].clone().requires_grad_(), tables[1], scores


def exact_objective(policy, reference, scores):
    new, ref = sequence_logprobs(policy), sequence_logprobs(reference)
    return (new.exp() * (scores - BETA * (new - ref))).sum()


def aligned(table, states, ids, mask):
    """Log-probs at the tokens' own positions [B, T]: the state before a token stands one position earlier."""
    logprobs = token_logprobs(table[states[:, :-1].flatten()], ids[:, 1:].flatten(), 1.0).view(len(ids), -1)
    return torch.where(mask, torch.nn.functional.pad(logprobs, (1, 0)), 0.0)


def test_the_31_sequences_are_all_there_are():
    policy, _, _ = make_problem()
    assert len(set(SEQUENCES)) == 31
    assert sequence_logprobs(policy).exp().sum().item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("left_padding", [False, True])
def test_surrogate_gradient_is_the_exact_gradient(left_padding):
    policy, reference, scores = make_problem()
    ids, mask, states = layout(left_padding)
    new, ref = (aligned(table, states, ids, mask) for table in (policy, reference))
    old = new.detach()
    rewards = token_rewards(scores, kl_estimate(old, ref, "k1"), mask, BETA)
    advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    per_token = policy_loss(new, old, advantages, clip_low=0.2, clip_high=0.2)
    probabilities = old.sum(1, keepdim=True).exp()
    surrogate = (probabilities * per_token).sum()

    ours, = torch.autograd.grad(surrogate, policy)
    exact, = torch.autograd.grad(-exact_objective(policy, reference, scores), policy)
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(ours, exact, atol=1e-12, rtol=0)


def test_any_baseline_of_the_state_leaves_the_gradient_as_it_is():
    """V enters δ_t before token t is chosen, so with λ = 1 the critic cannot bias the gradient."""
    policy, reference, scores = make_problem()
    ids, mask, states = layout(left_padding=False)
    new, ref = (aligned(table, states, ids, mask) for table in (policy, reference))
    old = new.detach()
    critic = torch.randn(len(PREFIXES), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    values = torch.where(mask, critic[states].roll(1, 1), 0.0)  # V at the state before the token
    rewards = token_rewards(scores, kl_estimate(old, ref, "k1"), mask, BETA)
    advantages, _ = gae(rewards, values, mask, 1.0, 1.0)
    surrogate = (old.sum(1, keepdim=True).exp() * policy_loss(new, old, advantages, clip_low=0.2, clip_high=0.2)).sum()
    ours, = torch.autograd.grad(surrogate, policy)
    exact, = torch.autograd.grad(-exact_objective(policy, reference, scores), policy)
    torch.testing.assert_close(ours, exact, atol=1e-12, rtol=0)


def test_the_closed_form_optimum_is_the_best_policy():
    """max J = β·log E_ref[e^{r/β}], reached by π* ∝ ρ·e^{r/β}: the bound the learning benchmark scores runs against."""
    policy, reference, scores = make_problem()
    weights = (sequence_logprobs(reference) + scores / BETA).exp()
    best = BETA * weights.sum().log()
    optimum = torch.einsum("sij,s->ij", CHOICES, weights).log().requires_grad_()
    reached = exact_objective(optimum, reference, scores)
    assert reached.item() == pytest.approx(best.item(), abs=1e-12)
    assert torch.autograd.grad(reached, optimum)[0].abs().max() < 1e-12
    generator = torch.Generator().manual_seed(2)
    for scale in (0.01, 0.1, 1.0):
        nudge = scale * torch.randn(optimum.shape, generator=generator, dtype=torch.float64)
        assert exact_objective(optimum.detach() + nudge, reference, scores) < best
    assert exact_objective(policy, reference, scores) < best

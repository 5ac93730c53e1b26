"""KL estimators against exact sums on a small vocabulary, and the controllers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medrl.algo.kl import AdaptiveKl, FixedKl, kl_estimate, make_kl_controller
from medrl.config.algorithm import KlConfig


def two_distributions(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 6, generator=generator, dtype=dtype)
    return logits[0].log_softmax(-1), logits[1].log_softmax(-1)


def exact_kl(p, q):
    return sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


def test_by_hand():
    new, ref = torch.tensor([[0.0, math.log(0.5)]]), torch.tensor([[0.0, math.log(0.25)]])  # x = 0, ln 2
    assert kl_estimate(new, ref, "k1").tolist()[0] == pytest.approx([0, math.log(2)])
    assert kl_estimate(new, ref, "k2").tolist()[0] == pytest.approx([0, math.log(2) ** 2 / 2])
    assert kl_estimate(new, ref, "k3").tolist()[0] == pytest.approx([0, 0.5 - 1 + math.log(2)])


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_mean_under_the_policy_is_the_kl(estimator):
    p, q = two_distributions()
    assert (p.exp() * kl_estimate(p, q, estimator)).sum().item() == pytest.approx(exact_kl(p, q), abs=1e-14)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_monte_carlo_agrees_with_the_exact_sum(estimator):
    p, q = two_distributions()
    tokens = torch.multinomial(p.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    samples = kl_estimate(p[tokens], q[tokens], estimator)
    error = samples.std().item() / math.sqrt(len(tokens))
    assert samples.mean().item() == pytest.approx(exact_kl(p, q), abs=4 * error)


def test_k3_is_never_negative_and_never_overflows():
    x = torch.linspace(-100, 100, 2001)
    k3 = kl_estimate(x, torch.zeros_like(x), "k3")
    assert (k3 >= 0).all() and k3.isfinite().all()
    assert kl_estimate(torch.tensor([1e-4]), torch.zeros(1), "k3").item() == pytest.approx(5e-9, rel=1e-3)


def gradient_of_mean(estimator):
    """Gradient of the detached-sample mean of an estimator, summed exactly over the vocabulary; and that of the KL."""
    p, q = two_distributions()
    logits = p.clone().requires_grad_()
    new = logits.log_softmax(-1)
    sampled = (new.detach().exp() * kl_estimate(new, q, estimator)).sum()
    kl = (new.exp() * (new - q)).sum()
    return torch.autograd.grad(sampled, logits, retain_graph=True)[0], torch.autograd.grad(kl, logits)[0]


def test_as_a_loss_only_k2_has_the_gradient_of_the_kl():
    sampled, exact = gradient_of_mean("k2")
    torch.testing.assert_close(sampled, exact, atol=1e-14, rtol=0)
    for estimator in ("k1", "k3"):
        sampled, exact = gradient_of_mean(estimator)
        assert (sampled - exact).abs().max() > 0.05


def test_in_the_reward_only_k1_has_the_gradient_of_the_kl():
    p, q = two_distributions()
    for estimator in ("k1", "k2", "k3"):
        logits = p.clone().requires_grad_()
        new = logits.log_softmax(-1)
        surrogate = (new.exp() * kl_estimate(new, q, estimator).detach()).sum()
        kl = (new.exp() * (new - q)).sum()
        gap = torch.autograd.grad(surrogate, logits, retain_graph=True)[0] - torch.autograd.grad(kl, logits)[0]
        if estimator == "k1":
            assert gap.abs().max() < 1e-14
        else:
            assert gap.abs().max() > 0.01


def test_bf16_differences_are_taken_in_float32():
    new, ref = torch.tensor([-100.0], dtype=torch.bfloat16), torch.tensor([-0.125], dtype=torch.bfloat16)
    assert kl_estimate(new, ref, "k1").item() == -99.875  # not a bf16 number


def test_adaptive_by_hand():
    controller = AdaptiveKl(coef=0.1, target=6.0, horizon=1000)
    controller.update(kl_sum_mean=6.6, n_samples=50)  # e = 0.1
    assert controller.coef == pytest.approx(0.1 * 1.005)
    controller.update(kl_sum_mean=60.0, n_samples=50)  # e clipped to 0.2
    assert controller.coef == pytest.approx(0.1 * 1.005 * 1.01)
    controller.update(kl_sum_mean=0.0, n_samples=50)  # e clipped to −0.2
    assert controller.coef == pytest.approx(0.1 * 1.005 * 1.01 * 0.99)


def test_adaptive_holds_the_coefficient_at_the_target():
    controller = AdaptiveKl(coef=0.1, target=6.0, horizon=1000)
    controller.update(kl_sum_mean=6.0, n_samples=500)
    assert controller.coef == 0.1


def test_state_goes_through_a_checkpoint():
    controller = AdaptiveKl(coef=0.1, target=6.0, horizon=100)
    controller.update(9.0, 10)
    resumed = AdaptiveKl(coef=0.1, target=6.0, horizon=100)
    resumed.load(controller.state())
    for one in (controller, resumed):
        one.update(3.0, 10)
    assert resumed.coef == controller.coef != 0.1


def test_fixed_stays():
    controller = FixedKl(0.3)
    controller.update(1e9, 1000)
    assert controller.coef == 0.3


def test_the_config_names_the_controller():
    assert type(make_kl_controller(KlConfig(coef=0.2))) is FixedKl
    adaptive = make_kl_controller(KlConfig(coef=0.2, controller="adaptive", target=3.0, horizon=7))
    assert type(adaptive) is AdaptiveKl
    adaptive.update(3.3, 7)  # e = 0.1, one whole horizon
    assert adaptive.coef == pytest.approx(0.22)

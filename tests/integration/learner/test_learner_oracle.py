"""One update against a plain torch loop written from the formulas, with nothing of medrl's learner or algo in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from .conftest import HEAD

pytestmark = pytest.mark.timeout(1200)  # the first test of the session waits for all ranks

BETA, SEED, TEMPERATURE, ENTROPY_COEF = 0.1, 3, 0.7, 0.01
EPSILON, VALUE_CLIP = 0.2, 0.2


def rows_of_each_update(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(SEED)
    return [rows for _ in range(2) for rows in np.array_split(rng.permutation(n), 2)]


def learning_rates() -> list[float]:
    """Two steps of warm-up to 1e-3, then a straight line that reaches 0 at step 100."""
    return [1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3 * 97 / 98]


def optimise(parameters: list[torch.Tensor], n: int, loss_of, apart: list[torch.Tensor] | None = None) -> list[float]:
    """Gradient norms of the four updates: AdamW, norm clipped at 0.5. `apart` learn at a constant rate of 5e-3."""
    every, norms = [*parameters, *(apart or [])], []
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.999), eps=1e-5, weight_decay=0.0)
    if apart:
        optimizer.add_param_group({"params": apart, "lr": 5e-3})
    for rows, lr in zip(rows_of_each_update(n), learning_rates(), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss_of(rows).backward()
        norms.append(sum(float(p.grad.double().square().sum()) for p in every) ** 0.5)
        for p in every:
            p.grad.mul_(min(1.0, 0.5 / norms[-1]))
        optimizer.step()
    return norms


def assert_same_learning(start: dict, expected: dict, got: dict) -> None:
    """The change of every parameter, relative to the largest change."""
    assert expected.keys() == got.keys()
    for name in expected:
        change = expected[name] - start[name]
        tolerance = 2e-4 * max(1e-3, float(change.abs().max()))
        torch.testing.assert_close(got[name] - start[name], change, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("value_head", [False, True])
def test_policy_update_equals_a_plain_loop(one_rank, experience, folder, value_head):
    """With a value head on the policy, ½·(its clipped squared error) is added to the loss of each token."""
    start, _, metrics, after = one_rank["full-head" if value_head else "full"][:4]
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    head = [torch.zeros(64, requires_grad=True), torch.zeros(1, requires_grad=True)] if value_head else []
    ids, mask = torch.tensor(experience.ids), torch.tensor(experience.response_mask)
    old, ref = torch.tensor(experience.logprobs), torch.tensor(experience.ref_logprobs)
    old_values, returns = torch.tensor(experience.values), torch.tensor(experience.returns)
    advantages, importance = torch.tensor(experience.advantages), torch.tensor(experience.importance)

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        total, tokens = torch.zeros(()), 0
        for b in rows:
            length = int(experience.attention_mask[b].sum())
            out = model(ids[b : b + 1, :length], output_hidden_states=True)
            distribution = torch.log_softmax(out.logits[0] / TEMPERATURE, -1)
            for t in torch.nonzero(mask[b])[:, 0].tolist():
                if head:
                    v = out.hidden_states[-1][0, t - 1] @ head[0] + head[1][0]
                    clipped = v.clamp(old_values[b, t] - VALUE_CLIP, old_values[b, t] + VALUE_CLIP)
                    worst = torch.maximum((v - returns[b, t]) ** 2, (clipped - returns[b, t]) ** 2)
                    total = total + HEAD["coef"] * worst / 2
                before = distribution[t - 1]
                logprob, a = before[ids[b, t]], advantages[b, t]
                ratio = torch.exp(logprob - old[b, t])
                surrogate = torch.maximum(-a * ratio, -a * ratio.clamp(1 - EPSILON, 1 + EPSILON)) * importance[b, t]
                entropy = -(before.exp() * before).sum()
                total = total + surrogate - ENTROPY_COEF * entropy + BETA * (logprob - ref[b, t]) ** 2 / 2
                tokens += 1
        return total / tokens

    norms = optimise(list(model.parameters()), len(ids), loss_of, head)
    expected = {name: p.detach() for name, p in model.named_parameters()}
    if head:
        expected = {f"policy.{name}": p for name, p in expected.items()} | {
            "value_head.weight": head[0].detach()[None], "value_head.bias": head[1].detach()}
    assert_same_learning(start, expected, after)
    assert metrics["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert metrics["grad_norm_max"] == pytest.approx(max(norms), rel=1e-4)
    assert metrics["learning_rate"] == pytest.approx(1e-3 * 96 / 98)


def test_critic_values_and_update_equal_a_plain_loop(one_rank, experience, folder):
    start, (values, last), metrics, after = one_rank["critic-full"]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward")
    calibration = json.loads((folder / "reward" / "calibration.json").read_text())
    weight = (model.score.weight.detach() / calibration["std"]).requires_grad_()
    bias = torch.tensor([-calibration["mean"] / calibration["std"]], requires_grad=True)
    ids, mask = torch.tensor(experience.ids), torch.tensor(experience.response_mask)
    old, returns = torch.tensor(experience.values), torch.tensor(experience.returns)

    def scalars(b: int) -> torch.Tensor:
        hidden = model.model(ids[b : b + 1, : int(experience.attention_mask[b].sum())]).last_hidden_state[0]
        return (hidden @ weight.T + bias)[:, 0]

    with torch.no_grad():
        for b in range(len(ids)):
            expected = scalars(b)
            at = torch.nonzero(mask[b])[:, 0]
            np.testing.assert_allclose(values[b, at], expected[at - 1], atol=1e-5)
            np.testing.assert_allclose(last[b], expected[-1], atol=1e-5)
    assert not values[~experience.response_mask].any()

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        total, tokens = torch.zeros(()), 0
        for b in rows:
            v = scalars(b)
            for t in torch.nonzero(mask[b])[:, 0].tolist():
                clipped = v[t - 1].clamp(old[b, t] - VALUE_CLIP, old[b, t] + VALUE_CLIP)
                total = total + torch.maximum((v[t - 1] - returns[b, t]) ** 2, (clipped - returns[b, t]) ** 2) / 2
                tokens += 1
        return total / tokens

    trunk = {f"backbone.{name}": p for name, p in model.model.named_parameters()}
    own = trunk | {"head.weight": weight, "head.bias": bias}
    norms = optimise(list(own.values()), len(ids), loss_of)
    assert_same_learning(start, {name: p.detach() for name, p in own.items()}, after)
    assert metrics["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)


def test_a_critic_from_the_policy_starts_at_zero(one_rank):
    ((values, last),) = one_rank["critic-policy"]
    assert not values.any() and not last.any()

from __future__ import annotations

import pytest
import torch

from medrl.errors import ModelError
from medrl.models import head
from medrl.models.forward import actor_critic_forward, policy_forward, value_forward
from medrl.models.scalar_head import ScalarModel
from medrl.models.value_head import ActorCritic
from tests.unit.lora.tiny_families import tiny_model

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "mixtral"]
LENGTHS = [(3, 6), (5, 2), (1, 1)]  # prompt and response tokens of each row


def rows(left: int, right: int):
    """The same three sequences with `left` and `right` more columns of padding; where each one's tokens stand."""
    generator = torch.Generator().manual_seed(3)
    width = max(p + r for p, r in LENGTHS)
    ids = torch.zeros(len(LENGTHS), left + width + right, dtype=torch.long)
    attention, response, places = torch.zeros_like(ids), torch.zeros_like(ids), []
    for i, (p, r) in enumerate(LENGTHS):
        # with padding on the left the rows end together, with padding on the right they start together
        start = left + width - p - r if left else 0
        ids[i, start : start + p + r] = torch.randint(3, 97, (p + r,), generator=generator)
        attention[i, start : start + p + r] = 1
        response[i, start + p : start + p + r] = 1
        places.append(slice(start, start + p + r))
    return ids, attention, response, places


def unpadded(array, places):
    return torch.cat([array[i, place] for i, place in enumerate(places)])


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_equal_a_float64_softmax_of_the_lone_sequence(family):
    model = tiny_model(family)
    ids, attention, response, places = rows(0, 2)
    logprobs, entropy = policy_forward(model, ids, attention, response, 0.7, entropy=True)
    for i, (place, (p, r)) in enumerate(zip(places, LENGTHS, strict=True)):
        sequence = ids[i, place][None]
        scaled = model(input_ids=sequence, use_cache=False).logits[0].double() / 0.7
        table = scaled - scaled.exp().sum(-1, keepdim=True).log()
        expected = torch.zeros(p + r, dtype=torch.double)
        spread = torch.zeros(p + r, dtype=torch.double)
        for t in range(p, p + r):
            expected[t] = table[t - 1, sequence[0, t]]
            spread[t] = -(table[t - 1].exp() * table[t - 1]).sum()
        torch.testing.assert_close(logprobs[i, place].double(), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy[i, place].double(), spread, atol=1e-5, rtol=0)
    assert logprobs[response == 0].abs().max() == 0 and entropy[response == 0].abs().max() == 0
    assert logprobs.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left,right", [(0, 7), (1, 0), (5, 0)])
def test_padding_changes_no_logprob_and_no_gradient(family, left, right):
    model = tiny_model(family)
    weight = model.get_input_embeddings().weight

    def run(left, right):
        ids, attention, response, places = rows(left, right)
        logprobs, _ = policy_forward(model, ids, attention, response, 1.0, entropy=False)
        gradient = torch.autograd.grad(logprobs.sum(), weight)[0]
        return unpadded(logprobs, places), gradient[3:]

    for got, expected in zip(run(left, right), run(0, 0), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_bf16_model_gives_float32_numbers():
    model = tiny_model("qwen3").bfloat16()
    ids, attention, response, _ = rows(0, 1)
    logprobs, entropy = policy_forward(model, ids, attention, response, 1.0, entropy=True)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert torch.isfinite(logprobs).all()


def test_no_entropy_unless_asked():
    ids, attention, response, _ = rows(0, 0)
    assert policy_forward(tiny_model("llama"), ids, attention, response, 1.0, entropy=False)[1] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_works_only_where_a_response_token_is_predicted(family):
    model = tiny_model(family)
    ids, attention, response, _ = rows(0, 3)
    seen = []
    watch = model.get_output_embeddings().register_forward_hook(lambda _m, _i, logits: seen.append(logits.shape[:-1]))
    policy_forward(model, ids, attention, response, 1.0, entropy=True)
    watch.remove()
    assert seen == [(int(response.sum()),)]
    assert model(input_ids=ids, use_cache=False).logits.shape[:2] == ids.shape  # the model is as it was


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_head_that_is_not_called_as_a_module_gives_the_same_numbers(family, monkeypatch):
    model = tiny_model(family)
    batch = rows(0, 2)[:3]
    expected = policy_forward(model, *batch, 0.8, entropy=True)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: torch.nn.Identity())
    for got, plain in zip(policy_forward(model, *batch, 0.8, entropy=True), expected, strict=True):
        torch.testing.assert_close(got, plain, atol=1e-5, rtol=0)


def test_a_row_without_response_tokens_has_only_zeros():
    model = tiny_model("qwen3")
    ids, attention, response, _ = rows(0, 0)
    response[:] = 0
    logprobs, entropy = policy_forward(model, ids, attention, response, 1.0, entropy=True)
    assert logprobs.shape == ids.shape and logprobs.abs().max() == 0 and entropy.abs().max() == 0


@pytest.mark.parametrize("left,right", [(0, 0), (0, 4), (3, 0)])
def test_values_stand_one_before_their_token(left, right):
    model = tiny_model("qwen3", task="scalar")
    scalar = ScalarModel(model.base_model, model.score)
    ids, attention, response, places = rows(left, right)
    values, last = value_forward(scalar, ids, attention, response)
    for i, (place, (p, r)) in enumerate(zip(places, LENGTHS, strict=True)):
        hidden = model.base_model(input_ids=ids[i, place][None]).last_hidden_state[0]
        states = [(model.score.weight[0] @ hidden[t]).item() for t in range(p + r)]
        expected = torch.tensor([states[t - 1] if t >= p else 0.0 for t in range(p + r)])
        torch.testing.assert_close(values[i, place], expected, atol=1e-5, rtol=1e-4)
        assert last[i].item() == pytest.approx(states[-1], abs=1e-5)
    assert values[response == 0].abs().max() == 0


def actor_critic(family: str) -> ActorCritic:
    both = ActorCritic(tiny_model(family))
    torch.manual_seed(1)
    torch.nn.init.normal_(both.value_head.weight)
    torch.nn.init.normal_(both.value_head.bias)
    return both


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [head.CHUNK_ELEMENTS, 3 * 97])
def test_one_pass_gives_the_logprobs_and_values_of_two(family, chunk, monkeypatch):
    """Gradients, too: those of the sum of both are the sum of those of each."""
    both = actor_critic(family)
    apart = ScalarModel(both.policy.base_model, both.value_head)
    batch = rows(0, 2)[:3]

    def gradients(*losses):
        weight = both.policy.get_input_embeddings().weight
        return [torch.autograd.grad(loss, [weight, *apart.head.parameters()], allow_unused=True) for loss in losses]

    two = policy_forward(both.policy, *batch, 0.7, entropy=True) + value_forward(apart, *batch)
    of_policy, of_values = gradients(two[0].sum() + two[1].sum(), two[2].square().sum() + two[3].sum())
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    (logprobs, entropies), (values, last) = actor_critic_forward(both, *batch, 0.7, entropy=True)
    for got, expected in zip((logprobs, entropies, values, last), two, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    ((trunk, *of_head),) = gradients(logprobs.sum() + entropies.sum() + values.square().sum() + last.sum())
    for got, expected in ((trunk, of_policy[0] + of_values[0]), *zip(of_head, of_values[1:], strict=True)):
        assert (got - expected).norm() <= 1e-5 * expected.norm() > 0


def test_a_new_value_head_values_everything_at_zero_and_changes_no_logprob():
    policy = tiny_model("qwen3")
    batch = rows(3, 0)[:3]
    (logprobs, entropies), (values, last) = actor_critic_forward(ActorCritic(policy), *batch, 1.0, entropy=False)
    assert entropies is None and not values.any() and not last.any()
    assert torch.equal(logprobs, policy_forward(policy, *batch, 1.0, entropy=False)[0])


def test_a_value_head_needs_an_output_head_that_is_called(monkeypatch):
    both = actor_critic("llama")
    monkeypatch.setattr(both.policy, "get_output_embeddings", lambda: torch.nn.Identity())
    with pytest.raises(ModelError, match="LlamaForCausalLM shows nobody what its output head reads"):
        actor_critic_forward(both, *rows(0, 2)[:3], 0.8, entropy=True)

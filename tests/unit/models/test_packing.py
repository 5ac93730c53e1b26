"""Sequences in one row without padding against the same sequences in rows of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.errors import ConfigError
from medrl.models import head
from medrl.models.forward import actor_critic_forward, policy_forward, value_forward
from medrl.models.packing import check_packing
from medrl.models.scalar_head import ScalarModel
from medrl.models.value_head import ActorCritic
from tests.unit.lora.tiny_families import tiny_model

APART = ["llama", "qwen3", "gemma2", "gpt2", "mixtral", "deepseek_v3"]
MIXED = ["opt", "falcon", "bloom", "qwen3_next", "gpt_oss"]


def batch(prompts: list[int], answers: list[int], left: bool):
    """Rows of so many prompt and answer tokens, padded on one side: ids, attention and response mask."""
    lengths, starts = torch.tensor(prompts) + torch.tensor(answers), torch.tensor(prompts)[:, None]
    position = torch.arange(int(lengths.max())).expand(len(lengths), -1)
    if left:
        position = position - (position.shape[1] - lengths)[:, None]
    real = (position >= 0) & (position < lengths[:, None])
    ids = torch.randint(3, 97, real.shape, generator=torch.Generator().manual_seed(1))
    return ids * real, real, real & (position >= starts)


def learned(model, forward) -> list[torch.Tensor]:
    """Results, and the gradient of a mixture of them for everything that trains."""
    model.zero_grad()
    results = forward()
    sum((torch.linspace(0.5, 1.5, x.numel()) * x.flatten()).sum() for x in results).backward()
    return [x.detach() for x in results] + [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=0)


rows = st.integers(1, 5).flatmap(lambda n: st.tuples(
    st.lists(st.integers(1, 6), min_size=n, max_size=n), st.lists(st.integers(0, 8), min_size=n, max_size=n)))


@pytest.fixture(scope="module")
def qwen():
    return tiny_model("qwen3")


@settings(max_examples=25, deadline=None)
@given(shape=rows, left=st.booleans())
def test_packing_changes_no_logprob_entropy_or_gradient(qwen, shape, left):
    inputs = batch(*shape, left)
    packed, padded = (
        learned(qwen, lambda packed=packed: policy_forward(qwen, *inputs, 0.7, entropy=True, packed=packed))
        for packed in (True, False))
    assert_same(packed, padded)


@pytest.mark.parametrize("family", APART)
@pytest.mark.parametrize("left", [False, True])
def test_packing_keeps_families_logprobs_and_values(family, left):
    inputs = batch([3, 5, 1, 2], [6, 2, 9, 0], left)
    model = tiny_model(family)
    assert_same(*(learned(model, lambda p=p: policy_forward(model, *inputs, 1.0, entropy=True, packed=p))
                  for p in (True, False)))
    scalar = ScalarModel(tiny_model(family).base_model, torch.nn.Linear(32, 1))
    both = ActorCritic(model)
    torch.nn.init.normal_(both.value_head.weight)
    assert_same(*(learned(both, lambda p=p: sum(actor_critic_forward(both, *inputs, 1.0, entropy=True, packed=p), ()))
                  for p in (True, False)))
    assert_same(*(learned(scalar, lambda p=p: value_forward(scalar, *inputs, packed=p)) for p in (True, False)))


def test_packed_rows_go_through_the_head_in_chunks(monkeypatch):
    model, inputs = tiny_model("qwen3"), batch([3, 5, 1], [6, 2, 9], False)
    expected = learned(model, lambda: policy_forward(model, *inputs, 0.7, entropy=True))
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 4 * 97)
    assert_same(learned(model, lambda: policy_forward(model, *inputs, 0.7, entropy=True, packed=True)), expected)


@pytest.mark.parametrize("family", APART + MIXED)
def test_models_whose_sequences_would_see_each_other_are_refused(family):
    model = tiny_model(family)

    def outputs(ids, real, packed):
        return policy_forward(model, ids, real, real, 1.0, entropy=False, packed=packed)[0][real]

    words = {"dtype": "float32", "setting": "learner.packing", "model": family}
    if family in APART:
        check_packing(outputs, 97, **words)
    else:
        with pytest.raises(ConfigError, match=f"learner.packing: {family} lets .* see each other"):
            check_packing(outputs, 97, **words)

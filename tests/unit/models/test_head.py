"""The output head in chunks against the head on everything at once: numbers, gradients, and what is never made."""

from __future__ import annotations

import logging

import peft
import pytest
import torch

from medrl.models import head
from medrl.models.forward import policy_forward
from tests.unit.lora.tiny_families import CONFIGS, tiny_model

VOCABULARY, ROWS_A_CHUNK = 97, 4
# Those that scale or cap their logits, by as much as the last figure says, and settings with which it shows.
FINISHING = {
    "gemma2": {"final_logit_softcapping": 2.0}, "gemma3_text": {"final_logit_softcapping": 2.0},
    "gemma4_text": {"final_logit_softcapping": 2.0}, "granite": {"logits_scaling": 3.0}, "cohere": {"logit_scale": 0.3},
}


@pytest.fixture
def in_chunks(monkeypatch):
    """Call it, and heads work on few positions at a time."""
    return lambda: monkeypatch.setattr(head, "CHUNK_ELEMENTS", ROWS_A_CHUNK * VOCABULARY)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three rows of 9, 7 and 3 tokens with 13 response tokens: ids, attention and response mask."""
    generator = torch.Generator().manual_seed(5)
    position, lengths = torch.arange(10), torch.tensor([[9], [7], [3]])
    real = position < lengths
    return torch.randint(3, VOCABULARY, (3, 10), generator=generator) * real, real, real & (position >= 2)


def learned(model, temperature: float = 0.7) -> dict[str, torch.Tensor]:
    """Log-probs, entropies and the gradients of a mixture of both, for every parameter that trains."""
    logprobs, entropies = policy_forward(model, *batch(), temperature, entropy=True)
    weights = torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)
    model.zero_grad()
    (weights * logprobs + 0.1 * weights.square() * entropies).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logprobs": logprobs.detach(), "entropies": entropies.detach()} | gradients


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Log-probs and entropies to 1e-6, the gradient of everything that trains to 2e-6 of its norm."""
    assert got.keys() == expected.keys() and len(got) > 2
    for name in ("logprobs", "entropies"):
        torch.testing.assert_close(got[name], expected[name], atol=1e-6, rtol=1e-6)
    gradients = [name for name in expected if name not in ("logprobs", "entropies")]
    change, size = (torch.cat([tensor.flatten() for tensor in tensors]).norm() for tensors in (
        [got[name] - expected[name] for name in gradients], [expected[name] for name in gradients]))
    assert 0 < size and change <= 2e-6 * size


def watched(model) -> list[int]:
    """Fills with the number of positions of every call of the head."""
    calls: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _m, args, _o: calls.append(args[0][..., 0].numel()))
    return calls


@pytest.mark.parametrize("family", CONFIGS)
def test_chunks_change_no_number_and_no_gradient(family, in_chunks):
    model = tiny_model(family, **FINISHING.get(family, {}))
    expected = learned(model)
    in_chunks()
    assert head.logits_finish(model)
    calls = watched(model)
    assert_same(learned(model), expected)
    # one position for the model's own forward pass, then the 13 chunk by chunk, twice
    assert calls == [1, 4, 3, 3, 3, *calls[5:]] and sorted(calls[5:]) == [3, 3, 3, 4]


@pytest.mark.parametrize("family", FINISHING)
def test_what_models_do_to_their_logits_shows_in_this_test(family):
    plain = tiny_model(family, **{name: None for name in FINISHING[family] if "cap" in name} or {
        name: 1.0 for name in FINISHING[family]})
    logprobs = policy_forward(plain, *batch(), 0.7, entropy=False)[0]
    changed = policy_forward(tiny_model(family, **FINISHING[family]), *batch(), 0.7, entropy=False)[0]
    assert (changed - logprobs).abs().max() > 0.1


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_temperature_and_old_logprobs_without_gradients(temperature, in_chunks):
    model = tiny_model("qwen3")
    expected = policy_forward(model, *batch(), temperature, entropy=True)
    in_chunks()
    assert head.logits_finish(model)
    calls = watched(model)
    with torch.no_grad():
        got = policy_forward(model, *batch(), temperature, entropy=True)
    torch.testing.assert_close(got, tuple(x.detach() for x in expected), atol=1e-6, rtol=0)
    assert calls == [1, 4, 3, 3, 3]


@pytest.mark.parametrize("family,names", [  # what comes before Gemma's head rounds to float32
    ("gpt2", ["lm_head.weight", "transformer.ln_f.weight"]), ("gemma2", ["lm_head.weight"])])
def test_gradients_are_exact_in_float64(family, names, in_chunks):
    model = tiny_model(family, **FINISHING.get(family, {}), tie_word_embeddings=False).double()
    in_chunks()
    assert head.logits_finish(model)
    parameters = tuple(model.get_parameter(name) for name in names)  # gradcheck changes them in place
    assert torch.autograd.gradcheck(
        lambda *_: policy_forward(model, *batch(), 0.7, entropy=True), parameters, fast_mode=True)


@pytest.mark.parametrize("wrapped", ["lora on the head", "whole copy of the head", "frozen head", "tied"])
def test_heads_under_peft(wrapped, in_chunks):
    torch.manual_seed(3)
    model = tiny_model("qwen3", tie_word_embeddings=wrapped == "tied")
    if wrapped != "tied":
        targets = ["q_proj", "lm_head"] if wrapped == "lora on the head" else ["q_proj"]
        whole = ["lm_head"] if wrapped == "whole copy of the head" else None
        config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=whole, init_lora_weights=False)
        model = peft.get_peft_model(model, config)
    expected = learned(model)
    in_chunks()
    assert head.logits_finish(model)
    assert_same(learned(model), expected)
    assert any("lm_head" in name for name in expected) == (wrapped in ("lora on the head", "whole copy of the head"))


def test_bfloat16_heads_round_as_the_model_does(in_chunks):
    model = tiny_model("gemma2", **FINISHING["gemma2"]).bfloat16()
    expected = policy_forward(model, *batch(), 1.0, entropy=True)
    in_chunks()
    assert head.logits_finish(model)
    got = policy_forward(model, *batch(), 1.0, entropy=True)
    assert got[0].dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_logits_of_a_model_that_does_more_to_them_stay_whole_and_the_log_says_so_once(in_chunks, monkeypatch, caplog):
    model = tiny_model("llama")
    plain = model.forward

    def shifted(**inputs):
        output = plain(**inputs)
        output.logits = output.logits + torch.linspace(0, 1, VOCABULARY)
        return output

    monkeypatch.setattr(model, "forward", shifted)
    expected = learned(model)
    in_chunks()
    calls = watched(model)
    with caplog.at_level(logging.WARNING):
        assert_same(learned(model), expected)
        learned(model)
    assert calls == [2, 13, 13]  # two tokens to find out
    assert [record.name for record in caplog.records] == ["medrl.models.head"]


def test_a_head_that_is_not_called_as_a_module_stays_whole(in_chunks, monkeypatch):
    model = tiny_model("llama")
    expected = learned(model)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: torch.nn.Identity())
    in_chunks()
    assert_same(learned(model), expected)

"""The counts against torch's own FLOP counter on real models with attention written out (it takes whole squares)."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from medrl.algo.roofline import ModelSize, forward_flops, training_flops
from medrl.lora.families import decoder_stack
from medrl.models.size import model_size
from tests.unit.lora.tiny_families import tiny_model

LENGTH = 11
FAMILIES = ("llama", "qwen3", "gemma", "phi3", "gpt2", "opt", "mixtral", "qwen3_moe")


def counted(model, backward=False):
    ids = torch.arange(3, 3 + LENGTH).unsqueeze(0)
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, use_cache=False).logits.sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


def whole_squares(size: ModelSize, passes: int = 1) -> float:
    """What eager attention multiplies beside the causal half."""
    return passes * 4 * size.layers * size.attention * LENGTH**2 / 2


@pytest.fixture(params=FAMILIES)
def model(request):
    model = tiny_model(request.param, attn_implementation="eager")
    model.config._experts_implementation = "eager"  # torch does not count what its grouped products do
    return model


def sized(model) -> ModelSize:
    size = model_size(model, decoder_stack(model))
    assert size is not None
    return size


def test_forward(model):
    size = sized(model)
    assert counted(model) == forward_flops(size, [LENGTH], LENGTH) + whole_squares(size)


def test_training():
    model = tiny_model("qwen3", attn_implementation="eager")
    size = sized(model)
    expected = training_flops(size, [LENGTH], LENGTH) + whole_squares(size, 3)
    assert counted(model, backward=True) == expected


def test_training_with_lora():
    model = tiny_model("qwen3", attn_implementation="eager")
    size, rank = sized(model), 4
    wrapped = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear"))
    adapter = sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
    # Below the first layer nothing trains: its queries, keys and values need no gradient of their inputs.
    first = model.model.layers[0].self_attn
    spared = sum(2 * m.base_layer.weight.numel() + 2 * m.lora_A["default"].weight.numel()
                 for m in (first.q_proj, first.k_proj, first.v_proj)) * LENGTH
    expected = training_flops(size, [LENGTH], LENGTH, adapter=adapter) + whole_squares(size, 3)
    assert counted(wrapped, backward=True) == expected - spared


def test_no_stack_no_size():
    assert model_size(torch.nn.Linear(2, 2), "") is None

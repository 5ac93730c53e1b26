"""A reward model's or critic's head trains, is saved with the adapter, and never starts at random when loaded."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError, AmbiguousModuleError, ModelError
from medrl.lora.adapter import load_adapter_, save_adapter
from medrl.lora.heads import check_head_trains
from medrl.lora.wrap import wrap
from medrl.models.scalar_head import ScalarModel
from tests.unit.lora.tiny_families import tiny_model, train_a_little

pytestmark = pytest.mark.heavy

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "mixtral", "qwen3_5_text"]
IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(5))


def bert(seed: int = 0):
    """A family whose head is called `classifier`."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, num_labels=1))


def critic(family: str):
    backbone = tiny_model(family, "scalar").base_model
    return ScalarModel(backbone, nn.Linear(backbone.config.hidden_size, 1))


def scored(model) -> torch.Tensor:
    mask = torch.ones_like(IDS)
    if isinstance(model.get_base_model(), ScalarModel):
        return model(IDS, mask, mask.cumsum(1) - 1)[:, -1]
    return torch.cat([model(input_ids=row[None]).logits[0] for row in IDS])


def step(model) -> set[str]:
    """One optimizer step; the names of what changed."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    scored(model).sum().backward()
    optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_freezes_and_forgets_a_new_head_and_medrl_does_not(family, tmp_path):
    target = r".*(q_proj|c_attn|query_key_value)"
    plain = peft.get_peft_model(
        tiny_model(family, "scalar"), peft.LoraConfig(target_modules=target, task_type="FEATURE_EXTRACTION"))
    assert not any("score" in name for name in step(plain)), "the head stays at random"
    plain.save_pretrained(tmp_path / "plain")
    assert not any("score" in name for name in peft.load_peft_weights(str(tmp_path / "plain")))
    with pytest.raises(AdapterError, match="would stay as it was initialised"):
        check_head_trains(plain)

    model = wrap(tiny_model(family, "scalar"), LoraConfig(rank=2, targets=[target], match="regex"), task="scalar")
    check_head_trains(model)
    assert "base_model.model.score.modules_to_save.default.weight" in step(model)
    save_adapter(model, tmp_path / "ours")
    assert "base_model.model.score.weight" in peft.load_peft_weights(str(tmp_path / "ours"))


@pytest.mark.parametrize("make,head", [(bert, "classifier"), (lambda: critic("gpt2"), "head")])
def test_heads_of_other_names(make, head, tmp_path):
    model = wrap(make(), LoraConfig(rank=2, targets=[r".*(query|c_attn)"], match="regex"), task="scalar")
    check_head_trains(model)
    assert f"base_model.model.{head}.modules_to_save.default.weight" in step(model)
    save_adapter(model, tmp_path)
    assert f"base_model.model.{head}.weight" in peft.load_peft_weights(str(tmp_path))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_trained_in_full_passes_and_one_without_a_head_does_not(family):
    check_head_trains(tiny_model(family, "scalar"))
    with pytest.raises(AdapterError, match="no scalar head"):
        check_head_trains(tiny_model(family))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_head_that_the_task_would_freeze_is_refused(family):
    with pytest.raises(AmbiguousModuleError):
        wrap(tiny_model(family, "scalar"), LoraConfig(rank=2), task="causal")
    with pytest.raises(AdapterError, match="name the same module"):
        wrap(tiny_model(family, "scalar"), LoraConfig(rank=2, freeze=["score"]), task="scalar")


def test_a_head_that_the_adapter_lacks_is_not_left_at_random(tmp_path):
    plain = peft.get_peft_model(tiny_model("qwen3", "scalar"), peft.LoraConfig(
        target_modules=r".*(q|k|v|o|up|down|gate)_proj", r=2, lora_alpha=4, task_type="FEATURE_EXTRACTION"))
    train_a_little(plain)
    plain.save_pretrained(tmp_path)
    first, second = (peft.PeftModel.from_pretrained(tiny_model("qwen3", "scalar", seed=s), str(tmp_path))
                     for s in (1, 2))
    assert not torch.equal(scored(first), scored(second)), "plain PEFT loads it without a word"

    model = wrap(tiny_model("qwen3", "scalar"), LoraConfig(rank=2, alpha=4), task="scalar")
    with pytest.raises(AdapterError, match="does not fit") as error:
        load_adapter_(model, tmp_path)
    assert "missing: base_model.model.score.weight" in error.value.got


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_critic_from_a_model_without_a_trained_head_is_refused(family, model_dir):
    with pytest.raises(ModelError, match="start at random") as error:
        ScalarModel.from_reward(str(model_dir(family)), "float32")
    assert "score.weight" in error.value.got

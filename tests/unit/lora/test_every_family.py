"""For every family: exactly what the manifest says trains, and plain PEFT loads what was saved."""

from __future__ import annotations

import peft
import pytest
import torch

from medrl.config.common import LoraConfig
from medrl.lora.adapter import save_adapter
from medrl.lora.manifest import manifest
from medrl.lora.resolve import resolve
from medrl.lora.wrap import wrap
from tests.unit.lora.tiny_families import ALL, classifier_families, tiny_model

pytestmark = pytest.mark.heavy

CASES = [(family, "causal") for family in ALL] + [(family, "scalar") for family in classifier_families()]
IDS = torch.randint(3, 89, (2, 8), generator=torch.Generator().manual_seed(0))


def everything(model, task):
    """All roles the model has: fused experts come on top of all-linear."""
    experts = resolve(model, LoraConfig(targets=["all-linear"]), task=task).notes
    return LoraConfig(rank=2, targets=["all-linear", "experts"] if experts else ["all-linear"])


def outputs(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize(("family", "task"), CASES)
def test_two_steps_change_exactly_the_manifest_and_plain_peft_loads_the_adapter(family, task, tmp_path):
    base = tiny_model(family, task)
    model = wrap(base, everything(base, task), task=task)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # the first step moves B only: A's gradient is B's
        model(input_ids=IDS, use_cache=False).logits.logsumexp(-1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {row["name"] for row in manifest(model)}

    save_adapter(model, tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_model(family, task), str(tmp_path))
    torch.testing.assert_close(outputs(again), outputs(model), rtol=1e-5, atol=1e-5)

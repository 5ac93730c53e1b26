"""Two models, one copy of the frozen weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import ModelError
from medrl.lora.wrap import wrap
from medrl.models.loading import load_causal_lm
from medrl.models.scalar_head import ScalarModel
from medrl.models.sharing import share_weights, storage_bytes
from tests.tiny import save_policy

LORA = LoraConfig(rank=4, alpha=8.0, targets=["all-linear"])


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return str(save_policy(tmp_path_factory.mktemp("policy")))


def owner_of(path: str, wrapped: bool = True) -> nn.Module:
    model = load_causal_lm(ModelConfig(path=path, dtype="float32"))
    return wrap(model, LORA) if wrapped else model.requires_grad_(False)


def trunk_of(path: str) -> ScalarModel:
    return ScalarModel.from_causal(path, "float32")


def parameter_bytes(parameters) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_base_is_held_once_and_computes_the_same(path, wrapped):
    owner, alone, sharing = owner_of(path, wrapped), trunk_of(path), trunk_of(path)
    base = parameter_bytes(alone.backbone.parameters())
    share_weights(sharing.backbone, owner)
    assert storage_bytes(owner, sharing) == storage_bytes(owner) + parameter_bytes(sharing.head.parameters())
    assert storage_bytes(owner, alone) == storage_bytes(owner, sharing) + base
    assert not any(p.requires_grad for p in sharing.backbone.parameters())
    with torch.no_grad():
        nn.init.normal_(alone.head.weight, generator=torch.manual_seed(0))
        sharing.head.weight.copy_(alone.head.weight)
        ids = torch.arange(3, 15)[None]
        real = torch.ones_like(ids, dtype=torch.bool)
        expected = alone(ids, real, torch.arange(12)[None])
        assert expected.any() and torch.equal(sharing(ids, real, torch.arange(12)[None]), expected)


def test_adapters_put_on_afterwards_are_each_models_own(path):
    owner, critic = owner_of(path), trunk_of(path)
    share_weights(critic.backbone, owner)
    wrapped = wrap(critic, LORA, task="scalar")
    trained = parameter_bytes(p for p in wrapped.parameters() if p.requires_grad)
    untrained = parameter_bytes(critic.get_submodule("head.original_module").parameters())  # PEFT trains a copy
    assert storage_bytes(owner, wrapped) == storage_bytes(owner) + trained + untrained


@pytest.mark.parametrize("damage", ["other numbers", "trains", "missing"])
def test_refused_and_untouched_when_the_owner_is_not_the_same(path, damage):
    owner, critic = owner_of(path, wrapped=False), trunk_of(path)
    name, parameter = next((n, p) for n, p in owner.named_parameters() if n.endswith("layers.1.mlp.up_proj.weight"))
    with torch.no_grad():
        if damage == "other numbers":
            parameter[0, 0] += 1e-3
        elif damage == "trains":
            parameter.requires_grad_(True)
        else:
            del owner.get_submodule(name.rpartition(".")[0]).weight
    before = storage_bytes(critic)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight is missing, trains or differs"):
        share_weights(critic.backbone, owner)
    own = {p.untyped_storage().data_ptr() for p in owner.parameters()}
    assert storage_bytes(critic) == before
    assert not own & {p.untyped_storage().data_ptr() for p in critic.parameters()}

"""Merging against NumPy in float64, and every payload that must be refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medrl.errors import ModelError, WeightSyncError
from medrl.models.stored_weights import StoredWeights
from medrl.types import Probe, Weights
from medrl.weight_sync.merge import check_fits, merged_tensors
from medrl.weight_sync.publisher import make_weights

Q, UP, EMBED, NORM = "model.layers.0.q_proj", "model.layers.0.up_proj", "model.embed_tokens.weight", "model.norm.weight"


def save_base(path: Path, dtype: torch.dtype = torch.float32, shards: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {f"{Q}.weight": (6, 4), f"{UP}.weight": (5, 4), EMBED: (8, 4), NORM: (4,)}
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
        return tensors
    files = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensor for name, tensor in tensors.items() if files[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return tensors


def adapter(rank: int = 2, scaling: float = 1.5) -> Weights:
    torch.manual_seed(1)
    tensors = {f"{Q}.lora_A.weight": torch.randn(rank, 4), f"{Q}.lora_B.weight": torch.randn(6, rank),
               f"{UP}.lora_A.weight": torch.randn(rank, 4), f"{UP}.lora_B.weight": torch.randn(5, rank)}
    return make_weights(1, "adapter", tensors, {Q: scaling, UP: -scaling}, Probe((1, 2), (-1.0,)))


def changed(weights: Weights, tensors: dict[str, torch.Tensor] | None = None, **fields) -> Weights:
    return dataclasses.replace(weights, tensors=weights.tensors | (tensors or {}), **fields)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("rank", "alpha", "rslora"), [(1, 1.0, False), (2, 16.0, False), (4, 16.0, True)])
def test_the_whole_model_comes_out_with_the_adapter_merged_in_float32(
        tmp_path: Path, dtype: torch.dtype, shards: int, rank: int, alpha: float, rslora: bool) -> None:
    saved = save_base(tmp_path, dtype, shards)
    scaling = alpha / rank**0.5 if rslora else alpha / rank
    weights, base = adapter(rank, scaling), StoredWeights(str(tmp_path))
    check_fits(weights, base)
    merged = list(merged_tensors(weights, base))
    assert sorted(name for name, _ in merged) == sorted(saved)
    for name, tensor in merged:
        right = saved[name].double().numpy()
        if (module := name.removesuffix(".weight")) in weights.scaling:
            a, b = (weights.tensors[f"{module}.lora_{side}.weight"].double().numpy() for side in "AB")
            right = right + weights.scaling[module] * np.einsum("or,ri->oi", b, a)
            assert tensor.dtype == torch.float32
        else:
            assert tensor.dtype == dtype and tensor.equal(saved[name])
        np.testing.assert_allclose(tensor.double().numpy(), right, rtol=1e-5, atol=1e-5)


def test_merging_never_writes_to_the_base(tmp_path: Path) -> None:
    saved = save_base(tmp_path)
    before, base = (tmp_path / "model.safetensors").read_bytes(), StoredWeights(str(tmp_path))
    first = dict(merged_tensors(adapter(), base))
    second = dict(merged_tensors(adapter(), base))
    assert all(first[name].equal(second[name]) for name in saved)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert all(base[name].equal(tensor) for name, tensor in saved.items())


def test_a_zero_b_gives_the_base_bit_for_bit(tmp_path: Path) -> None:
    saved = save_base(tmp_path, torch.bfloat16)
    zero = changed(adapter(), {f"{m}.lora_B.weight": torch.zeros(n, 2) for m, n in ((Q, 6), (UP, 5))})
    for name, tensor in merged_tensors(zero, StoredWeights(str(tmp_path))):
        assert tensor.to(torch.bfloat16).equal(saved[name])


def test_whole_replacements_travel_beside_the_adapter(tmp_path: Path) -> None:
    save_base(tmp_path)
    weights, base = changed(adapter(), {NORM: torch.arange(4.0)}), StoredWeights(str(tmp_path))
    check_fits(weights, base)
    assert dict(merged_tensors(weights, base))[NORM].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda w: changed(w, {"model.lay.lora_A.weight": torch.zeros(2, 4), "model.lay.lora_B.weight": torch.zeros(6, 2)},
                       scaling=w.scaling | {"model.lay": 1.0}), "model.lay.weight is not in the base"),
    (lambda w: changed(w, {f"base_model.{Q}.weight": torch.zeros(6, 4)}), "is not in the base"),
    (lambda w: changed(w, {f"{Q}.lora_magnitude_vector": torch.zeros(6)}), "is not in the base"),
    (lambda w: changed(w, {f"{Q}.lora_A.weight": torch.zeros(2, 5)}), "do not fit [6, 4]"),
    (lambda w: changed(w, {f"{Q}.lora_B.weight": torch.zeros(4, 2)}), "do not fit [6, 4]"),
    (lambda w: changed(w, {f"{Q}.lora_B.weight": torch.zeros(6, 3)}), "do not fit [6, 4]"),
    (lambda w: changed(w, {f"{Q}.lora_B.weight": torch.zeros(6)}), "do not fit [6, 4]"),
    (lambda w: changed(w, {NORM: torch.zeros(5)}), "has shape [5], the base [4]"),
    (lambda w: changed(w, {f"{Q}.weight": torch.zeros(6, 4)}), "an adapter and a whole replacement"),
    (lambda w: changed(w, scaling={Q: 1.0}), "has no scaling"),
    (lambda w: changed(w, scaling=w.scaling | {"model.norm": 1.0}), "a scaling but no adapter"),
    (lambda w: dataclasses.replace(w, tensors={n: t for n, t in w.tensors.items() if n != f"{Q}.lora_B.weight"}),
     "only one of lora_A and lora_B"),
])
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, spoil, said: str) -> None:
    save_base(tmp_path)
    with pytest.raises(WeightSyncError) as caught:
        check_fits(spoil(adapter()), StoredWeights(str(tmp_path)))
    assert said in caught.value.got


def test_full_weights_must_cover_the_base(tmp_path: Path) -> None:
    saved, base = save_base(tmp_path), StoredWeights(str(tmp_path))

    def full(tensors: dict[str, torch.Tensor]) -> Weights:
        return make_weights(1, "full", tensors, {}, Probe((1, 2), (-1.0,)))

    new = {name: torch.randn_like(tensor) for name, tensor in saved.items()}
    check_fits(full(new), base)
    assert all(tensor.equal(new[name]) for name, tensor in merged_tensors(full(new), base))
    check_fits(full(new | {"lm_head.weight": new[EMBED].clone()}), base)  # the other end of tied embeddings
    for tensors, said in (({n: t for n, t in new.items() if n != NORM}, f"{NORM} is missing"),
                          (new | {"lm_head.weight": new[EMBED] + 1}, "lm_head.weight is not in the base"),
                          (new | {NORM: torch.zeros(3)}, "has shape [3], the base [4]")):
        with pytest.raises(WeightSyncError) as caught:
            check_fits(full(tensors), base)
        assert said in caught.value.got


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    save_base(tmp_path)
    strangers = {f"x{i}.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(WeightSyncError) as caught:
        check_fits(changed(adapter(), strangers), StoredWeights(str(tmp_path)))
    assert "x4.weight" in caught.value.got and "x5.weight" not in caught.value.got and "and 4 more" in caught.value.got


def test_damaged_weights_are_a_model_error(tmp_path: Path) -> None:
    save_base(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no safetensors file")
    with pytest.raises(ModelError, match="cannot be read"):
        StoredWeights(str(tmp_path))

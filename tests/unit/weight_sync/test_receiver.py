"""The receiver over an engine that is one matrix: what it lets through, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from medrl.config.common import ModelConfig
from medrl.config.rollout import RolloutConfig
from medrl.errors import WeightSyncError
from medrl.types import Probe, Weights
from medrl.weight_sync.publisher import make_weights
from medrl.weight_sync.receiver import NoReceiver, Receiver

IDS = (0, 2, 1, 3)


class BigramEngine:
    """p(next | token) = softmax of a row of one [4, 4] matrix: a complete engine in two lines."""

    def __init__(self) -> None:
        self.table = torch.full((4, 4), torch.nan)

    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.table = dict(tensors)["table.weight"].clone()

    def sequence_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        return [float(self.table[a].log_softmax(-1)[b]) for a, b in zip(ids, ids[1:], strict=False)]


class DeafEngine(BigramEngine):
    """Says yes to every reload and keeps what it has."""

    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        if self.table.isnan().any():
            super().load_weights(tensors)


@pytest.fixture
def base(tmp_path: Path) -> torch.Tensor:
    torch.manual_seed(0)
    table = torch.randn(4, 4)
    save_file({"table.weight": table}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bigram"}))
    return table


def receiver_in(path: Path, model_dtype: Literal["float32", "bfloat16"] = "float32", **rollout) -> Receiver:
    return Receiver(ModelConfig(path=str(path), dtype=model_dtype), RolloutConfig(**{"dtype": "float32"} | rollout))


def weights_for(base: torch.Tensor, version: int = 1, seed: int = 1) -> Weights:
    torch.manual_seed(seed)
    a, b = torch.randn(1, 4), torch.randn(4, 1)
    table = base.double() + 0.5 * (b @ a).double()
    pairs = zip(IDS, IDS[1:], strict=False)
    logprobs = [math.log(math.exp(table[i, j]) / sum(math.exp(x) for x in table[i])) for i, j in pairs]
    tensors = {"table.lora_A.weight": a, "table.lora_B.weight": b}
    return make_weights(version, "adapter", tensors, {"table": 0.5}, Probe(IDS, tuple(logprobs)))


def test_weights_that_arrive_whole_are_reported_and_open_the_gate(base: torch.Tensor, tmp_path: Path) -> None:
    receiver, engine, weights = receiver_in(tmp_path), BigramEngine(), weights_for(base)
    assert receiver.version is None
    report = receiver.take_over(weights, engine)
    assert report.version == receiver.version == receiver.require_fresh() == 1
    assert report.fingerprint == weights.fingerprint and report.bytes == 8 * 4 and report.seconds > 0
    assert report.probe_gap == pytest.approx(0, abs=1e-6)


def test_damaged_tensors_never_reach_the_engine(base: torch.Tensor, tmp_path: Path) -> None:
    receiver, engine, weights = receiver_in(tmp_path), BigramEngine(), weights_for(base)
    with pytest.raises(WeightSyncError, match="damaged") as caught:
        receiver.take_over(dataclasses.replace(weights, fingerprint="0" * 64), engine)
    assert "0" * 64 in caught.value.limit and weights.fingerprint in caught.value.got
    assert receiver.version is None and engine.table.isnan().all()


def test_an_engine_that_ignores_a_reload_is_found_out_with_both_numbers(base: torch.Tensor, tmp_path: Path) -> None:
    receiver, engine, weights = receiver_in(tmp_path), DeafEngine(), weights_for(base, 2, seed=2)
    receiver.take_over(weights_for(base), engine)
    gaps = [abs(a - b) for a, b in zip(weights.probe.logprobs, engine.sequence_logprobs(IDS), strict=True)]
    worst = gaps.index(max(gaps))
    with pytest.raises(WeightSyncError, match="version 2") as caught:
        receiver.take_over(weights, engine)
    assert f"{weights.probe.logprobs[worst]:.6f}" in caught.value.got
    assert f"{engine.sequence_logprobs(IDS)[worst]:.6f}" in caught.value.got and "0.001" in caught.value.limit
    assert receiver.version is None


@pytest.mark.parametrize("shift", [math.nan, math.inf])
def test_a_probe_that_is_no_number_is_refused(base: torch.Tensor, tmp_path: Path, shift: float) -> None:
    weights = weights_for(base)
    probe = Probe(IDS, (weights.probe.logprobs[0] + shift, *weights.probe.logprobs[1:]))
    with pytest.raises(WeightSyncError, match="does not compute"):
        receiver_in(tmp_path).take_over(dataclasses.replace(weights, probe=probe), BigramEngine())


@pytest.mark.parametrize("probe", [Probe((0,), ()), Probe(IDS, (-1.0,))])
def test_a_probe_without_its_log_probs_is_refused(base: torch.Tensor, tmp_path: Path, probe: Probe) -> None:
    with pytest.raises(WeightSyncError, match="proves nothing"):
        receiver_in(tmp_path).take_over(dataclasses.replace(weights_for(base), probe=probe), BigramEngine())


@pytest.mark.parametrize(("settings", "limit"), [
    ({}, 1e-3), ({"model_dtype": "bfloat16"}, 0.15), ({"dtype": "bfloat16"}, 0.15), ({"probe_tolerance": 0.02}, 0.02)])
def test_the_tolerance_is_that_of_the_coarser_dtype_unless_set(
        base: torch.Tensor, tmp_path: Path, settings: dict, limit: float) -> None:
    weights = weights_for(base)

    def take_over(error: float):
        probe = Probe(IDS, (weights.probe.logprobs[0] + error, *weights.probe.logprobs[1:]))
        return receiver_in(tmp_path, **settings).take_over(dataclasses.replace(weights, probe=probe), BigramEngine())

    assert take_over(0.9 * limit).probe_gap == pytest.approx(0.9 * limit, rel=1e-2)
    with pytest.raises(WeightSyncError, match="does not compute"):
        take_over(1.1 * limit)


def test_versions_merge_into_the_base_and_not_into_each_other(base: torch.Tensor, tmp_path: Path) -> None:
    receiver, engine = receiver_in(tmp_path), BigramEngine()
    for version in range(1, 6):
        receiver.take_over(weights_for(base, version, seed=version), engine)
    fresh = BigramEngine()
    receiver_in(tmp_path).take_over(weights_for(base, 5, seed=5), fresh)
    assert engine.table.equal(fresh.table)


def test_an_older_version_is_refused_before_the_engine_is_touched(base: torch.Tensor, tmp_path: Path) -> None:
    receiver, engine = receiver_in(tmp_path), BigramEngine()
    receiver.take_over(weights_for(base, 3), engine)
    held = engine.table.clone()
    with pytest.raises(WeightSyncError, match="older"):
        receiver.take_over(weights_for(base, 2, seed=2), engine)
    assert engine.table.equal(held) and receiver.version is None


def test_an_engine_that_breaks_leaves_it_stale(base: torch.Tensor, tmp_path: Path) -> None:
    class Broken(BigramEngine):
        def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
            raise RuntimeError("out of memory")

    receiver = receiver_in(tmp_path)
    receiver.take_over(weights_for(base), BigramEngine())
    with pytest.raises(RuntimeError, match="out of memory"):
        receiver.take_over(weights_for(base, 2), Broken())
    with pytest.raises(WeightSyncError, match="version 2"):
        receiver.require_fresh()


def test_an_engine_that_keeps_its_weights_is_fresh_and_takes_no_others(base: torch.Tensor) -> None:
    receiver = NoReceiver()
    assert receiver.version == receiver.require_fresh() == 0
    with pytest.raises(WeightSyncError, match="keeps the weights it was started with"):
        receiver.take_over(weights_for(base), BigramEngine())

"""Streams over fake channels: what arrives, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file

from medrl.config.common import ModelConfig
from medrl.config.rollout import RolloutConfig
from medrl.errors import WeightSyncError, WorkerLost
from medrl.types import Channel, Probe, Weights, WeightsNotice
from medrl.weight_sync.publisher import fingerprint, make_weights
from medrl.weight_sync.receiver import NoReceiver, Receiver
from medrl.weight_sync.stream import Incoming, notice_of
from tests.unit.weight_sync.channels import loaded_wire
from tests.unit.weight_sync.test_fingerprint import PROBE, TENSORS
from tests.unit.weight_sync.test_receiver import IDS, BigramEngine


@settings(max_examples=50)
@given(TENSORS)
def test_every_tensor_arrives_under_its_name_in_sorted_order(tensors: dict[str, torch.Tensor]) -> None:
    weights = make_weights(1, "full", tensors, {}, PROBE)
    incoming = Incoming(notice_of(weights), loaded_wire(tensors).receiver)
    arrived = list(incoming)
    assert [name for name, _ in arrived] == sorted(tensors)
    for name, tensor in arrived:
        assert tensor.dtype == tensors[name].dtype and tensor.shape == tensors[name].shape
        assert tensor.equal(tensors[name])
    assert incoming.fingerprint() == weights.fingerprint
    assert incoming.bytes == sum(t.numel() * t.element_size() for t in tensors.values())


def test_views_are_sent_as_what_they_show() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"turned": whole.T, "column": whole[:, 1], "trained": torch.nn.Parameter(whole)}
    weights = make_weights(1, "full", tensors, {}, PROBE)
    arrived = dict(Incoming(notice_of(weights), loaded_wire(tensors).receiver))
    assert fingerprint(arrived) == weights.fingerprint
    assert arrived["column"].tolist() == [1.0, 5.0, 9.0]


# A whole take-over: a bigram model of one table and a bias that no one reads.


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tables = {"table.weight": torch.randn(4, 4), "bias": torch.randn(3)}
    save_file(tables, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bigram"}))
    return {name: tensor + 1.5 * torch.randn_like(tensor) for name, tensor in tables.items()}


@pytest.fixture
def receiver(tables: dict, tmp_path: Path) -> Receiver:
    return Receiver(ModelConfig(path=str(tmp_path), dtype="float32"), RolloutConfig(dtype="float32"))


def weights_of(tables: dict[str, torch.Tensor], version: int = 1) -> Weights:
    rows = tables["table.weight"].double()
    logprobs = [math.log(math.exp(rows[i, j]) / sum(math.exp(x) for x in rows[i]))
                for i, j in zip(IDS, IDS[1:], strict=False)]
    return make_weights(version, "full", tables, {}, Probe(IDS, tuple(logprobs)))


def never() -> Channel:
    raise AssertionError("nothing may be received")


def test_a_stream_that_arrives_whole_opens_the_gate(receiver: Receiver, tables: dict) -> None:
    weights, engine, wire = weights_of(tables), BigramEngine(), loaded_wire(tables)
    report = receiver.take_stream(notice_of(weights), lambda: wire.receiver, engine)
    assert engine.table.equal(tables["table.weight"])
    assert report.version == receiver.version == 1 and report.fingerprint == weights.fingerprint
    assert report.bytes == 4 * (16 + 3) and report.probe_gap < 1e-5 and report.seconds > 0
    assert wire.receiver.closed.is_set()


def _damaged(weights: Weights) -> dict[str, torch.Tensor]:
    table = weights.tensors["table.weight"].clone()
    table.view(torch.int32)[3, 3] ^= 1  # one bit, of the smallest weight, in a row that no probe reads
    return weights.tensors | {"table.weight": table}


def _wrong_bytes(weights: Weights) -> dict[str, torch.Tensor]:
    return weights.tensors | {"bias": weights.tensors["table.weight"].view(-1)[:3].clone()}


def _cut_short(weights: Weights) -> dict[str, torch.Tensor]:
    return {"bias": weights.tensors["bias"]}


def _other_shape(weights: Weights) -> dict[str, torch.Tensor]:
    return weights.tensors | {"table.weight": weights.tensors["table.weight"][:3]}


@pytest.mark.parametrize(("spoil", "error", "said"), [
    (_damaged, WeightSyncError, "damaged"), (_wrong_bytes, WeightSyncError, "damaged"),
    (_other_shape, WeightSyncError, "damaged"), (_cut_short, WorkerLost, "gone")])
def test_what_does_not_arrive_whole_leaves_the_engine_stale(
        receiver: Receiver, tables: dict, spoil: Callable, error: type[Exception], said: str) -> None:
    first, weights = weights_of(tables), weights_of(tables, 2)
    receiver.take_stream(notice_of(first), lambda: loaded_wire(tables).receiver, BigramEngine())
    wire = loaded_wire(spoil(weights))
    with pytest.raises(error, match=said):
        receiver.take_stream(notice_of(weights), lambda: wire.receiver, BigramEngine())
    assert wire.receiver.closed.is_set() and receiver.version is None
    with pytest.raises(WeightSyncError, match="version 2"):
        receiver.require_fresh()
    receiver.take_over(weights, BigramEngine())  # the object store's road is open
    assert receiver.version == 2


def test_a_wrong_probe_leaves_the_engine_stale(receiver: Receiver, tables: dict) -> None:
    weights = weights_of(tables)
    probe = Probe(IDS, (weights.probe.logprobs[0] - 0.1, *weights.probe.logprobs[1:]))
    notice = dataclasses.replace(notice_of(weights), probe=probe)
    with pytest.raises(WeightSyncError, match="does not compute"):
        receiver.take_stream(notice, lambda: loaded_wire(tables).receiver, BigramEngine())
    assert receiver.version is None


def _without(notice: WeightsNotice) -> dict:
    return {name: kind for name, kind in notice.layout.items() if name != "bias"}


def _with(notice: WeightsNotice) -> dict:
    return notice.layout | {"stranger": ((2,), torch.float32)}


def _reshaped(notice: WeightsNotice) -> dict:
    return notice.layout | {"bias": ((1, 3), torch.float32)}


@pytest.mark.parametrize(("spoil", "said"), [
    (_without, "bias is missing"), (_with, "stranger is not in the base model"),
    (_reshaped, "bias has shape [1, 3], the base [3]")])
def test_a_notice_that_does_not_fit_is_refused_before_anything_is_received(
        receiver: Receiver, tables: dict, spoil: Callable, said: str) -> None:
    notice = notice_of(weights_of(tables))
    with pytest.raises(WeightSyncError, match="do not fit") as caught:
        receiver.take_stream(dataclasses.replace(notice, layout=spoil(notice)), never, BigramEngine())
    assert said in caught.value.got and receiver.version is None


def test_an_older_stream_is_refused_before_anything_is_received(receiver: Receiver, tables: dict) -> None:
    receiver.take_over(weights_of(tables, 3), BigramEngine())
    with pytest.raises(WeightSyncError, match="older"):
        receiver.take_stream(notice_of(weights_of(tables, 2)), never, BigramEngine())
    assert receiver.version is None


def test_a_sender_that_nobody_finds_leaves_the_engine_stale(receiver: Receiver, tables: dict) -> None:
    def connect() -> Channel:
        raise WorkerLost("no one there")

    receiver.take_over(weights_of(tables), BigramEngine())
    with pytest.raises(WorkerLost, match="no one there"):
        receiver.take_stream(notice_of(weights_of(tables, 2)), connect, BigramEngine())
    assert receiver.version is None


def test_an_engine_that_takes_only_a_part_is_found_out(receiver: Receiver, tables: dict) -> None:
    class Hasty(BigramEngine):
        def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
            next(tensors)

    with pytest.raises(WeightSyncError, match="did not take all") as caught:
        receiver.take_stream(notice_of(weights_of(tables)), lambda: loaded_wire(tables).receiver, Hasty())
    assert "1 left" in caught.value.got and receiver.version is None


def test_an_engine_that_keeps_its_weights_takes_no_stream(tables: dict) -> None:
    with pytest.raises(WeightSyncError, match="keeps the weights it was started with"):
        NoReceiver().take_stream(notice_of(weights_of(tables)), never, BigramEngine())

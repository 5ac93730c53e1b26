"""What every generator must do, whatever its engine: how it takes over weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medrl.errors import WeightSyncError
from medrl.rollout.base import GenerateRequest, Generator
from medrl.types import Completion, Probe, Weights
from medrl.weight_sync.publisher import make_weights
from medrl.weight_sync.stream import notice_of
from tests.contract.generators import MANY, SAMPLING, gap, weights_of
from tests.unit.weight_sync.channels import loaded_wire

pytestmark = pytest.mark.heavy


def test_an_adapter_gives_the_logprobs_of_transformers_and_peft(
        at_base: Generator, base: nn.Module, adapted: Any) -> None:
    at_base.generate(MANY, SAMPLING)  # fills a prefix cache with the base's keys and values
    weights = weights_of(adapted)
    report = at_base.receive(weights)
    assert report.version == at_base.version == weights.version and report.fingerprint == weights.fingerprint
    assert report.probe_gap < 1e-3 and report.bytes == sum(t.numel() * 4 for t in weights.tensors.values())
    completions = at_base.generate(MANY, SAMPLING)
    assert max(gap(c, adapted) for c in completions) < 1e-3
    assert max(gap(c, base) for c in completions) > 0.1  # the adapter is no small change
    assert {c.version for c in completions} == {weights.version}


def test_an_answer_that_was_begun_goes_on_by_the_new_weights_alone(at_base: Generator, adapted: Any) -> None:
    begun = [completion for completion in at_base.generate(MANY, SAMPLING) if completion.finish == "length"]
    at_base.receive(weights_of(adapted))
    requests = [GenerateRequest(c.prompt, c.sample, number, begun=c.ids) for number, c in enumerate(begun)]
    completions = at_base.generate(requests, SAMPLING)
    assert [(c.prompt, c.sample) for c in completions] == [(c.prompt, c.sample) for c in begun] != []
    for request, completion in zip(requests, completions, strict=True):
        context = dataclasses.replace(completion.prompt, ids=request.ids)
        assert gap(dataclasses.replace(completion, prompt=context), adapted) < 1e-3


def test_full_weights_replace_every_parameter(generator: Generator, load_base: Callable[[], Any]) -> None:
    changed = load_base()
    torch.manual_seed(5)
    for parameter in changed.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    generator.receive(weights_of(changed, kind="full"))
    assert max(gap(c, changed) for c in generator.generate(MANY, SAMPLING)) < 1e-3


def test_full_weights_that_come_as_a_stream_are_those_of_a_payload(
        generator: Generator, load_base: Callable[[], Any]) -> None:
    changed = load_base()
    torch.manual_seed(6)
    for parameter in changed.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    payload = weights_of(changed, kind="full")
    tensors = {name: t for name, t in payload.tensors.items() if name != "lm_head.weight"}  # it is tied
    weights = make_weights(payload.version, "full", tensors, {}, payload.probe)
    wire = loaded_wire(tensors)  # names are sorted: not the order of a checkpoint
    report = generator.receive_stream(notice_of(weights), lambda: wire.receiver)
    assert report.fingerprint == weights.fingerprint and generator.version == weights.version
    streamed = generator.generate(MANY, SAMPLING)
    assert max(gap(c, changed) for c in streamed) < 1e-3
    generator.receive(payload)
    assert generator.generate(MANY, SAMPLING) == streamed


def test_a_stream_that_is_damaged_leaves_a_generator_that_never_samples(at_base: Generator, base: nn.Module) -> None:
    tensors = {name: t for name, t in weights_of(base, kind="full").tensors.items() if name != "lm_head.weight"}
    weights = make_weights(at_base.version + 1, "full", tensors, {}, weights_of(base, kind="full").probe)
    name = sorted(tensors)[-1]
    wire = loaded_wire(tensors | {name: tensors[name] * 1.0001})
    with pytest.raises(WeightSyncError, match="damaged"):
        at_base.receive_stream(notice_of(weights), lambda: wire.receiver)
    with pytest.raises(WeightSyncError, match="stale"):
        at_base.generate(MANY[:1], SAMPLING)
    at_base.receive(weights_of(base, kind="full"))
    assert max(gap(c, base) for c in at_base.generate(MANY[::3], SAMPLING)) < 1e-3


def test_one_that_rested_answers_as_before(at_base: Generator) -> None:
    """On a CPU no engine gives up its weights."""
    before = at_base.generate(MANY, SAMPLING)
    at_base.rest()
    at_base.rest()
    assert at_base.generate(MANY, SAMPLING) == before
    at_base.rest()


def test_zero_b_is_the_base_exactly_after_any_other_version(
        generator: Generator, base: nn.Module, adapted: Any) -> None:
    def greedy() -> list[Completion]:
        return [dataclasses.replace(c, version=0) for c in generator.generate(MANY[::3], SAMPLING, greedy=True)]

    generator.receive(weights_of(base, kind="full"))
    before = greedy()
    generator.receive(weights_of(adapted))
    assert greedy() != before
    generator.receive(weights_of(adapted, zero_b=True))
    assert greedy() == before  # ids and log-probs, bit for bit


def test_adapters_do_not_add_up(generator: Generator, adapted: Any) -> None:
    weights = [weights_of(adapted) for _ in range(3)]
    gaps = [generator.receive(w).probe_gap for w in weights]
    assert gaps[0] == gaps[1] == gaps[2] < 1e-3


def _corrupt(weights: Weights) -> Weights:
    name = next(name for name in weights.tensors if "lora_B" in name)
    flipped = weights.tensors[name].clone()
    flipped[0, 0] += 1e-7
    return dataclasses.replace(weights, tensors=weights.tensors | {name: flipped})


def _wrong_probe(weights: Weights) -> Weights:
    first, *rest = weights.probe.logprobs
    return dataclasses.replace(weights, probe=Probe(weights.probe.ids, (first - 0.5, *rest)))


def _unknown_module(weights: Weights) -> Weights:
    tensors = {name.replace("layers.1.", "layers.9."): t for name, t in weights.tensors.items()}
    scaling = {name.replace("layers.1.", "layers.9."): s for name, s in weights.scaling.items()}
    return make_weights(weights.version, "adapter", tensors, scaling, weights.probe)


def _wrong_scaling(weights: Weights) -> Weights:
    return dataclasses.replace(weights, scaling={name: s * 2 for name, s in weights.scaling.items()})


@pytest.mark.parametrize("spoil", [_corrupt, _wrong_probe, _unknown_module, _wrong_scaling])
def test_a_generator_that_failed_a_sync_never_samples(
        at_base: Generator, adapted: Any, spoil: Callable[[Weights], Weights]) -> None:
    with pytest.raises(WeightSyncError):
        at_base.receive(spoil(weights_of(adapted)))
    assert at_base.version is None
    for greedy in (False, True):
        with pytest.raises(WeightSyncError, match="stale"):
            at_base.generate(MANY[:1], SAMPLING, greedy=greedy)
    at_base.receive(weights_of(adapted))
    assert max(gap(c, adapted) for c in at_base.generate(MANY[::3], SAMPLING)) < 1e-3


def test_a_wrong_probe_is_reported_with_both_numbers(at_base: Generator, base: nn.Module, adapted: Any) -> None:
    right = weights_of(adapted)
    with pytest.raises(WeightSyncError) as caught:
        at_base.receive(_wrong_probe(right))
    assert f"learner has {right.probe.logprobs[0] - 0.5:.6f}" in caught.value.got
    engine = float(caught.value.got.split("engine ")[-1])
    assert engine == pytest.approx(right.probe.logprobs[0], abs=1e-3)


def test_an_older_version_is_refused(generator: Generator, adapted: Any) -> None:
    newer = weights_of(adapted)
    generator.receive(newer)
    with pytest.raises(WeightSyncError, match="older"):
        generator.receive(weights_of(adapted, version=newer.version - 1))
    assert generator.version is None
    generator.receive(newer)
    assert generator.version == newer.version


def test_an_older_version_is_taken_after_the_newer_one_was_forgotten(generator: Generator, adapted: Any) -> None:
    newer = weights_of(adapted)
    generator.receive(newer)
    generator.forget()
    with pytest.raises(WeightSyncError, match="stale"):
        generator.generate(MANY, SAMPLING)
    generator.receive(weights_of(adapted, version=newer.version - 1))
    assert {c.version for c in generator.generate(MANY, SAMPLING)} == {newer.version - 1}

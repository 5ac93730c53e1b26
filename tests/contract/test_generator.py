"""What every generator must do, whatever its engine."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig, SamplingConfig
from medrl.errors import ConfigError, DataError, WeightSyncError
from medrl.rollout.base import GenerateRequest, Generator, request_seed
from medrl.types import Completion, Probe, Prompt, Weights
from medrl.weight_sync.publisher import make_weights
from medrl.weight_sync.receiver import Receiver
from tests.contract.conftest import VOCAB, oracle_logprobs

pytestmark = pytest.mark.heavy

STOP_IDS = (7, 11, 13, 17, 19, 23, 29, 31)
PROBE_IDS = (40, 41, 42, 43, 44, 45, 46, 47)
LONG = tuple(3 + i * 7 % 300 for i in range(300))  # longer than two blocks of a prefix cache
SAMPLING = SamplingConfig(max_tokens=12)
ENGINES = ["hf", pytest.param("vllm", marks=pytest.mark.vllm)]


def config_of(model: Path, **rollout) -> PpoConfig:
    return build_config(PpoConfig, {
        "name": "contract", "model": {"path": str(model)}, "lora": {}, "sampling": {"max_tokens": 40},
        "data": {"prompts": "none.jsonl", "max_prompt_tokens": 300},
        "critic": {"init": "policy"}, "reward": {"sources": [{"name": "f", "function": "m:f"}]},
        "rollout": {"dtype": "float32", "kv_cache_gib": 0.25} | rollout})


def make_generator(engine: str, config: PpoConfig) -> Generator:
    receiver = Receiver(config.model, config.rollout)
    if engine == "vllm":
        from medrl.rollout.vllm_generator import VllmGenerator

        return VllmGenerator(config, STOP_IDS, receiver)
    from medrl.rollout.hf_generator import HfGenerator

    return HfGenerator(config, STOP_IDS, receiver)


@pytest.fixture(scope="module", params=ENGINES)
def generator(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Generator]:
    generator = make_generator(request.param, config_of(tiny_model))
    assert generator.version is None, "a generator must be born STALE"
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def base(load_base: Callable[[], Any]) -> nn.Module:
    return load_base()


@pytest.fixture(scope="module")
def adapted(load_base: Callable[[], Any]) -> Any:
    """The tiny model with a random rank-stabilised adapter on every projection."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
    model = get_peft_model(load_base(), LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


_versions = itertools.count(1)


def weights_of(model: nn.Module, *, kind: str = "adapter", zero_b: bool = False, version: int | None = None) -> Weights:
    """The payload for `model`, named by hand: PEFT's names less its wrappers."""
    state = {name.replace("base_model.model.", "").replace(".default", ""): tensor.detach().clone()
             for name, tensor in model.state_dict().items() if kind == "full" or "lora_" in name}
    if zero_b:
        state = {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in state.items()}
    scaling = {name.removesuffix(".lora_A.weight"): 6 / 4**0.5 for name in state if name.endswith("lora_A.weight")}
    oracle = model.get_base_model() if zero_b else model
    context = model.disable_adapter() if zero_b else torch.no_grad()
    with context:
        logprobs = oracle_logprobs(oracle, PROBE_IDS)
    number = next(_versions) if version is None else version
    return make_weights(number, kind, state, scaling, Probe(PROBE_IDS, tuple(logprobs.tolist())))


def requests_for(*prompts: tuple[int, ...], samples: int = 1, seed: int = 0) -> list[GenerateRequest]:
    made = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), ids) for i, ids in enumerate(prompts)]
    return [GenerateRequest(prompt, k, request_seed(seed, 1, prompt.id, k)) for prompt in made for k in range(samples)]


MANY = requests_for((40, 50), (60, 61, 62, 63), (70,), LONG, (80, 81), samples=3)


def gap(completion: Completion, model: nn.Module, temperature: float = 1.0) -> float:
    """The largest difference between a completion's log-probs and what transformers computes for the same sequence."""
    right = oracle_logprobs(model, (*completion.prompt.ids, *completion.ids), temperature)[-len(completion.ids):]
    return float((right - torch.tensor(completion.logprobs)).abs().max())


@pytest.fixture
def at_base(generator: Generator, base: nn.Module) -> Generator:
    generator.receive(weights_of(base, kind="full"))
    return generator


def test_completions_come_in_request_order_with_their_version(at_base: Generator) -> None:
    completions = at_base.generate(MANY, SAMPLING)
    assert [(c.prompt, c.sample) for c in completions] == [(r.prompt, r.sample) for r in MANY]
    assert {c.version for c in completions} == {at_base.version}
    assert at_base.generate([], SAMPLING) == []


def test_an_answer_depends_on_its_seed_alone(at_base: Generator) -> None:
    together = {(c.prompt.id, c.sample): c.ids for c in at_base.generate(MANY, SAMPLING)}
    alone = [at_base.generate([request], SAMPLING)[0] for request in MANY[::4]]
    backwards = at_base.generate(MANY[::-1], SAMPLING)
    for completion in (*alone, *backwards):
        assert completion.ids == together[completion.prompt.id, completion.sample]
    assert len(set(together.values())) > 0.9 * len(together)
    reseeded = at_base.generate([dataclasses.replace(r, seed=r.seed + 1) for r in MANY], SAMPLING)
    assert sum(c.ids != together[c.prompt.id, c.sample] for c in reseeded) > 0.9 * len(MANY)


def test_an_answer_ends_with_its_stop_token_or_at_max_tokens(at_base: Generator) -> None:
    completions = at_base.generate(requests_for((40, 50), (60, 61), (70,), samples=8), SAMPLING)
    for completion in completions:
        assert not set(completion.ids[:-1]) & set(STOP_IDS)
        assert (completion.finish == "stop") == (completion.ids[-1] in STOP_IDS)
        assert completion.finish == "stop" or len(completion.ids) == SAMPLING.max_tokens
    assert {c.finish for c in completions} == {"stop", "length"}


def test_one_token_answers(at_base: Generator) -> None:
    completions = at_base.generate(requests_for((40, 50), (60, 61), samples=20), SamplingConfig(max_tokens=1))
    assert all(len(c.ids) == 1 for c in completions)
    assert all((c.finish == "stop") == (c.ids[0] in STOP_IDS) for c in completions)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_logprobs_are_of_the_tempered_distribution(at_base: Generator, base: nn.Module, temperature: float) -> None:
    completions = at_base.generate(MANY, SamplingConfig(max_tokens=16, temperature=temperature))
    assert max(gap(c, base, temperature) for c in completions) < 1e-4


def test_sampled_tokens_follow_the_tempered_distribution(at_base: Generator, base: nn.Module) -> None:
    count, prompt = 600, (40, 50, 60)
    completions = at_base.generate(requests_for(prompt, samples=count), SamplingConfig(max_tokens=1, temperature=0.5))
    probs = (base(input_ids=torch.tensor([prompt])).logits[0, -1].double() / 0.5).softmax(-1)
    likely = probs.topk(8).indices.tolist()
    seen = torch.tensor([sum(c.ids[0] == token for c in completions) for token in likely], dtype=torch.double)
    expected = probs[likely] * count
    # Each count is binomial: five standard deviations (and one answer) are never left by chance with a right sampler.
    assert ((seen - expected).abs() < 5 * (expected * (1 - probs[likely])).sqrt() + 1).all(), (seen, expected)


def test_greedy_takes_the_likeliest_token(at_base: Generator, base: nn.Module) -> None:
    requests = requests_for((40, 50), (60, 61, 62), LONG)
    completions = at_base.generate(requests, SAMPLING, greedy=True)
    reseeded = at_base.generate([dataclasses.replace(r, seed=1) for r in requests], SAMPLING, greedy=True)
    assert [c.ids for c in completions] == [c.ids for c in reseeded]
    for completion in completions:
        ids = torch.tensor([(*completion.prompt.ids, *completion.ids)])
        best = base(input_ids=ids).logits[0, len(completion.prompt.ids) - 1:-1].argmax(-1)
        assert tuple(best.tolist()) == completion.ids


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (-1, 0.6), (5, 0.7)])
def test_top_k_and_top_p_cut_and_renormalise(at_base: Generator, base: nn.Module, top_k: int, top_p: float) -> None:
    sampling = SamplingConfig(max_tokens=6, temperature=1.5, top_k=top_k, top_p=top_p)
    for completion in at_base.generate(MANY[::3], sampling):
        ids = torch.tensor([(*completion.prompt.ids, *completion.ids)])
        rows = base(input_ids=ids).logits[0, len(completion.prompt.ids) - 1:-1].double() / 1.5
        for row, token, logprob in zip(rows, completion.ids, completion.logprobs, strict=True):
            assert logprob == pytest.approx(_kept_logprob(row, token, top_k, top_p), abs=1e-4)


def _kept_logprob(row: torch.Tensor, token: int, top_k: int, top_p: float) -> float:
    """By hand: sort, keep k, then keep until the mass before a token reaches p."""
    probs = sorted(((p, i) for i, p in enumerate(row.softmax(-1).tolist())), reverse=True)
    probs = probs[: top_k if top_k > 0 else VOCAB]
    total, before, kept = sum(p for p, _ in probs), 0.0, {}
    for p, i in probs:
        if before < top_p * total:
            kept[i] = p
        before += p
    return float(torch.tensor(kept[token] / sum(kept.values()), dtype=torch.double).log())


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


def test_full_weights_replace_every_parameter(generator: Generator, load_base: Callable[[], Any]) -> None:
    changed = load_base()
    torch.manual_seed(5)
    for parameter in changed.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    generator.receive(weights_of(changed, kind="full"))
    assert max(gap(c, changed) for c in generator.generate(MANY, SAMPLING)) < 1e-3


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


def test_a_prompt_without_room_for_its_answer_is_refused(at_base: Generator) -> None:
    with pytest.raises(DataError, match="no room"):
        at_base.generate(requests_for(LONG), SamplingConfig(max_tokens=41))


@pytest.mark.parametrize("engine", ENGINES)
def test_sequences_longer_than_the_context_are_a_config_error(engine: str, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="context") as caught:
        make_generator(engine, config_of(tiny_model, max_model_len=513))
    assert "512" in caught.value.limit and "513" in caught.value.got


@pytest.mark.parametrize("engine", ENGINES)
def test_a_generator_needs_stop_ids(engine: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "STOP_IDS", ())
    with pytest.raises(ConfigError, match="end-of-answer"):
        make_generator(engine, config_of(tiny_model))

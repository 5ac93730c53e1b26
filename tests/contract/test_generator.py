"""What every generator must do, whatever its engine: how it samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from medrl.config.rollout import SamplingConfig
from medrl.errors import ConfigError, DataError
from medrl.rollout.base import Generator
from tests.contract.generators import (
    ENGINES,
    LONG,
    MANY,
    SAMPLING,
    STOP_IDS,
    VOCAB,
    config_of,
    gap,
    make_generator,
    requests_for,
)

pytestmark = pytest.mark.heavy


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


def test_an_answer_in_two_parts_is_the_whole_one(at_base: Generator) -> None:
    requests = requests_for((40, 50), (60, 61, 62), (70,), LONG)
    whole = at_base.generate(requests, SAMPLING, greedy=True)
    first = at_base.generate(requests, SamplingConfig(max_tokens=5), greedy=True)
    cut = [number for number, completion in enumerate(first) if completion.finish == "length"]
    going = [dataclasses.replace(requests[number], begun=first[number].ids) for number in cut]
    rest = at_base.generate(going, SamplingConfig(max_tokens=7), greedy=True)
    for number, part in zip(cut, rest, strict=True):
        assert (first[number].ids + part.ids, part.finish) == (whole[number].ids, whole[number].finish)
        assert first[number].logprobs + part.logprobs == pytest.approx(whole[number].logprobs, abs=1e-4)
    assert cut


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


def test_a_prompt_without_room_for_its_answer_is_refused(at_base: Generator) -> None:
    with pytest.raises(DataError, match="no room"):
        at_base.generate(requests_for(LONG), SamplingConfig(max_tokens=41))
    with pytest.raises(DataError, match="no room"):
        at_base.generate([dataclasses.replace(requests_for(LONG)[0], begun=(40,) * 40)], SamplingConfig(max_tokens=1))


@pytest.mark.parametrize("engine", ENGINES)
def test_sequences_longer_than_the_context_are_a_config_error(engine: str, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="context") as caught:
        make_generator(engine, config_of(tiny_model, max_model_len=513))
    assert "512" in caught.value.limit and "513" in caught.value.got


@pytest.mark.parametrize("engine", ENGINES)
def test_a_generator_needs_stop_ids(engine: str, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="end-of-answer"):
        make_generator(engine, config_of(tiny_model), stop_ids=())

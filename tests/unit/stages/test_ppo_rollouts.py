"""Answers sampled when a step begins, or while steps before it train."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.checkpoint import latest
from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import CheckpointError, WeightSyncError
from medrl.rollout.base import GenerateRequest
from medrl.stages.ppo_inputs import prepare, rollout_requests
from medrl.stages.ppo_rollouts import Rollouts, staleness
from medrl.stages.ppo_state import LoopState, checkpoint_root, from_rows, to_rows
from medrl.types import Completion
from medrl.workers.launch import Workers
from medrl.workers.pool import Call
from tests.tiny import ppo_values

STEPS, MAX_TOKENS = 6, 12
Batches = dict[int, list[Completion]]


class FakePool:
    """A rollout pool without engines: every token is the version it was last given, every log-prob tells the seed.

    `looks`: how often each call in turn is looked at in vain before it has ended; after the last one: never.
    """

    def __init__(self, looks: Iterable[int] = ()) -> None:
        self.version: int | None = None
        self.busy = False
        self.asked: list[str] = []
        self._looks = iter(looks)

    def sync(self, offer: Any) -> Call[list]:
        def take_over() -> list:
            self.version = offer
            return [f"report of {offer}"]

        return self._call("sync", take_over)

    def sample(self, requests, sampling) -> Call[list[Completion]]:
        version = self.version
        assert version is not None, "no engine may sample before the first sync"

        def answer(request: GenerateRequest) -> Completion:
            left = length(request) - len(request.begun)
            tokens = min(left, sampling.max_tokens)
            return Completion(request.prompt, request.sample, (version,) * tokens, (-request.seed / 3,) * tokens,
                              "stop" if left <= sampling.max_tokens else "length", version)

        return self._call("sample", lambda: [answer(request) for request in requests])

    def _call(self, what: str, value: Callable[[], Any]) -> Call[Any]:
        assert not self.busy, "the engines do one thing at a time"
        self.busy, left = True, [next(self._looks, 0)]
        self.asked.append(what)

        def ended(seconds: float) -> bool:
            left[0] -= 1
            self.busy = left[0] >= 0
            return not self.busy

        return Call(ended, value)


def length(request: GenerateRequest) -> int:
    """Tokens of an answer, 1 … 15, some more than `sampling.max_tokens`: the same for all its parts."""
    return 1 + int(request.prompt.id, 16) % 15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollouts")


def loop(
    folder: Path, k: int, pool: FakePool, name: str = "run", at_sync: str = "finish"
) -> tuple[LoopState, Rollouts, PpoConfig]:
    config = build_config(PpoConfig, ppo_values(
        folder, name=name, steps=STEPS, rollout={"max_staleness": k, "at_sync": at_sync},
        sampling={"max_tokens": MAX_TOKENS}, algorithm={"importance": "truncate"}))
    state = LoopState.begin(config, prepare(config).prompts)
    return state, Rollouts(config, state, pool), config  # type: ignore[arg-type]


def start(state: LoopState, rollouts: Rollouts) -> None:
    rollouts.publish(state.step)  # type: ignore[arg-type]
    rollouts.settle()
    state.complete(state.step)


def trained(state: LoopState, rollouts: Rollouts, last: int = STEPS, looks: Iterable[int] = (),
            pauses: Callable[[int], bool] = lambda step: False) -> Batches:
    """What the loop trains on up to step `last`: it looks `looks` times at the engines while a step trains."""
    batches, counts = {}, iter(looks)
    for step in range(state.step + 1, last + 1):
        batches[step] = rollouts.take(step)
        for _ in range(next(counts, 0)):
            rollouts.advance()
        rollouts.publish(step)  # type: ignore[arg-type]
        if pauses(step):
            rollouts.settle()
        state.complete(step)
    return batches


def asked_for(batches: Batches) -> dict[int, list[tuple]]:
    """Everything but the version."""
    return {step: [(c.prompt, c.sample, c.logprobs, c.finish) for c in batch] for step, batch in batches.items()}


@settings(max_examples=60, deadline=None)
@given(k=st.integers(0, STEPS + 1), data=st.data())
def test_which_version_samples_which_step_depends_on_nothing_else(folder: Path, k: int, data: st.DataObject) -> None:
    """Not on how long sampling, syncs and training take, nor on when the loop waits for the engines."""
    times = st.lists(st.integers(0, 5), max_size=3 * STEPS)
    pool = FakePool(data.draw(times, "looks of calls"))
    paused = data.draw(st.sets(st.integers(1, STEPS)), "pauses")
    state, rollouts, _ = loop(folder, k, pool)
    start(state, rollouts)
    batches = trained(state, rollouts, looks=data.draw(times, "looks of steps"), pauses=paused.__contains__)
    for step, batch in batches.items():
        assert {token for completion in batch for token in completion.ids} == {max(0, step - 1 - k)}
        assert {completion.version for completion in batch} == {max(0, step - 1 - k)}
        assert max(staleness(batch, step)) == min(k, step - 1) <= k
    on_policy, engines, _ = loop(folder, 0, FakePool())
    start(on_policy, engines)
    assert asked_for(batches) == asked_for(trained(on_policy, engines)), "the same prompts and seeds as on-policy"
    assert pool.asked.count("sample") == STEPS, "nothing is sampled for a step that never comes"


@settings(max_examples=60, deadline=None)
@given(k=st.sampled_from([2, 3, 4, 6]), data=st.data())
def test_which_version_samples_which_token_too(folder: Path, k: int, data: st.DataObject) -> None:
    """Token t of step n is of the weights k, k - 1, … 1 updates behind, each for an equal part of the limit."""
    times = st.lists(st.integers(0, 5), max_size=3 * STEPS)
    paused = data.draw(st.sets(st.integers(1, STEPS)), "pauses")
    state, rollouts, config = loop(folder, k, FakePool(data.draw(times, "looks of calls")), at_sync="continue")
    start(state, rollouts)
    batches = trained(state, rollouts, looks=data.draw(times, "looks of steps"), pauses=paused.__contains__)
    for step, batch in batches.items():
        for answer, request in zip(batch, expected_requests(folder, step), strict=True):
            assert (answer.prompt, answer.sample) == (request.prompt, request.sample)
            assert len(answer.ids) == min(MAX_TOKENS, length(request))
            assert answer.finish == ("stop" if length(request) <= MAX_TOKENS else "length")
            versions = [max(0, step - 1 - k + part) for part in parts_of(answer, k)]
            assert list(answer.ids) == versions and answer.version == versions[0]
            seeds = [seed for seed, _ in groupby(answer.logprobs)]
            assert seeds[0] == -request.seed / 3 and len(set(seeds)) == len(seeds) == len(set(parts_of(answer, k)))
        assert max(staleness(batch, step)) <= k


def parts_of(answer: Completion, k: int) -> list[int]:
    """The part that each token belongs to."""
    return [token // (MAX_TOKENS // k) for token in range(len(answer.ids))]


def expected_requests(folder: Path, step: int) -> list[GenerateRequest]:
    """Those of step `step`, of an on-policy run."""
    state, _, config = loop(folder, 0, FakePool())
    for _ in range(step - 1):
        state.prompts.next_batch()
    return rollout_requests(config, step, state.prompts.next_batch())


def test_on_policy_engines_and_learners_take_turns(folder: Path) -> None:
    pool = FakePool()
    state, rollouts, _ = loop(folder, 0, pool)
    start(state, rollouts)
    trained(state, rollouts)
    assert pool.asked == ["sync", "sample"] * STEPS + ["sync"]


def test_a_slow_batch_keeps_the_learners_waiting_only_when_nothing_is_left(folder: Path) -> None:
    pool = FakePool([0, 0, 0, 10])  # of the first sync, steps 1 and 2, then step 3
    state, rollouts, _ = loop(folder, 2, pool)
    start(state, rollouts)
    trained(state, rollouts, last=2)
    assert pool.asked == ["sync", "sample", "sample", "sample"] and pool.busy, "two syncs wait for the slow one"
    assert rollouts.reports == ["report of 0"]
    trained(state, rollouts, last=3)
    rollouts.settle()
    assert pool.version == 3 and rollouts.reports == ["report of 3"]


def test_settled_engines_have_sampled_all_that_a_checkpoint_holds(folder: Path) -> None:
    pool = FakePool([0, *[3] * 99])
    state, rollouts, _ = loop(folder, 3, pool)
    start(state, rollouts)
    trained(state, rollouts, last=2)
    rollouts.settle()
    assert sorted(state.ahead) == [3, 4, 5] and pool.version == 2 and not pool.busy


class FakePolicy:
    def save(self, path: str) -> Call[None]:
        Path(path).mkdir(parents=True)
        (Path(path) / "weights").touch()
        return self.load(path)

    def load(self, path: str) -> Call[None]:
        return Call(lambda seconds: True, lambda: None)


@pytest.mark.parametrize(("k", "at_sync"), [
    (0, "finish"), (1, "finish"), (2, "finish"), (3, "finish"), (2, "continue"), (4, "continue"), (6, "continue")])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_resumed_run_trains_on_the_same(folder: Path, k: int, at_sync: str, interrupted: bool) -> None:
    """Whether the checkpoint is written at the end of a step or when the next one is broken off."""
    name = f"resumed-{k}-{at_sync}-{interrupted}"
    workers = Workers(FakePolicy(), None, None, None, None, engines={}, parameter_bytes={})  # type: ignore[arg-type]
    state, rollouts, config = loop(folder, k, FakePool([1] * 99), name, at_sync)
    start(state, rollouts)
    straight = trained(state, rollouts, last=2)
    if interrupted:
        rollouts.take(3)
        for _ in range(3):  # the engines are further than the checkpoint
            rollouts.advance()
    rollouts.settle()
    state.save(config, workers)
    straight |= trained(state, rollouts)

    state, _, config = loop(folder, k, FakePool(), name, at_sync)
    found = latest(checkpoint_root(config))
    assert found and found[0] == 2
    state.restore(found, workers)
    rollouts = Rollouts(config, state, FakePool())  # type: ignore[arg-type]
    start(state, rollouts)
    assert trained(state, rollouts) == {step: straight[step] for step in range(3, STEPS + 1)}


def test_rows_of_prompts_that_are_gone_are_refused(folder: Path) -> None:
    state, rollouts, _ = loop(folder, 0, FakePool())
    start(state, rollouts)
    completions = rollouts.take(1)
    prompts = {prompt.id: prompt for prompt in state.prompts.prompts}
    assert from_rows(to_rows(completions), prompts) == completions
    del prompts[completions[0].prompt.id]
    with pytest.raises(CheckpointError, match="not there any more"):
        from_rows(to_rows(completions), prompts)


def test_answers_that_are_too_old_end_the_run(folder: Path) -> None:
    state, rollouts, _ = loop(folder, 1, FakePool())
    start(state, rollouts)
    with pytest.raises(WeightSyncError, match="too old"):
        rollouts.take(3)

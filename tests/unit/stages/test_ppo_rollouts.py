"""Answers sampled when a step begins, or while steps before it train."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.checkpoint import latest
from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import CheckpointError, WeightSyncError
from medrl.stages.ppo_inputs import prepare
from medrl.stages.ppo_rollouts import Rollouts, staleness
from medrl.stages.ppo_state import LoopState, checkpoint_root, from_rows, to_rows
from medrl.types import Completion
from medrl.workers.launch import Workers
from medrl.workers.pool import Call
from tests.tiny import ppo_values

STEPS = 6
Batches = dict[int, list[Completion]]


class FakePool:
    """A rollout pool without engines: its answers are of the version it was last given, an int.

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
        return self._call("sample", lambda: [
            Completion(r.prompt, r.sample, (r.seed % 7, 2), (-0.1, -1 / 3), "stop", version) for r in requests])

    def _call(self, what: str, value: Callable[[], Any]) -> Call[Any]:
        assert not self.busy, "the engines do one thing at a time"
        self.busy, left = True, [next(self._looks, 0)]
        self.asked.append(what)

        def ended(seconds: float) -> bool:
            left[0] -= 1
            self.busy = left[0] >= 0
            return not self.busy

        return Call(ended, value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollouts")


def loop(folder: Path, k: int, pool: FakePool, name: str = "run") -> tuple[LoopState, Rollouts, PpoConfig]:
    config = build_config(PpoConfig, ppo_values(folder, name=name, steps=STEPS, rollout={"max_staleness": k},
                                                algorithm={"importance": "truncate"}))
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
    return {step: [(c.prompt, c.sample, c.ids) for c in batch] for step, batch in batches.items()}


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
        assert {completion.version for completion in batch} == {max(0, step - 1 - k)}
        assert max(staleness(batch, step)) == min(k, step - 1) <= k
    on_policy, engines, _ = loop(folder, 0, FakePool())
    start(on_policy, engines)
    assert asked_for(batches) == asked_for(trained(on_policy, engines)), "the same prompts and seeds as on-policy"
    assert pool.asked.count("sample") == STEPS, "nothing is sampled for a step that never comes"


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


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_resumed_run_trains_on_the_same(tmp_path: Path, folder: Path, k: int, interrupted: bool) -> None:
    """Whether the checkpoint is written at the end of a step or when the next one is broken off."""
    name = f"resumed-{k}-{interrupted}"
    workers = Workers(FakePolicy(), None, None, None, None, engines={}, parameter_bytes={})  # type: ignore[arg-type]
    state, rollouts, config = loop(folder, k, FakePool([1] * 99), name)
    start(state, rollouts)
    straight = trained(state, rollouts, last=2)
    if interrupted:
        rollouts.take(3)
    rollouts.settle()
    state.save(config, workers)
    straight |= trained(state, rollouts)

    state, rollouts, config = loop(folder, k, FakePool(), name)
    found = latest(checkpoint_root(config))
    assert found and found[0] == 2
    state.restore(found, workers)
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

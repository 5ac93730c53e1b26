"""Answers sampled when a step begins, or while the one before trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import CheckpointError, WeightSyncError
from medrl.stages.ppo_inputs import prepare
from medrl.stages.ppo_rollouts import Rollouts, staleness
from medrl.stages.ppo_state import LoopState, from_rows, to_rows
from medrl.types import Completion
from medrl.workers.pool import Call
from tests.tiny import ppo_values

STEPS = 4


class FakePool:
    """A rollout pool without engines: its answers are of the version it was last given."""

    def __init__(self) -> None:
        self.version = 0
        self.seen: list[tuple[str, int]] = []  # asked or answered, and the version then

    def sample(self, requests, sampling) -> Call[list[Completion]]:
        self.seen.append(("asked", self.version))

        def result() -> list[Completion]:
            self.seen.append(("answered", self.version))
            return [Completion(r.prompt, r.sample, (r.seed % 7, 2), (-0.1, -1 / 3), "stop", self.version)
                    for r in requests]

        return Call(result)


def loop(tmp_path: Path, max_staleness: int) -> tuple[FakePool, LoopState, Rollouts, PpoConfig]:
    values = ppo_values(tmp_path, steps=STEPS, rollout={"max_staleness": max_staleness},
                        algorithm={"importance": "truncate"})
    config, pool = build_config(PpoConfig, values), FakePool()
    state = LoopState.begin(config, prepare(config).prompts)
    return pool, state, Rollouts(config, state, pool), config  # type: ignore[arg-type]


def trained(pool: FakePool, state: LoopState, rollouts: Rollouts, steps: range) -> list[list[Completion]]:
    batches = []
    for step in steps:
        batches.append(rollouts.take(step))
        rollouts.run_ahead(step + 1)
        rollouts.wait()
        pool.version = step
        state.complete(step)
    return batches


def test_on_policy_every_step_asks_when_it_begins(tmp_path):
    pool, state, rollouts, _ = loop(tmp_path, 0)
    batches = trained(pool, state, rollouts, range(1, STEPS + 1))
    assert pool.seen == [(what, version) for version in range(STEPS) for what in ("asked", "answered")]
    assert [max(staleness(batch, step)) for step, batch in enumerate(batches, 1)] == [0] * STEPS


def test_one_step_ahead_the_answers_are_those_of_the_weights_before(tmp_path):
    pool, state, rollouts, _ = loop(tmp_path, 1)
    batches = trained(pool, state, rollouts, range(1, STEPS + 1))
    assert [max(staleness(batch, step)) for step, batch in enumerate(batches, 1)] == [0, 1, 1, 1]
    assert len(pool.seen) == 2 * STEPS, "nothing is sampled for a step that never comes"
    assert all(asked[1] == answered[1] for asked, answered in zip(pool.seen[::2], pool.seen[1::2], strict=True))
    on_policy = loop(tmp_path, 0)
    for one, other in zip(batches, trained(*on_policy[:3], range(1, STEPS + 1)), strict=True):
        assert [(c.prompt, c.sample, c.ids) for c in one] == [(c.prompt, c.sample, c.ids) for c in other]


def test_a_resumed_run_trains_on_what_was_sampled_before(tmp_path):
    straight = trained(*loop(tmp_path, 1)[:3], range(1, STEPS + 1))
    pool, state, rollouts, _ = loop(tmp_path, 1)
    trained(pool, state, rollouts, range(1, 3))
    saved = state._snapshot
    pool, state, rollouts, _ = loop(tmp_path, 1)
    state.prompts.load(saved["prompts"])
    state.ahead = from_rows(saved["ahead"], {prompt.id: prompt for prompt in state.prompts.prompts})
    pool.version = 2
    assert trained(pool, state, rollouts, range(3, STEPS + 1)) == straight[2:]


def test_rows_of_prompts_that_are_gone_are_refused(tmp_path):
    pool, state, rollouts, _ = loop(tmp_path, 0)
    completions = rollouts.take(1)
    prompts = {prompt.id: prompt for prompt in state.prompts.prompts}
    assert from_rows(to_rows(completions), prompts) == completions
    del prompts[completions[0].prompt.id]
    with pytest.raises(CheckpointError, match="not there any more"):
        from_rows(to_rows(completions), prompts)


def test_answers_that_are_too_old_end_the_run(tmp_path):
    pool, _, rollouts, _ = loop(tmp_path, 0)
    with pytest.raises(WeightSyncError, match="too old"):
        rollouts.take(2)

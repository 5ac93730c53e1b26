"""The benchmark as tests: a short one that it runs, and the whole of it, medrl's side and TRL's (slow)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from tests.benchmarks.closed_form import world as world_module
from tests.benchmarks.closed_form.report import compare, make_comparison_table, make_table, passed
from tests.benchmarks.closed_form.runs import run
from tests.benchmarks.closed_form.tasks import COMPARED, OWN, TASKS
from tests.benchmarks.closed_form.world import World, make_world

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("closed_form"))


@pytest.mark.ray
@pytest.mark.vllm
def test_a_short_run_is_scored_and_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(world_module, "HELD_OUT", 2)
    monkeypatch.setitem(TASKS, "ahead", replace(TASKS["ahead"], steps=2))
    small = make_world(tmp_path, steps=20)
    outcome = run(small, "ahead", 0)
    assert outcome.gap_closed < 1 and outcome.quality.kl > 0
    monkeypatch.setitem(TASKS, "ahead", replace(TASKS["ahead"], trainer="nobody"))
    assert run(small, "ahead", 0) == outcome


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", OWN)
def test_ppo_closes_the_gap(world, name):
    outcomes = [run(world, name, seed) for seed in SEEDS]
    Console(width=140).print(make_table(world, outcomes))
    assert all(outcome.gap_closed <= 1 for outcome in outcomes)  # more than J* is out of any policy's reach
    assert passed(name, sum(outcome.gap_closed for outcome in outcomes) / len(outcomes))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", COMPARED)
def test_no_more_of_the_gap_is_closed_by_trl_nor_without_sampling_ahead(world, name):
    outcomes = [run(world, task, seed) for task in (name, *COMPARED[name]) for seed in SEEDS]
    Console(width=140).print(make_comparison_table(outcomes))
    comparison, = compare(outcomes)
    assert comparison.passed, comparison

"""The whole benchmark as a test: `make bench`."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.benchmarks.closed_form.report import make_table, passed
from tests.benchmarks.closed_form.runs import TASKS, run
from tests.benchmarks.closed_form.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("closed_form"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", TASKS)
def test_ppo_closes_the_gap(world, name):
    outcomes = [run(world, name, seed) for seed in (0, 1, 2)]
    Console(width=140).print(make_table(world, outcomes))
    assert all(outcome.gap_closed <= 1 for outcome in outcomes)  # more than J* is out of any policy's reach
    assert passed(name, sum(outcome.gap_closed for outcome in outcomes) / len(outcomes))

"""Which figures stand beside each other, and what passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks.closed_form.exact import Bound, Quality
from tests.benchmarks.closed_form.report import all_passed, compare, make_markdown, make_summary, make_table
from tests.benchmarks.closed_form.runs import Outcome
from tests.benchmarks.closed_form.world import World

QUALITY = Quality(1.0, 1.0, 1.0, 1.0, 4.0, 1.0, 9.0)


def outcomes(**gaps: list[float]) -> list[Outcome]:
    return [Outcome(task, seed, gap, QUALITY, 1.0) for task, found in gaps.items() for seed, gap in enumerate(found)]


def test_a_task_stands_beside_the_best_of_its_others():
    rates = {"trl_full_0.0003": [0.7, 0.7, 0.73], "trl_full_0.001": [0.8, 0.82, 0.78], "trl_full_0.003": [0.9, 0.2]}
    comparison, = compare(outcomes(full=[0.95, 0.94, 0.96], **rates))
    assert (comparison.task, comparison.other) == ("full", "trl_full_0.001")
    assert comparison.difference.mean == pytest.approx(0.15) and comparison.passed


@pytest.mark.parametrize(("ahead", "holds"), [([0.93, 0.94, 0.92], True), ([0.88, 0.89, 0.90], False),
                                              ([0.99, 0.99, 0.70], False)])
def test_the_whole_interval_has_to_lie_above_the_margin(ahead, holds):
    comparison, = compare(outcomes(full=[0.94, 0.95, 0.93], ahead=ahead))
    assert comparison.passed is holds


def test_a_benchmark_passes_when_every_task_and_every_comparison_does(answers):
    logprobs = torch.randn(1, len(answers.node), dtype=torch.float64).log_softmax(-1)
    world = World(Path(), [], {"plain": Bound(0.1, answers, logprobs, logprobs.exp(), logprobs)}, {"plain": 0.9})
    good = outcomes(full=[0.93, 0.92, 0.94], ahead=[0.94, 0.93, 0.95], lora=[0.9])
    assert make_table(world, good).row_count == 3 * 3 + 7  # reference, mean and optimum beside the runs
    summary = json.loads(json.dumps(make_summary(world, good)))
    assert all_passed(summary) and summary["comparisons"][0]["difference"]["mean"] == pytest.approx(0.01)
    assert not all_passed(make_summary(world, outcomes(lora=[0.1])))
    assert not all_passed(make_summary(world, outcomes(full=[0.93, 0.92, 0.94], ahead=[0.8, 0.8, 0.8])))


def test_one_seed_is_no_comparison():
    alone = outcomes(full=[0.9], ahead=[0.9])
    assert compare(alone) == []
    assert "| ahead | 0.900 | +0.900 |" in make_markdown(alone)

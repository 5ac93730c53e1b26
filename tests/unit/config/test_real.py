"""The configs of `make real`."""

from __future__ import annotations

from pathlib import Path

from tests.real.__main__ import KINDS, make_runs


def test_every_run_has_a_valid_config_and_every_file_is_used() -> None:
    runs = list(make_runs(Path("runs/real"), 2))
    assert {run.data for run in runs} == set(KINDS)
    assert {run.stage for run in runs} == {"pretrain", "sft", "reward", "dpo", "ppo"}
    assert {run.config.run_dir for run in runs} == {f"runs/real/{run.name}" for run in runs}
    assert {run.config.algorithm.advantage for run in runs if run.stage == "ppo"} == {"gae", "grpo"}

"""Which runs may continue from a checkpoint."""

from __future__ import annotations

import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import CheckpointError
from medrl.stages.ppo_state import check_same_run, config_fingerprint


def config(zero_stage: int = 0, workers: int = 1, **changes) -> PpoConfig:
    values = {
        "name": "run", "output_dir": "runs", "model": {"path": "policy"}, "lora": {}, "data": {"prompts": "p.jsonl"},
        "reward": {"sources": [{"name": "rm", "model": "reward"}]},
        "learner": {"workers": workers, "zero_stage": zero_stage},
    }
    return build_config(PpoConfig, values | changes)


def test_another_number_of_ranks_is_free_where_every_rank_holds_everything() -> None:
    check_same_run(config_fingerprint(config(0, 2)), config(0, 3))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_another_number_of_ranks_is_refused_where_each_saved_its_share(stage: int) -> None:
    check_same_run(config_fingerprint(config(stage, 2)), config(stage, 2))
    with pytest.raises(CheckpointError, match="learner cannot be restored") as caught:
        check_same_run(config_fingerprint(config(stage, 2)), config(stage, 3))
    assert "learner.workers 2" in caught.value.limit and "learner.workers 3" in caught.value.got


def test_any_other_change_is_named() -> None:
    with pytest.raises(CheckpointError, match="another config") as caught:
        check_same_run(config_fingerprint(config(0)), config(2, 4))
    assert "learner.zero_stage: 0 → 2" in caught.value.got
    elsewhere = {"output_dir": "elsewhere", "checkpoint": {"storage": "/nfs"}, "faults": {"limit": 3}}
    check_same_run(config_fingerprint(config()), config(**elsewhere))

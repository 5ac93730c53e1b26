"""Settings that are fine alone and impossible together."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.base import load_config
from medrl.config.ppo import PpoConfig
from medrl.config.supervised import SftConfig
from medrl.errors import ConfigError

PPO_REFUSALS = [
    (["algorithm.mini_batches=3"], "= 8 must be a multiple of algorithm.mini_batches 3"),
    (["algorithm.mini_batches=8", "learner.workers=2"], "a mini-batch has 1 answers for learner.workers 2"),
    (["lora=null"], "reference.mode shared needs lora"),
    (["lora.dropout=0.1"], "lora.dropout must be 0 in RL"),
    (["lora.bias=all"], "use reference.mode: dedicated"),
    (["lora.init=pissa"], "use reference.mode: dedicated"),
    (["lora.init=olora"], "use reference.mode: dedicated"),
    (["lora.init=pissa", "reference={mode: adapter, adapter: sft/adapter}"], "use reference.mode: dedicated"),
    (["lora=null", "reference={mode: adapter, adapter: sft/adapter}"], "reference.mode adapter needs lora"),
    (["reference.mode=adapter"], "reference.adapter and reference.mode: adapter go together"),
    (["reference.adapter=sft/adapter"], "reference.adapter and reference.mode: adapter go together"),
    (["rollout.max_model_len=100"], "max_model_len 100 is below data.max_prompt_tokens + sampling.max_tokens = 384"),
    (["reward.sources=[{name: f, function: 'rules:score'}]"], "set critic.init: policy"),
    (["reward.sources=[{name: a, model: x}, {name: a, model: y}]"], "same name twice: a, a"),
    (["reward.sources=[{name: a}]"], "exactly one of `model` and `function`"),
    (["reward.sources=[{name: a, model: x, function: 'm:f'}]"], "exactly one of `model` and `function`"),
    (["reward.sources=[{name: a, function: score}]"], "must look like module:function, got 'score'"),
    (["sampling.top_k=0"], "top_k must be -1 (all) or at least 1, got 0"),
]
PPO_ALLOWED = [
    ["lora=null", "reference.mode=dedicated"],
    ["lora.init=pissa", "reference.mode=dedicated"],
    ["reference={mode: adapter, adapter: sft/adapter}"],
    ["data.samples_per_prompt=3", "algorithm.mini_batches=3"],
    ["rollout.max_model_len=384"],
    ["reward.sources=[{name: f, function: 'rules:score'}]", "critic.init=policy"],
    ["learner.workers=4"],
]


@pytest.mark.parametrize(("overrides", "said"), PPO_REFUSALS)
def test_ppo_refuses(ppo_file: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(PpoConfig, ppo_file, overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize("overrides", PPO_ALLOWED)
def test_ppo_allows(ppo_file: Path, overrides: list[str]) -> None:
    load_config(PpoConfig, ppo_file, overrides)


@pytest.mark.parametrize(("overrides", "said"), [
    (["scaling.workers=3"], "training.batch_size 16 must be a multiple of scaling.workers 3"),
    (["scaling.workers=2", "training.micro_batch_size=3"], "8 a worker: not a multiple of training.micro_batch_size 3"),
])
def test_supervised_stages_refuse(sft_file: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(SftConfig, sft_file, overrides)
    assert said in str(caught.value)


def test_a_micro_batch_larger_than_a_worker_s_share_is_fine(sft_file: Path) -> None:
    load_config(SftConfig, sft_file, ["scaling.workers=4", "training.micro_batch_size=16"])

"""Settings that are fine alone and impossible together."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.base import load_config
from medrl.config.evaluate import EvaluateConfig
from medrl.config.ppo import PpoConfig
from medrl.config.supervised import SftConfig
from medrl.errors import ConfigError

NCCL = [
    "rollout.weight_transfer=nccl", "lora=null", "reference.mode=dedicated", "model.dtype=float32",
    "learner.gpus_per_worker=1", "rollout.gpus_per_worker=1",
]
PPO_REFUSALS = [
    (["algorithm.mini_batches=3"], "= 8 must be a multiple of algorithm.mini_batches 3"),
    (["algorithm.mini_batches=8", "learner.workers=2"], "a mini-batch has 1 answers for learner.workers 2"),
    (["algorithm.advantage=grpo"], "data.samples_per_prompt must be at least 2, got 1"),
    (["algorithm.advantage=reinforce_pp", "algorithm.bootstrap_truncated=true"], "bootstrap_truncated needs a critic"),
    (["algorithm.kl={use: loss, estimator: k1}"], "k1 as a loss pulls nowhere"),
    (["lora=null"], "reference.mode shared needs lora"),
    (["lora=null", "reference.mode=dedicated", "model.dtype=bfloat16"], "needs learner.zero_stage 2 or 3"),
    (["model.dtype=bfloat16"], "needs critic.zero_stage 2 or 3"),
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
    (["reward.sources=[{name: a}]"], "exactly one of `model`, `function` and `url`"),
    (["reward.sources=[{name: a, model: x, function: 'm:f'}]"], "exactly one of `model`, `function` and `url`"),
    (["reward.sources=[{name: a, model: x, url: 'http://a/b'}]"], "exactly one of `model`, `function` and `url`"),
    (["reward.sources=[{name: a, url: 'ftp://a/b'}]"], "url must look like https://host/score"),
    (["reward.sources=[{name: a, url: 'gold/score'}]"], "url must look like https://host/score"),
    (["reward.sources=[{name: a, url: 'https://me:pw@gold/score'}]"], "no user, password, query or fragment"),
    (["reward.sources=[{name: a, url: 'https://gold/score?key=s3cret'}]"], "no user, password, query or fragment"),
    (["reward.sources=[{name: a, url: 'https://gold/score'}]"], "set critic.init: policy"),
    (["reward.sources=[{name: a, function: score}]"], "must look like module:function, got 'score'"),
    (["critic.mode=shared"], "critic.init: policy, or critic.mode: separate"),
    (["critic={mode: shared, init: policy}"], "set lora, critic.lora and critic.init: policy"),
    (["critic={mode: shared, init: policy, lora: {bias: all}}"], "as it is (critic.lora); use critic.mode: separate"),
    (["critic={mode: shared, init: policy, lora: {init: pissa}}"], "as it is (critic.lora)"),
    (["critic={mode: shared, init: policy, lora: {}}", "learner.zero_stage=3"], "set learner.zero_stage to 2 or less"),
    (["critic={mode: shared, init: policy, lora: {}, zero_stage: 3}"], "set critic.zero_stage to 2 or less"),
    (["critic={mode: shared, init: policy, lora: {}, workers: 2}"], "critic.workers 2 cannot be"),
    (["critic.mode=head"], "set critic.init: policy and leave out critic.lora"),
    (["critic={mode: head, init: policy, lora: {}}"], "set critic.init: policy and leave out critic.lora"),
    (["critic={mode: head, init: policy, workers: 2}"], "critic.workers 2 cannot be: with critic.mode head"),
    (["critic={mode: head, init: policy, zero_stage: 2}", "learner.zero_stage=3"], "critic.zero_stage 2 cannot be"),
    (["critic={mode: head, init: policy, micro_batch_tokens: 999}"], "critic.micro_batch_tokens 999 cannot be"),
    (["critic={mode: head, init: policy, optimizer: {max_grad_norm: 2}}"], "critic.optimizer.max_grad_norm 2.0 cannot"),
    (["critic={mode: head, init: policy, coef: 0}"], "critic.coef"),
    (["rollout.max_staleness=1"], "set algorithm.importance to truncate or mask"),
    (["rollout.max_staleness=-1"], "max_staleness"),
    (["rollout={at_sync: continue, max_staleness: 1}"], "set it to 2 or more, or at_sync to finish"),
    (["rollout={at_sync: continue, max_staleness: 3}", "algorithm.importance=mask", "sampling.max_tokens=128"],
     "sampling.max_tokens 128 must be a multiple of 3"),
    (["learner.micro_batch_tokens=383"], "learner.micro_batch_tokens 383 is less than one prompt and answer may have"),
    (["critic.micro_batch_tokens=383"], "critic.micro_batch_tokens 383 is less than"),
    (["sampling.top_k=0"], "top_k must be -1 (all) or at least 1, got 0"),
    (["rollout.weight_transfer=nccl", "learner.gpus_per_worker=1", "rollout.gpus_per_worker=1"], "got lora; set it to"),
    ([*NCCL, "learner.gpus_per_worker=0"], "got learner.gpus_per_worker 0; set it to object_store"),
    ([*NCCL, "rollout.gpus_per_worker=0.5"], "got rollout.gpus_per_worker 0.5; set it to object_store"),
    ([*NCCL, "learner.gpus_per_worker=1.5"], "got learner.gpus_per_worker 1.5; set it to object_store"),
    ([*NCCL, "rollout.max_staleness=2", "algorithm.importance=mask"], "set it to 1 or 0, or weight_transfer to object"),
    ([*NCCL, "rollout.engine=hf"], "got rollout.engine hf; set it to object_store"),
    (["rollout.sleep_level=1"], "sleep_level 1 needs engine vllm on a GPU, got engine vllm with gpus_per_worker 0"),
    (["rollout.sleep_level=2", "rollout.engine=hf", "rollout.gpus_per_worker=0.5"], "got engine hf with gpus"),
    (["rollout={sleep_level: 1, gpus_per_worker: 0.5, max_staleness: 1}"], "set one of the two to 0"),
    (["rollout.sleep_level=3", "rollout.gpus_per_worker=0.5"], "rollout.sleep_level"),
]
PPO_ALLOWED = [
    ["lora=null", "reference.mode=dedicated", "model.dtype=float32"],
    ["lora=null", "reference.mode=dedicated", "model.dtype=bfloat16", "learner.zero_stage=2", "critic.zero_stage=3"],
    ["lora.init=pissa", "reference.mode=dedicated"],
    ["reference={mode: adapter, adapter: sft/adapter}"],
    ["data.samples_per_prompt=3", "algorithm.mini_batches=3"],
    ["rollout.max_model_len=384"],
    ["reward.sources=[{name: f, function: 'rules:score'}]", "critic.init=policy"],
    ["reward.sources=[{name: g, url: 'https://gold:8443/score', http: {api_key_env: KEY}}]", "critic.init=policy"],
    ["learner.workers=4"],
    ["critic={mode: shared, init: policy, lora: {rank: 4}, zero_stage: 2, workers: 2}", "learner.workers=2"],
    ["critic={mode: head, init: policy, optimizer: {lr: 1.0e-3}}", "learner.workers=2"],
    ["critic={mode: head, init: policy, optimizer: {max_grad_norm: 2}}", "learner.optimizer.max_grad_norm=2"],
    ["critic={mode: head, init: policy}", "lora=null", "reference.mode=dedicated", "learner.zero_stage=3",
     "model.dtype=bfloat16"],
    ["critic={mode: shared}", "algorithm.advantage=reinforce_pp"],  # no critic, so the section is not read
    ["rollout={at_sync: continue, max_staleness: 4}", "algorithm.importance=truncate", "sampling.max_tokens=128"],
    ["rollout.max_staleness=3", "algorithm.importance=mask"],
    NCCL,
    [*NCCL, "rollout.max_staleness=1", "algorithm.importance=truncate"],
    [*NCCL, "learner.gpus_per_worker=2"],
    ["rollout.sleep_level=1", "rollout.gpus_per_worker=0.5"],
    ["rollout.sleep_level=2", "rollout.gpus_per_worker=1"],
    ["learner.micro_batch_tokens=384", "critic.micro_batch_tokens=1000"],
]


@pytest.mark.parametrize(("overrides", "said"), PPO_REFUSALS)
def test_ppo_refuses(ppo_file: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(PpoConfig, ppo_file, overrides)
    assert said in str(caught.value) and "s3cret" not in str(caught.value)


@pytest.mark.parametrize("overrides", PPO_ALLOWED)
def test_ppo_allows(ppo_file: Path, overrides: list[str]) -> None:
    load_config(PpoConfig, ppo_file, overrides)


PUBLISHED = {  # advantage → whitening, aggregation, use and estimator of the KL
    "gae": (True, "token_mean", "reward", "k1"),
    "rloo": (False, "token_mean", "reward", "k1"),
    "grpo": (False, "sequence_mean", "loss", "k3"),
    "dr_grpo": (False, "token_sum", "loss", "k3"),
    "reinforce_pp": (True, "token_mean", "reward", "k1"),
    "reinforce_pp_baseline": (True, "token_mean", "loss", "k2"),
}


@pytest.mark.parametrize("advantage", PUBLISHED)
def test_an_advantage_brings_its_papers_defaults_and_what_is_given_stays(ppo_file: Path, advantage: str) -> None:
    def algorithm(*overrides: str):
        given = [f"algorithm.advantage={advantage}", "data.samples_per_prompt=2", *overrides]
        return load_config(PpoConfig, ppo_file, given).algorithm

    a = algorithm("algorithm.kl={coef: 0.2}")
    assert (a.whiten_advantages, a.aggregation, a.kl.use, a.kl.estimator) == PUBLISHED[advantage]
    b = algorithm("algorithm.kl={use: reward, estimator: k2}", "algorithm.aggregation=sequence_mean",
                  "algorithm.whiten_advantages=true")
    assert (b.whiten_advantages, b.aggregation, b.kl.use, b.kl.estimator) == (True, "sequence_mean", "reward", "k2")


def test_without_a_critic_its_section_is_not_read(ppo_file: Path) -> None:
    rules = ["reward.sources=[{name: f, function: 'rules:score'}]", "data.samples_per_prompt=2"]
    assert not load_config(PpoConfig, ppo_file, [*rules, "algorithm.advantage=rloo"]).has_critic


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


ONE_SET = "sets=[{{name: a, task: {task}, path: a.jsonl, metrics: [{metric}]}}]"
EVALUATE_REFUSALS = [
    ([ONE_SET.format(task="choice", metric="bleu")], "sets.0: task choice has no metric bleu: choose from accuracy,"),
    ([ONE_SET.format(task="prompts", metric="rouge")], "sets.0.metrics.0: input should be 'perplexity', 'accuracy'"),
    ([ONE_SET.format(task="prompts", metric="reward")], "set 'a': metric reward needs `reward`"),
    ([ONE_SET.format(task="prompts", metric="win_rate"), "reward={sources: [{name: m, model: rm}]}"],
     "set 'a': metric win_rate needs `baseline`"),
    ([ONE_SET.format(task="prompts", metric="")], "sets.0.metrics: list should have at least 1 item"),
    (["sets=[{name: a, task: text, path: x}, {name: a, task: text, path: y}]"], "sets have the same name twice: a, a"),
    (["sets=[]"], "sets: list should have at least 1 item"),
    (["max_length=128"], "sampling.max_tokens 128 leaves no room for a prompt: raise max_length 128"),
]


@pytest.mark.parametrize(("overrides", "said"), EVALUATE_REFUSALS)
def test_evaluate_refuses(evaluate_file: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(EvaluateConfig, evaluate_file, overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize(("overrides", "more"), [
    ([], set()),
    (["reward={sources: [{name: m, model: rm}]}"], {"reward"}),
    (["reward={sources: [{name: m, model: rm}]}", "baseline=sft"], {"reward", "win_rate"}),
    (["baseline=sft"], set()),
])
def test_a_set_is_measured_by_all_that_the_config_has_the_means_for(
    evaluate_file: Path, overrides: list[str], more: set[str]
) -> None:
    config = load_config(EvaluateConfig, evaluate_file, overrides)
    exam, prompts = (set(config.metrics_of(chosen)) for chosen in config.sets)
    assert exam == {"accuracy", "accuracy_per_token", "accuracy_generated"}
    assert prompts == {"repetition", "distinct_2", "length"} | more

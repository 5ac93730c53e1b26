"""The PPO stage on the real Ray, DeepSpeed and vLLM."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import ConfigError, RewardError
from medrl.faults.budget import FaultBudget
from medrl.faults.events import EventLog
from tests.tiny import ppo_values

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def config_for(folder: Path, **sections) -> PpoConfig:
    return build_config(PpoConfig, ppo_values(folder, **sections))


def metrics_of(summary: dict) -> list[dict]:
    return [json.loads(line) for line in (Path(summary["run_dir"]) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(ray_cluster, tiny_run: Path) -> dict:
    """Two steps with two learner ranks and two rollout engines."""
    from medrl.stages.ppo import run_ppo

    config = config_for(
        tiny_run,
        name="finished",
        learner={"workers": 2},
        rollout={"workers": 2},
        checkpoint={"every": 1, "keep_last": 2},
        tracking=["jsonl", "tensorboard"],
    )
    return run_ppo(config)


def test_the_real_engines_ran(finished: dict) -> None:
    assert finished["engines"]["policy"].startswith("deepspeed.") and finished["engines"]["critic"].startswith(
        "deepspeed."
    )
    assert finished["engines"]["rollout"].startswith("vllm.")


def test_every_step_is_logged_with_finite_numbers(finished: dict) -> None:
    rows = metrics_of(finished)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert {
        "rollout/kl_sum_mean",
        "policy/approx_kl",
        "critic/explained_variance",
        "time/generate",
        "sync/probe_gap",
    } <= rows[0].keys()


def test_the_first_step_starts_at_the_reference_and_the_engine_agrees_with_the_learner(finished: dict) -> None:
    first, second = metrics_of(finished)
    assert abs(first["rollout/kl_sum_mean"]) < 1e-5 and second["rollout/kl_sum_mean"] != 0
    assert first["rollout/engine_gap_max"] < 1e-3 and second["rollout/engine_gap_max"] < 1e-3


def test_every_metric_is_documented(finished: dict) -> None:
    documented = set(re.findall(r"`([^`]+)`", (ROOT / "docs/metrics.md").read_text(encoding="utf-8")))
    for name in metrics_of(finished)[-1]:
        group, _, rest = name.partition("/")
        general = {"policy": f"…/{rest}", "critic": f"…/{rest}", "source": "source/<name>"}.get(group, name)
        if rest.startswith("source/"):
            general = f"{group}/source/<name>"
        assert documented & {name, general}, f"{name} is not in docs/metrics.md"


def test_the_adapter_is_exported_and_every_file_of_the_run_is_there(finished: dict) -> None:
    run = Path(finished["run_dir"])
    assert (Path(finished["output"]) / "adapter_model.safetensors").is_file()
    for name in ("config.yaml", "versions.json", "metrics.jsonl", "samples.jsonl", "summary.json"):
        assert (run / name).is_file()
    assert list(run.glob("**/events.out.tfevents*"))
    measured = {"score_mean", "length_mean", "distinct_2", "repetition"}
    assert measured <= finished["evaluation_before"].keys() and "win_rate" not in finished["evaluation_before"]
    assert measured | {"win_rate", "win_rate_low", "win_rate_high"} <= finished["evaluation_after"].keys()


def test_a_finished_run_has_nothing_to_resume(finished: dict, ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    config = config_for(
        tiny_run,
        name="finished",
        learner={"workers": 2},
        rollout={"workers": 2},
        checkpoint={"every": 1, "keep_last": 2},
        tracking=["jsonl", "tensorboard"],
    )
    with pytest.raises(ConfigError, match="complete"):
        run_ppo(config, resume=True)


def test_shared_and_dedicated_references_give_the_same_numbers(
    ray_cluster, tiny_run: Path, tmp_path: Path
) -> None:
    import ray

    from medrl.data.batching import collate
    from medrl.stages.ppo_inputs import prepare, rollout_requests
    from medrl.types import Completion
    from medrl.workers.group import gather
    from medrl.workers.launch import launch_workers
    from medrl.workers.policy import SharedReference

    config = config_for(
        tiny_run,
        reference={"mode": "dedicated", "workers": 2},
        rollout={"engine": "hf"},
        learner={"micro_batch_size": 3},
    )
    inputs = prepare(config)
    rng = np.random.default_rng(0)
    completions = [
        Completion(request.prompt, 0, tuple(rng.integers(3, 200, 5 + i).tolist()), (0.0,) * (5 + i), "length", 0)
        for i, request in enumerate(rollout_requests(config, 1, inputs.prompts.next_batch()))
    ]
    with launch_workers(config, inputs.launch, FaultBudget(0, EventLog(tmp_path / "events.jsonl"))) as workers:
        batch = ray.put(collate(completions, inputs.pad_id))
        shared, dedicated, policy = gather(
            SharedReference(workers.policy).logprobs(batch),
            workers.reference.logprobs(batch),
            workers.policy.logprobs(batch),
        )
    assert np.abs(shared).max() > 1
    np.testing.assert_allclose(shared, dedicated, atol=1e-6)
    np.testing.assert_allclose(shared, policy, atol=1e-6)  # B = 0 at the start


@pytest.mark.slow  # tests/contract/test_learner.py has the same in one process
def test_a_critic_on_the_policys_base_learns_what_a_separate_one_learns(ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    runs = {}
    for mode in ("separate", "shared"):
        config = config_for(tiny_run, name=f"critic-{mode}", checkpoint={"every": 1},
                            critic={"init": "policy", "mode": mode})
        runs[mode] = run_ppo(config)
    separate, shared = ([{k: v for k, v in row.items() if not k.startswith(("time/", "wall_", "sync/seconds")) and
                          k != "rollout/tokens_per_second"} for row in metrics_of(run)] for run in runs.values())
    assert len(shared) == 2 and shared == [pytest.approx(row, rel=1e-4, abs=1e-6) for row in separate]
    assert shared[1]["critic/value_mean"] != 0
    size = {mode: run["parameter_bytes"] for mode, run in runs.items()}
    base = size["separate"]["critic"] - size["shared"]["critic"]
    assert size["separate"]["policy"] == size["shared"]["policy"] > base > 10 * size["shared"]["critic"]
    shutil.rmtree(max(Path(runs["shared"]["run_dir"]).glob("checkpoints/step-*")))
    resumed = metrics_of(run_ppo(config, resume=True))
    assert resumed[-1]["critic/loss"] == pytest.approx(shared[-1]["critic/loss"], rel=1e-4)


@pytest.mark.parametrize("lora", [True, False])
def test_a_value_head_on_the_policy_trains_with_it_and_resumes(ray_cluster, tiny_run: Path, lora: bool) -> None:
    from transformers import AutoModelForCausalLM

    from medrl.stages.ppo import run_ppo

    full = {"lora": None, "reference": {"mode": "dedicated"}}
    config = config_for(
        tiny_run, name=f"value-head-{lora}", steps=3, learner={"workers": 2}, checkpoint={"every": 1},
        rollout={"engine": "hf"}, critic={"mode": "head", "init": "policy", "lora": None}, **({} if lora else full))
    summary = run_ppo(config)
    rows = metrics_of(summary)
    known = [row["critic/explained_variance"] for row in rows]  # at first every value is 0
    assert known[0] == pytest.approx(0, abs=1e-9) and abs(known[1]) > 1e-6 and rows[2]["critic/value_mean"] != 0
    assert not any(name.startswith("policy/value") for name in rows[0]) and rows[0]["policy/grad_norm"] > 0
    assert summary["parameter_bytes"]["critic"] == 4 * 65 and set(summary["engines"]) == {"policy", "critic", "rollout"}
    if not lora:
        kept = AutoModelForCausalLM.from_pretrained(config.model.path).state_dict()
        assert AutoModelForCausalLM.from_pretrained(summary["output"]).state_dict().keys() == kept.keys()
    shutil.rmtree(max(Path(summary["run_dir"]).glob("checkpoints/step-*")))
    again = metrics_of(run_ppo(config, resume=True))
    for name in ("rollout/score_mean", "policy/loss", "critic/value_loss", "critic/value_mean"):
        assert again[-1][name] == pytest.approx(rows[-1][name], rel=1e-4, abs=1e-7), name


def test_full_fine_tuning_trains_every_weight_against_a_dedicated_reference(ray_cluster, tiny_run: Path) -> None:
    from transformers import AutoModelForCausalLM

    from medrl.stages.ppo import run_ppo

    config = config_for(
        tiny_run, name="full", lora=None, steps=2, reference={"mode": "dedicated", "workers": 2},
        critic={"init": "policy", "lora": None},
    )
    summary = run_ppo(config)
    first, second = metrics_of(summary)
    assert abs(first["rollout/kl_sum_mean"]) < 1e-5 and second["rollout/kl_sum_mean"] != 0
    before = AutoModelForCausalLM.from_pretrained(config.model.path).state_dict()
    after = AutoModelForCausalLM.from_pretrained(summary["output"]).state_dict()
    assert before.keys() == after.keys() and not any(torch.equal(before[name], after[name]) for name in before)


def test_grpo_runs_and_resumes_without_a_critic(ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    def config(steps: int) -> PpoConfig:
        return config_for(
            tiny_run, name="grpo", steps=3, rollout={"engine": "hf"}, data={"samples_per_prompt": 4},
            algorithm={"advantage": "grpo"}, checkpoint={"every": 1}, evaluation={"every": steps},
        )

    summary = run_ppo(config(3))
    rows = metrics_of(summary)
    assert not any(name.startswith("critic/") for row in rows for name in row) and "critic" not in summary["engines"]
    assert rows[0]["policy/grad_norm"] > 0 and rows[-1]["rollout/kl_sum_mean"] != 0
    shutil.rmtree(Path(summary["run_dir"]) / "checkpoints/step-000003")
    again = metrics_of(run_ppo(config(1), resume=True))
    assert [row["step"] for row in again] == [1, 2, 3]
    for name in ("rollout/score_mean", "policy/loss", "policy/grad_norm", "eval/win_rate", "eval/win_rate_low"):
        assert again[-1][name] == pytest.approx(rows[-1][name], rel=1e-4, abs=1e-7)


def test_a_scorer_that_fails_in_a_worker_ends_the_run_with_its_name(ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    config = config_for(
        tiny_run,
        name="failing",
        rollout={"engine": "hf"},
        critic={"init": "policy"},
        reward={"sources": [{"name": "bad", "function": "tests.integration.rewards:raises"}]},
    )
    with pytest.raises(RewardError, match="'bad'.*raised") as caught:
        run_ppo(config)
    assert "LookupError at rewards.py:" in str(caught.value) and "no such drug table" not in str(caught.value)


def test_a_reward_function_and_a_reward_model_with_another_tokenizer_are_summed(ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo
    from tests.tiny import save_reward_model

    if not (tiny_run / "other").exists():
        save_reward_model(tiny_run / "other", vocab_size=280)
    config = config_for(
        tiny_run,
        name="two-sources",
        steps=1,
        rollout={"engine": "hf"},
        critic={"init": "policy"},
        reward={
            "sources": [
                {"name": "other", "model": str(tiny_run / "other"), "weight": 2.0},
                {"name": "length", "function": "tests.integration.rewards:length", "weight": 0.5},
            ]
        },
    )
    row = metrics_of(run_ppo(config))[0]
    expected = 2.0 * (row["source/other"] - 0.1) / 0.5 + 0.5 * row["source/length"]
    assert row["rollout/raw_score_mean"] == pytest.approx(expected, rel=1e-5)

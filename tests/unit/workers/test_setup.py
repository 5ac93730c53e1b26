"""The set-up of each role on made-up nodes, and that workers take what is printed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.setup.choices import Choice, choose_threads
from medrl.setup.machine import Gpu, Machine
from medrl.workers.placement import plan_roles
from medrl.workers.setup import NodeFacts, role_choices
from tests.tiny import ppo_values

CPU = NodeFacts(Machine("EPYC", ("avx512_bf16",)), 2, {"GOMP_SPINCOUNT": Choice("2000", "because")}, 2.0)
GPU = NodeFacts(Machine("Xeon", (), Gpu("H200", (9, 0)), flash_attention=True), 16, {}, None)


def choices(config: PpoConfig, role: str, node: NodeFacts) -> dict[str, Choice]:
    plan = plan_roles(config)[role]
    return role_choices(config, plan, choose_threads(plan.threads, plan.cpus, node.cores, 1), node)


def values(config: PpoConfig, role: str, node: NodeFacts) -> dict[str, object]:
    return {setting: choice.value for setting, choice in choices(config, role, node).items()}


def test_every_role_on_a_cpu(tmp_path):
    config = build_config(PpoConfig, ppo_values(tmp_path))
    learner = {"GOMP_SPINCOUNT": "2000", "model.dtype": "float32", "model.attn_implementation": "sdpa"}
    assert {role: values(config, role, CPU) for role in plan_roles(config)} == {
        "policy": {"learner.gpus_per_worker": "cpu", "learner.threads_per_worker": 2} | learner,
        "critic": {"critic.gpus_per_worker": "cpu", "critic.threads_per_worker": 2} | learner,
        "reward": {"reward.gpus_per_worker": "cpu", "reward.threads_per_worker": 2, "GOMP_SPINCOUNT": "2000",
                   "reward.sources rm dtype": "float32", "reward.sources rm attention": "sdpa"},
        "rollout": {"rollout.gpus_per_worker": "cpu", "rollout.threads_per_worker": 2, "GOMP_SPINCOUNT": "2000",
                    "rollout.dtype": "float32", "rollout.enforce_eager": True},
    }
    assert choices(config, "rollout", CPU)["rollout.dtype"].why.startswith("set by you")
    assert choices(config, "policy", CPU)["model.dtype"].why.startswith("the default")


def test_roles_on_a_gpu(tmp_path):
    values_ = ppo_values(tmp_path, reference={"mode": "dedicated", "gpus_per_worker": 1})
    config = build_config(PpoConfig, values_ | {"model": values_["model"] | {"dtype": "bfloat16"}})
    assert values(config, "reference", GPU) == {
        "reference.gpus_per_worker": "H200", "reference.threads_per_worker": 16, "model.dtype": "bfloat16",
        "model.attn_implementation": "flash_attention_2"}
    assert values(config, "reward", GPU)["reward.sources rm attention"] == "sdpa"  # float32
    assert {"rollout.enforce_eager": False, "rollout.sleep_level": 0}.items() <= values(config, "rollout", GPU).items()
    asleep = ppo_values(tmp_path, rollout={"gpus_per_worker": 0.5, "sleep_level": 1, "enforce_eager": True})
    rollout = choices(build_config(PpoConfig, asleep), "rollout", GPU)
    for setting, value in {"rollout.sleep_level": 1, "rollout.enforce_eager": True}.items():
        assert (rollout[setting].value, rollout[setting].why) == (value, "set by you")


def test_an_engine_of_transformers_is_neither_compiled_nor_sleeps(tmp_path):
    config = build_config(PpoConfig, ppo_values(tmp_path, rollout={"engine": "hf"}))
    assert set(values(config, "rollout", GPU)) == {
        "rollout.gpus_per_worker", "rollout.threads_per_worker", "rollout.dtype"}


@pytest.mark.parametrize(("before", "after"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_a_worker_takes_its_threads_and_leaves_set_spins_alone(before, after):
    """In a process of its own, as OpenMP's limits are the process's."""
    script = """
import os
from medrl.workers.runtime import prepare_worker
prepare_worker(3, seed=0)
import torch
print(torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.environ["GOMP_SPINCOUNT"])
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "MKL_"))}
    done = subprocess.run([sys.executable, "-c", script], env=kept | before, capture_output=True, text=True, check=True,
                          timeout=120)
    assert done.stdout.split() == ["3", "3", after]

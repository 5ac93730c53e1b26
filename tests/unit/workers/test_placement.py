"""What the roles of a run ask for, and what their nodes must see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import ConfigError
from medrl.workers import placement
from medrl.workers.paths import unseen
from medrl.workers.placement import plan_roles, threads_for, total_cpus


def config(**sections: Any) -> PpoConfig:
    values = {
        "name": "run", "output_dir": "/shared", "model": {"path": "/m/policy", "tokenizer": "/m/words"}, "lora": {},
        "data": {"prompts": "p.jsonl"},
        "reward": {"sources": [{"name": "a", "model": "/m/a"}, {"name": "u", "url": "http://host/score"}]},
    }
    return build_config(PpoConfig, values | sections)


def test_each_role_names_what_its_nodes_must_see() -> None:
    paths = {role: plan.paths for role, plan in plan_roles(config()).items()}
    saved = "/shared/run/config.yaml"
    assert paths == {
        "policy": ("/m/policy", "/m/words", saved), "reward": ("/m/a",), "rollout": ("/m/policy", "/m/words"),
        "critic": ("/m/a", saved),
    }
    other = plan_roles(config(critic={"init": "policy"}, reference={"mode": "dedicated"}))
    assert other["critic"].paths == ("/m/policy", "/m/words", saved)
    assert other["reference"].paths == ("/m/policy", "/m/words")
    adapter = plan_roles(config(reference={"mode": "adapter", "adapter": "/m/adapter"}))
    assert "/m/adapter" in adapter["policy"].paths and "/m/adapter" not in adapter["rollout"].paths


def test_learners_are_packed_pools_are_spread_and_labels_bind_roles() -> None:
    plans = plan_roles(config(ray={"labels": {"rollout": {"zone": "b"}}}))
    assert {role: plan.strategy for role, plan in plans.items()} == {
        "policy": "PACK", "critic": "PACK", "reward": "SPREAD", "rollout": "SPREAD"}
    assert plans["rollout"].labels == {"zone": "b"} and plans["policy"].labels == {}
    strict = plan_roles(config(ray={"strict_pack": True}))
    assert strict["policy"].strategy == strict["critic"].strategy == "STRICT_PACK"
    assert strict["rollout"].strategy == "SPREAD"
    with pytest.raises(ConfigError, match="ray.labels"):
        config(ray={"labels": {"rollouts": {"zone": "b"}}})


def test_engines_that_may_join_have_room_on_a_local_cluster_and_are_not_asked_of_a_running_one() -> None:
    plans = plan_roles(config(rollout={"workers": 2, "max_workers": 5, "cpus_per_worker": 2.0}))
    assert (plans["rollout"].workers, plans["rollout"].most) == (2, 5)
    assert plans["rollout"].needs == "2 × (2 CPU, 0 GPU) spread, up to 5"
    others = sum(plan.cpus for role, plan in plans.items() if role != "rollout")
    assert total_cpus(plans) == others + 10.0
    assert plan_roles(config())["rollout"].most == 1


def test_what_is_not_there_is_unseen(tmp_path: Path) -> None:
    assert unseen([str(tmp_path), "/nowhere/model", "org/not-cached"]) == ["/nowhere/model", "org/not-cached"]


def test_on_one_machine_learners_share_the_cores_and_a_pool_has_them_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 cores: 2 ranks of the policy beside the critic; 3 engines, and 2 that may join."""
    monkeypatch.setattr(placement, "is_local_cluster", lambda: True)
    monkeypatch.setattr(placement, "usable_cores", lambda: 12)
    plans = plan_roles(config(
        learner={"workers": 2}, rollout={"workers": 3, "max_workers": 5}, reward={"sources": [
            {"name": "a", "model": "/m/a"}], "threads_per_worker": 7}))
    threads = threads_for(plans)
    assert {role: choice.value for role, choice in threads.items()} == {
        "policy": 4, "critic": 4, "rollout": 2, "reward": 7}
    assert threads["reward"].why == "set by you" and "one of 3" in threads["policy"].why
    monkeypatch.setattr(placement, "is_local_cluster", lambda: False)
    assert threads_for(plan_roles(config(rollout={"cpus_per_worker": 3.0})))["rollout"].value == 3

"""All workers of a PPO run: started together, and gone when the block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup

from medrl.config.ppo import PpoConfig
from medrl.workers.capacity import RolePlan
from medrl.workers.cluster import connect
from medrl.workers.critic import CriticGroup, CriticWorker
from medrl.workers.group import Pending, WorkerGroup, gather
from medrl.workers.placement import check_cluster, place, plan_roles, threads_for, total_cpus
from medrl.workers.policy import PolicyGroup, PolicyWorker, SharedReference
from medrl.workers.reference import ReferenceGroup, ReferenceWorker
from medrl.workers.reward import RewardPool, RewardWorker
from medrl.workers.rollout import RolloutPool, RolloutWorker


@dataclass(frozen=True)
class Workers:
    """The groups of a run."""

    policy: PolicyGroup
    critic: CriticGroup | None  # None with an advantage that needs none
    reference: SharedReference | ReferenceGroup
    reward: RewardPool
    rollout: RolloutPool
    engines: dict[str, str]  # role → class of the engine really used


@dataclass(frozen=True)
class LaunchInputs:
    """What the driver found out before any worker starts."""

    stop_ids: tuple[int, ...]
    total_updates: int  # optimizer steps of the whole run, for the learning-rate schedule
    calibrations: dict[str, tuple[float, float]]  # reward source → mean and deviation of SFT answers


@contextmanager
def launch_workers(config: PpoConfig, inputs: LaunchInputs) -> Iterator[Workers]:
    """Connect to Ray, place and start every role, wait until all are ready; stop them at the end."""
    plans = plan_roles(config)
    with connect(config.ray, total_cpus(plans)):
        check_cluster(plans)
        groups: list[WorkerGroup] = []
        try:
            yield _start(config, inputs, plans, groups)
        finally:
            for group in groups:
                group.shutdown()


def _start(config: PpoConfig, inputs: LaunchInputs, plans: dict[str, RolePlan], groups: list[WorkerGroup]) -> Workers:
    """Place and start every role. Whatever runs is in `groups`, so that an error leaves nothing behind."""
    threads, placements = threads_for(plans), {}
    for role, plan in plans.items():
        placements[role] = place(plan, config.timeouts.start)

    def spawn(role: str, worker_class: Any, arguments: Callable[[int], tuple]) -> tuple[list, PlacementGroup]:
        """One worker a bundle; `arguments` of worker i come between the config and its threads."""
        plan, placement = plans[role], placements[role]
        options = {"num_cpus": plan.cpus, "num_gpus": plan.gpus, "placement_group": placement}
        return [
            worker_class.options(**options, placement_group_bundle_index=i).remote(config, *arguments(i), threads[role])
            for i in range(plan.workers)
        ], placement

    policy = PolicyGroup("policy", *spawn("policy", PolicyWorker, lambda i: (i, plans["policy"].workers)), config)
    groups.append(policy)
    critic = None
    if config.has_critic:
        critic = CriticGroup("critic", *spawn("critic", CriticWorker, lambda i: (i, plans["critic"].workers)), config)
        groups.append(critic)
    rollout = RolloutPool(*spawn("rollout", RolloutWorker, lambda i: (inputs.stop_ids,)), config)
    groups.append(rollout)
    reward = RewardPool(*spawn("reward", RewardWorker, lambda i: ()), config, inputs.calibrations)
    groups.append(reward)
    reference: SharedReference | ReferenceGroup = SharedReference(policy)
    others: list[Pending] = []
    if config.reference.mode == "dedicated":
        pool = plans["reference"].workers
        reference = ReferenceGroup(*spawn("reference", ReferenceWorker, lambda i: (i, pool)), config)
        groups.append(reference)
        others.append(reference.start())
    updates = inputs.total_updates
    policy_info, critic_info, rollout_engine, *_ = gather(
        policy.start(updates), critic.start(updates) if critic else None, rollout.start(), reward.start(), *others
    )
    engines = {"policy": policy_info["engine"], "rollout": rollout_engine}
    if critic_info:
        engines["critic"] = critic_info["engine"]
    return Workers(policy, critic, reference, reward, rollout, engines)

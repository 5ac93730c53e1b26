"""All workers of a PPO run: started together, and gone when the block ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup

from medrl.config.ppo import PpoConfig
from medrl.faults.budget import FaultBudget
from medrl.workers.capacity import RolePlan
from medrl.workers.cluster import connect
from medrl.workers.critic import CriticGroup, CriticWorker, SharedCritic
from medrl.workers.group import WorkerGroup, gather
from medrl.workers.placement import check_cluster, place, plan_roles, threads_for, total_cpus
from medrl.workers.policy import LearnerGroup, PolicyGroup, PolicyWorker, SharedReference
from medrl.workers.pool import Call, Pool
from medrl.workers.reference import ReferenceGroup
from medrl.workers.reward import RewardPool
from medrl.workers.rollout import RolloutPool


@dataclass(frozen=True)
class Workers:
    """The groups of a run."""

    policy: PolicyGroup
    critic: CriticGroup | SharedCritic | None  # None with an advantage that needs none
    reference: SharedReference | ReferenceGroup
    reward: RewardPool
    rollout: RolloutPool
    engines: dict[str, str]  # role → class of the engine really used
    parameter_bytes: dict[str, int]  # role → what each of its workers holds beyond what it shares with the policy

    @property
    def learners(self) -> list[LearnerGroup]:
        """The groups that train."""
        return [self.policy, self.critic] if isinstance(self.critic, CriticGroup) else [self.policy]

    def by_name(self) -> dict[str, Any]:
        """The handles of all workers that have started: "policy 0", "rollout 2"."""
        reference = [self.reference] if isinstance(self.reference, ReferenceGroup) else []
        groups = [*self.learners, *reference, self.reward, self.rollout]
        return {f"{group.role} {number}": handle for group in groups for number, handle in group.members.items()}


@dataclass(frozen=True)
class LaunchInputs:
    """What the driver found out before any worker starts."""

    stop_ids: tuple[int, ...]
    total_updates: int  # optimizer steps of the whole run, for the learning-rate schedule
    calibrations: dict[str, tuple[float, float]]  # reward source → mean and deviation of SFT answers


@contextmanager
def launch_workers(config: PpoConfig, inputs: LaunchInputs, budget: FaultBudget) -> Iterator[Workers]:
    """Connect to Ray, place and start every role, wait until all are ready; stop them at the end.

    `budget`: which lost workers are still replaced while the run goes on.
    """
    plans = plan_roles(config)
    with connect(config.ray, total_cpus(plans)):
        check_cluster(plans)
        groups: list[WorkerGroup | Pool] = []
        try:
            yield _start(config, inputs, plans, groups, budget)
        finally:
            for group in groups:
                group.shutdown()


def _start(
    config: PpoConfig, inputs: LaunchInputs, plans: dict[str, RolePlan], groups: list[WorkerGroup | Pool],
    budget: FaultBudget,
) -> Workers:
    """Place and start every role. Whatever runs is in `groups`, so that an error leaves nothing behind."""
    threads = {role: choice.value for role, choice in threads_for(plans).items()}

    rollout = RolloutPool(plans["rollout"], config, inputs.stop_ids, threads["rollout"], budget)
    groups.append(rollout)

    def ranks(role: str, worker_class: Any) -> Callable[[], tuple[list, PlacementGroup]]:
        """What places and creates the ranks of a learner, a bundle each."""
        plan = plans[role]

        def spawn() -> tuple[list, PlacementGroup]:
            placement = place(plan, config.timeouts.start, rollout.give_way)
            options = {"num_cpus": plan.cpus, "num_gpus": plan.gpus, "placement_group": placement}
            return [
                worker_class.options(**options, placement_group_bundle_index=rank)
                .remote(config, rank, plan.workers, threads[role])
                for rank in range(plan.workers)
            ], placement

        return spawn

    policy = PolicyGroup("policy", ranks("policy", PolicyWorker), config, inputs.total_updates)
    groups.append(policy)
    critic: CriticGroup | SharedCritic | None = None
    if config.critic_inside:
        critic = SharedCritic(policy)
    elif config.has_critic:
        critic = CriticGroup("critic", ranks("critic", CriticWorker), config, inputs.total_updates)
        groups.append(critic)
    reward = RewardPool(plans["reward"], config, inputs.calibrations, threads["reward"], budget, rollout.give_way)
    groups.append(reward)
    reference: SharedReference | ReferenceGroup = SharedReference(policy)
    others: list[Call] = []
    if config.reference.mode == "dedicated":
        reference = ReferenceGroup(plans["reference"], config, threads["reference"], budget, rollout.give_way)
        groups.append(reference)
        others.append(reference.start())
    policy_info, critic_info, rollout_engine, _, *reference_bytes = gather(
        policy.start(), critic.start() if isinstance(critic, CriticGroup) else None, rollout.start(), reward.start(),
        *others
    )
    engines = {"policy": policy_info["engine"], "rollout": rollout_engine}
    sizes = {"policy": policy_info["parameter_bytes"], "reference": sum(reference_bytes)}
    if critic_info := critic_info or policy_info.get("critic"):
        engines["critic"], sizes["critic"] = critic_info["engine"], critic_info["parameter_bytes"]
    return Workers(policy, critic, reference, reward, rollout, engines, sizes)

"""All workers of a PPO run: started together, and gone when the block ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from medrl.config.ppo import PpoConfig
from medrl.workers.cluster import connect
from medrl.workers.critic import CriticGroup, CriticWorker
from medrl.workers.group import WorkerGroup, gather
from medrl.workers.placement import RolePlan, check_fits, place, plan_roles, threads_for, total_cpus
from medrl.workers.policy import PolicyGroup, PolicyWorker, SharedReference
from medrl.workers.reference import ReferenceGroup, ReferenceWorker
from medrl.workers.reward import RewardPool, RewardWorker
from medrl.workers.rollout import RolloutPool, RolloutWorker


@dataclass(frozen=True)
class Workers:
    """The groups of a run."""

    policy: PolicyGroup
    critic: CriticGroup
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
        check_fits(plans)
        groups: list[WorkerGroup] = []
        try:
            yield _start(config, inputs, plans, groups)
        finally:
            for group in groups:
                group.shutdown()


def _start(config: PpoConfig, inputs: LaunchInputs, plans: dict[str, RolePlan], groups: list[WorkerGroup]) -> Workers:
    threads = threads_for(plans)
    timeout = config.timeouts.start

    def spawn(role: str, worker_class, group_class, arguments, *group_arguments):
        plan = plans[role]
        placement = place(plan, timeout)
        handles = [worker_class.options(num_cpus=plan.cpus, num_gpus=plan.gpus, placement_group=placement,
                                        placement_group_bundle_index=i).remote(*arguments(i)) for i in range(plan.workers)]
        group = group_class(*group_arguments, handles, placement, config)
        groups.append(group)
        return group

    policy: PolicyGroup = spawn("policy", PolicyWorker, PolicyGroup,
                                lambda i: (config, i, config.learner.workers, threads["policy"]), "policy")
    critic: CriticGroup = spawn("critic", CriticWorker, CriticGroup,
                                lambda i: (config, i, config.critic.workers, threads["critic"]), "critic")
    rollout: RolloutPool = spawn("rollout", RolloutWorker, RolloutPool, lambda i: (config, inputs.stop_ids, threads["rollout"]))
    reward: RewardPool = spawn("reward", RewardWorker, lambda *a: RewardPool(*a, inputs.calibrations),
                               lambda i: (config, threads["reward"]))
    starting = [policy.start(inputs.total_updates), critic.start(inputs.total_updates), rollout.start(), reward.start()]
    reference: SharedReference | ReferenceGroup = SharedReference(policy)
    if config.reference.mode == "dedicated":
        reference = spawn("reference", ReferenceWorker, ReferenceGroup,
                          lambda i: (config, i, config.reference.workers, threads["reference"]))
        starting.append(reference.start())
    policy_info, critic_info, rollout_engine, *_ = gather(*starting)
    engines = {"policy": policy_info["engine"], "critic": critic_info["engine"], "rollout": rollout_engine}
    return Workers(policy, critic, reference, reward, rollout, engines)

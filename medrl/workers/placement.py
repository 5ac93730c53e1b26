"""Where workers go: one placement group a role, checked against the cluster before anything starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from medrl.config.ppo import PpoConfig
from medrl.errors import WorkerError
from medrl.workers.cluster import is_local_cluster


@dataclass(frozen=True)
class RolePlan:
    """What one role asks of the cluster."""

    role: str
    workers: int
    cpus: float  # a worker
    gpus: float  # a worker
    threads: int | None  # a worker; None: derived by `threads_for`
    strategy: Literal["PACK", "SPREAD"]


def plan_roles(config: PpoConfig) -> dict[str, RolePlan]:
    """The roles of a PPO run. Learners are packed (they talk all the time), pools are spread (they do not)."""

    def plan(role: str, section, strategy: Literal["PACK", "SPREAD"]) -> RolePlan:
        return RolePlan(
            role,
            section.workers,
            section.cpus_per_worker,
            section.gpus_per_worker,
            section.threads_per_worker,
            strategy,
        )

    plans = [
        plan("policy", config.learner, "PACK"),
        plan("reward", config.reward, "SPREAD"),
        plan("rollout", config.rollout, "SPREAD"),
    ]
    if config.has_critic:
        plans.append(plan("critic", config.critic, "PACK"))
    if config.reference.mode == "dedicated":
        plans.append(plan("reference", config.reference, "SPREAD"))
    return {p.role: p for p in plans}


def total_cpus(plans: dict[str, RolePlan]) -> float:
    return sum(p.workers * p.cpus for p in plans.values())


def threads_for(plans: dict[str, RolePlan]) -> dict[str, int]:
    """Threads of each role's workers.

    On a cluster of one machine roles take turns, so each gets its share of the cores among those that run at the same
    time: rollouts have the machine to themselves, policy and critic train together. On more machines a worker has
    the CPUs it reserved.
    """
    if not is_local_cluster():
        return {p.role: p.threads or max(1, int(p.cpus)) for p in plans.values()}
    cores = os.cpu_count() or 1
    training = sum(plans[role].workers for role in ("policy", "critic") if role in plans)
    together = {"policy": training, "critic": training}
    return {p.role: p.threads or max(1, cores // together.get(p.role, p.workers)) for p in plans.values()}


def check_fits(plans: dict[str, RolePlan]) -> None:
    """WorkerError, with a table, when the cluster can never hold the run."""
    total = ray.cluster_resources()
    needed_cpus, needed_gpus = total_cpus(plans), sum(p.workers * p.gpus for p in plans.values())
    have_cpus, have_gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    if needed_cpus <= have_cpus and needed_gpus <= have_gpus:
        return
    table = "; ".join(f"{p.role} {p.workers} × ({p.cpus:g} CPU, {p.gpus:g} GPU)" for p in plans.values())
    raise WorkerError(
        "the cluster is too small for this run",
        limit=f"{have_cpus:g} CPUs and {have_gpus:g} GPUs",
        got=f"{needed_cpus:g} CPUs and {needed_gpus:g} GPUs: {table}",
        remedy="lower workers, cpus_per_worker or gpus_per_worker, or start more nodes",
    )


def place(plan: RolePlan, timeout: float) -> PlacementGroup:
    """A ready placement group with a bundle a worker."""
    bundle = {"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {})
    group = placement_group([bundle] * plan.workers, strategy=plan.strategy)
    if not group.wait(timeout_seconds=timeout):
        raise WorkerError(
            f"no room for the {plan.role} workers",
            limit=f"{plan.workers} × {bundle} within {timeout:g} s",
            got=f"available now: {ray.available_resources()}",
            remedy="free resources, or ask for less",
        )
    return group

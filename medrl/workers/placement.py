"""Where workers go: what each role asks for, checked against the cluster before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from medrl.config.common import Role, StageConfig
from medrl.config.ppo import PpoConfig
from medrl.config.rollout import RolloutConfig
from medrl.errors import WorkerError
from medrl.setup.choices import Choice, choose_threads
from medrl.setup.cores import usable_cores
from medrl.workers.capacity import Node, RolePlan, shortages, table
from medrl.workers.cluster import alive_nodes, is_local_cluster, startable_nodes
from medrl.workers.paths import check_paths

ROOM_PATIENCE_S = 20.0  # before workers that the run could do without have to make room


def plan_role(
    role: Role, section: Any, config: StageConfig, paths: tuple[str | None, ...] = (), *, learner: bool = False
) -> RolePlan:
    """What a role asks for. Learners are packed (they talk all the time), pools are spread (they do not)."""
    strategy = "SPREAD" if not learner else "STRICT_PACK" if config.ray.strict_pack else "PACK"
    return RolePlan(
        role, section.workers, section.cpus_per_worker, section.gpus_per_worker, section.threads_per_worker, strategy,
        config.ray.labels.get(role, {}), tuple(dict.fromkeys(path for path in paths if path)))


def plan_roles(config: PpoConfig) -> dict[str, RolePlan]:
    """The roles of a PPO run."""
    model, saved = (config.model.path, config.model.tokenizer), f"{config.run_dir}/config.yaml"
    scorers = tuple(source.model for source in config.reward.sources)
    plans = [
        plan_role("policy", config.learner, config, (*model, config.reference.adapter, saved), learner=True),
        plan_role("reward", config.reward, config, scorers),
        replace(plan_role("rollout", config.rollout, config, model), extra=joining(config.rollout)),
    ]
    if config.has_critic and not config.critic_inside:
        start = scorers[:1] if config.critic.init == "reward" else model
        plans.append(plan_role("critic", config.critic, config, (*start, saved), learner=True))
    if config.reference.mode == "dedicated":
        plans.append(plan_role("reference", config.reference, config, model))
    return {p.role: p for p in plans}


def joining(rollout: RolloutConfig) -> int:
    """Engines that may join while the run goes on."""
    return (rollout.max_workers or rollout.workers) - rollout.workers


def total_cpus(plans: dict[str, RolePlan]) -> float:
    """CPUs of all workers, those that may join included."""
    return sum(p.most * p.cpus for p in plans.values())


def threads_for(plans: dict[str, RolePlan]) -> dict[str, Choice[int]]:
    """Threads of each role's workers.

    On a cluster of one machine roles take turns, so each gets its share of the cores among those that run at the same
    time: rollouts have the machine to themselves, policy and critic train together. On more machines a worker has
    the CPUs it reserved.
    """
    cores = usable_cores() if is_local_cluster() else None
    training = sum(plans[role].workers for role in ("policy", "critic") if role in plans)
    together = {"policy": training, "critic": training}
    return {p.role: choose_threads(p.threads, p.cpus, cores, together.get(p.role, p.most)) for p in plans.values()}


def check_cluster(plans: dict[str, RolePlan]) -> None:
    """Print what is asked and what there is, if that is more than this machine.

    Raises WorkerError, with the same table, when the cluster can never hold the roles at once, and when a node that may
    hold a role's workers does not see what they need.
    """
    roles, alive = list(plans.values()), alive_nodes()
    nodes: list[Node] = [*alive, *startable_nodes(limit=sum(p.workers for p in roles))]
    missing = shortages(roles, nodes)
    text = table(roles, nodes)
    if missing:
        raise WorkerError(
            f"the cluster cannot hold this run: {'; '.join(missing)}", got=f"\n{text}",
            remedy="lower workers, cpus_per_worker or gpus_per_worker, loosen ray.labels, or add nodes")
    if not is_local_cluster():
        print(text, flush=True)
        check_paths(roles, alive)


def place(plan: RolePlan, timeout: float, make_room: Callable[[], None] = lambda: None) -> PlacementGroup:
    """A ready placement group with a bundle a worker, for roles whose workers need each other.

    `make_room` is called when there is none.
    """
    bundle = {"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {})
    labels = [dict(plan.labels)] * plan.workers
    group = placement_group([bundle] * plan.workers, strategy=plan.strategy, bundle_label_selector=labels)
    patience = min(ROOM_PATIENCE_S, timeout)
    if group.wait(timeout_seconds=patience):
        return group
    make_room()
    if not group.wait(timeout_seconds=timeout - patience):
        raise WorkerError(
            f"no room for the {plan.role} workers",
            limit=f"{plan.needs}, within {timeout:g} s",
            got=f"available now: {ray.available_resources()}",
            remedy="free resources, or ask for less",
        )
    return group

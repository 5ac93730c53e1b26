"""Models and run folders, looked for on the nodes that need them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from medrl.errors import ModelError, WorkerError
from medrl.models.loading import local_dir
from medrl.workers.capacity import Node, RolePlan

TIMEOUT_S = 120.0  # a node that has never run a worker of this job unpacks the job's code first


def check_paths(plans: Sequence[RolePlan], nodes: Sequence[Node]) -> None:
    """WorkerError with a table of what is missing where.

    Every node that could hold a worker of a role must see the role's paths: a worker that is replaced may go there.
    """
    wanted = {
        node.name: sorted({path for plan in plans if node.takes(plan) for path in plan.paths}) for node in nodes
    }
    wanted = {name: paths for name, paths in wanted.items() if paths}
    task = ray.remote(num_cpus=0, max_retries=0)(unseen)
    calls = {
        name: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote(paths)
        for name, paths in wanted.items()
    }
    done, silent = ray.wait(list(calls.values()), num_returns=len(calls), timeout=TIMEOUT_S)
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    missing: list[tuple[str, str]] = []  # (path, where)
    for name, call in calls.items():
        where = f"{addresses.get(name, '?')} (node {name[:8]})"
        if call in silent:
            raise WorkerError("a node does not answer", limit=f"{TIMEOUT_S:g} s to look for models", got=where,
                              remedy="remove the node, or look at its logs")
        try:
            missing += [(path, where) for path in ray.get(call, timeout=TIMEOUT_S)]
        except (RayError, GetTimeoutError) as error:
            raise WorkerError("a node cannot run a task", got=f"{where}: {str(error).splitlines()[0]}") from error
    if missing:
        raise WorkerError(
            "nodes that may hold workers do not see what these need",
            got="\n" + "\n".join(f"    {path}  is not on  {where}" for path, where in sorted(missing)),
            remedy="put it on storage that all these nodes mount at the same path, or keep the roles off them by "
                   "ray.labels")


def unseen(paths: Sequence[str]) -> list[str]:
    """Those that are neither there nor hub ids in the local cache. Runs on the node."""
    return [path for path in paths if not _seen(path)]


def _seen(path: str) -> bool:
    if Path(path).exists():
        return True
    try:
        return local_dir(path).is_dir()
    except ModelError:
        return False

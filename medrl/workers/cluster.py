"""Connecting to Ray: a running cluster, or a local one that lives as long as the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private.state import state

from medrl.config.common import RayConfig
from medrl.errors import WorkerError
from medrl.workers.capacity import Node

# Ray reads these when a cluster or a training run starts. What the user has set stays. RAY_AUTH_MODE is left to Ray on
# purpose: unset, a local cluster gets token authentication; set after `import ray`, driver and cluster would disagree.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
}


@contextmanager
def connect(config: RayConfig, cpus: float = 1.0) -> Iterator[None]:
    """Ray is initialised inside the block.

    An initialised Ray is used as it is and left running. Otherwise the cluster at `config.address` (or RAY_ADDRESS)
    is joined; without one a local cluster starts and is shut down at the end. A local cluster offers at least `cpus`
    logical CPUs, so that all roles fit on a small machine: they take turns more than they compete.

    Raises WorkerError when the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = config.address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            logical = config.num_cpus or max(os.cpu_count() or 1, int(-(-cpus // 1)))
            ray.init(num_cpus=logical, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise WorkerError(
            "cannot connect to Ray",
            limit=f"a cluster at {address}" if address else "a local cluster",
            got=str(error)[:500],
            remedy="check ray.address (or RAY_ADDRESS) and the token; unset both for a local cluster",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> list[Node]:
    """Every node as it is when nothing runs on it, by its id."""
    return [
        Node(
            node["Resources"].get("CPU", 0.0), (1.0,) * int(node["Resources"].get("GPU", 0)), node.get("Labels") or {},
            node["NodeID"],
        )
        for node in ray.nodes() if node["Alive"]
    ]


def startable_nodes(limit: int) -> list[Node]:
    """What the autoscaler, if there is one, could add: at most `limit` of a kind."""
    groups = config.node_group_configs if (config := state.get_cluster_config()) else []
    return [
        Node(float(group.resources.get("CPU", 0)), (1.0,) * group.resources.get("GPU", 0), labels=None)
        for group in groups
        for _ in range(limit if group.max_count < 0 else min(group.max_count, limit))
    ]


def is_local_cluster() -> bool:
    """True when all of the cluster is this machine."""
    return len([node for node in ray.nodes() if node["Alive"]]) == 1

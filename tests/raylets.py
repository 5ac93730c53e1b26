"""A Ray cluster whose nodes come and go: `python -m tests.raylets PORT DASHBOARD_PORT CPUS LABEL` starts its head.

Then it reads commands, a line of JSON each, and answers each with one, {"node": pid of the node's raylet}:

    {"add": {"num_cpus": 2, "labels": {…}}}   a node more
    {"kill": pid}                             SIGKILL to its raylet; what becomes of the rest is Ray's affair
    {"remove": pid}                           all of its processes end in order

It ends everything when its input ends, so that no cluster outlives its test.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from tests.clusters import short_folder

COMMON = {"object_store_memory": 100_000_000, "node_ip_address": "127.0.0.1"}


def raylet(node: Node) -> Any:
    """The process of the node's raylet."""
    return node.all_processes[PROCESS_TYPE_RAYLET][0].process


def carry_out(cluster: Cluster, nodes: dict[int, Node], command: dict[str, Any]) -> int:
    """The pid that the answer names."""
    ((what, argument),) = command.items()
    if what == "add":
        # Each node unpacks a job's code into a folder of its own, as machines do.
        node = cluster.add_node(**COMMON, **argument, runtime_env_dir_name=f"runtime_resources_{len(nodes)}")
        nodes[raylet(node).pid] = node
        return raylet(node).pid
    node = nodes[argument]
    if what == "kill":
        raylet(node).kill()
        raylet(node).wait()  # workers of a raylet that is a zombie take it for alive
    else:
        cluster.remove_node(nodes[argument])
    return argument


def main() -> None:
    port, dashboard, cpus, label = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints, too
    ensure_token_if_auth_enabled()
    with short_folder() as folder:
        os.environ["RAY_TMPDIR"] = folder  # also where jobs look for the cluster: not for another one on this machine
        cluster = Cluster(initialize_head=True, head_node_args=COMMON | {
            "gcs_server_port": port, "include_dashboard": True, "dashboard_host": "127.0.0.1",
            "dashboard_port": dashboard, "dashboard_agent_listen_port": 0, "num_cpus": cpus, "labels": {"medrl": label},
        })
        nodes = {raylet(cluster.head_node).pid: cluster.head_node}
        try:
            print(json.dumps({"node": next(iter(nodes))}), file=answers, flush=True)
            for line in sys.stdin:
                print(json.dumps({"node": carry_out(cluster, nodes, json.loads(line))}), file=answers, flush=True)
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()

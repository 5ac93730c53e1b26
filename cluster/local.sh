#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, with token authentication; all of it listens on 127.0.0.1.
# It runs until Ctrl-C:   cluster/local.sh [NODES [CPUS OF EACH]]
# Then, elsewhere:        medrl submit ppo CONFIG --wait
# PORT, DASHBOARD_PORT: other ports than Ray's own. PYTHON: another `python` than the one on the path.
set -euo pipefail

python=$(command -v "${PYTHON:-python}")
PATH=$(dirname "$python"):$PATH  # jobs run `python`
export PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0  # keeps Ray on the loopback interface, on Linux too
unset RAY_ADDRESS

exec "$python" - "${1:-2}" "${2:-4}" "${PORT:-6379}" "${DASHBOARD_PORT:-8265}" <<'PYTHON'
import os
import signal
import sys
import tempfile

from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray.cluster_utils import Cluster

nodes, cpus, port, dashboard = map(int, sys.argv[1:])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _frame: sys.exit(128 + number))
ensure_token_if_auth_enabled()  # makes ~/.ray/auth_token when there is no token
with tempfile.TemporaryDirectory(prefix="medrl-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets need a short path
    os.environ["RAY_TMPDIR"] = folder  # also where jobs look for the cluster: not for another one on this machine
    common = {"num_cpus": cpus, "object_store_memory": 200_000_000, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args=common | {
        "gcs_server_port": port, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": dashboard,
        "dashboard_agent_listen_port": 0,
    })
    try:
        for number in range(1, nodes):  # each unpacks a job's code into a folder of its own, as machines do
            cluster.add_node(**common, runtime_env_dir_name=f"runtime_resources_{number}")
        print(f"{nodes} nodes with {cpus} CPUs each: http://127.0.0.1:{dashboard}", flush=True)
        signal.pause()
    finally:
        cluster.shutdown()
PYTHON

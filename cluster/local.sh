#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, with token authentication; all of it listens on 127.0.0.1.
# It runs until Ctrl-C:   cluster/local.sh [NODES [CPUS OF EACH]]
# Then, elsewhere:        medrl submit ppo CONFIG --wait
# PORT, DASHBOARD_PORT: other ports than Ray's own. RAY: another `ray` than the one on the path.
set -euo pipefail

nodes=${1:-2} cpus=${2:-4}
ray=${RAY:-ray} port=${PORT:-6379} dashboard=${DASHBOARD_PORT:-8265}
folder=$(mktemp -d /tmp/medrl-XXXXXX)  # short: Ray's sockets lie below it

# Jobs run `python`: it must be the one that Ray itself runs on.
PATH=$(dirname "$(command -v "$ray")"):$PATH
export PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
unset RAY_ADDRESS
token=$("$ray" get-auth-token --generate 2>/dev/null)  # that of ~/.ray/auth_token, made when there is none

pids=()
stop() {
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait || true
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() {
    "$ray" start --block --num-cpus="$cpus" --object-store-memory=200000000 --node-ip-address=127.0.0.1 \
        --min-worker-port=0 --max-worker-port=0 --temp-dir="$folder" "$@" >>"$folder/start.log" 2>&1 &
    pids+=($!)
}

alive() {
    curl --silent --header @- "http://127.0.0.1:$dashboard/nodes?view=summary" <<<"Authorization: Bearer $token" |
        grep --only-matching '"state": *"ALIVE"' | wc -l
}

start --head --port="$port" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" --dashboard-agent-listen-port=0 \
    --ray-client-server-port=$((port + 1))
until [ "$(alive)" = 1 ] || ! kill -0 "${pids[0]}" 2>/dev/null; do sleep 0.5; done
for ((i = 1; i < nodes; i++)); do
    start --address="127.0.0.1:$port" --dashboard-agent-listen-port=0
done
until [ "$(alive)" = "$nodes" ]; do
    for pid in "${pids[@]}"; do
        kill -0 "$pid" 2>/dev/null || { echo "error: a node did not start:" >&2; cat "$folder/start.log" >&2; exit 1; }
    done
    sleep 0.5
done
echo "$nodes nodes with $cpus CPUs each: http://127.0.0.1:$dashboard"
wait -n  # a node that ends ends the cluster

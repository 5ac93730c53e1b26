#!/usr/bin/env bash
# One stage on a Ray cluster of its own that lives as long as the Slurm job:
#   sbatch --nodes=4 cluster/slurm.sh ppo CONFIG [a.b=value] [--resume]
# medrl's environment must be active, and CONFIG's paths and this folder on storage that all nodes mount.
#SBATCH --job-name=medrl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=8
#SBATCH --signal=B:TERM@600
# The last line: ten minutes before the time is over medrl is told to save and end.
set -euo pipefail

port=${PORT:-6379}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d ' ' -f 1)

# A token for this cluster only, in a file that only its owner can read.
umask 077
token=$(mktemp "$PWD/.ray-token-XXXXXX")
openssl rand -hex 32 >"$token"
trap 'rm -f "$token"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0

resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ray start --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 "${resources[@]}" &
until ray health-check --address "$address:$port" 2>/dev/null; do sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --overlap \
        ray start --address="$address:$port" "${resources[@]}" &
fi
expected="^ *$SLURM_JOB_NUM_NODES\$"
until ray list nodes --address "$address:$port" --filter state=ALIVE --format=json | grep -c '"ALIVE"' | grep -q "$expected"; do
    sleep 2
done

RAY_ADDRESS=$address:$port medrl "$@" &
run=$!
trap 'kill -TERM "$run"' TERM
wait "$run" || wait "$run"  # again, when a signal ended the first wait

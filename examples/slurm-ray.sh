#!/bin/bash
# One search on several nodes of a Slurm cluster: sbatch examples/slurm-ray.sh my-study
# See docs/clusters.md. When the time is over, submit it again: the search goes on where it stood.
#SBATCH --job-name=sekd
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:INT@120

set -euo pipefail
study=${1:?usage: sbatch slurm-ray.sh STUDY}

export SEKD_HOME=${SEKD_HOME:-$HOME/studies}      # on the file system that all nodes mount
export SEKD_SCRATCH=${SEKD_SCRATCH:-${TMPDIR:-/tmp}/sekd-$SLURM_JOB_ID}
export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')  # of this job alone; others on the nodes lack it
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))
temp=/tmp/ray-$SLURM_JOB_ID

srun --nodes=1 --ntasks=1 -w "$head" \
  ray start --head --node-ip-address="$address" --port="$port" --temp-dir="$temp" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
sleep 20
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" \
    ray start --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
done
sleep 20

# On the head, where Slurm runs this script. SIGINT, two minutes before the end, has every trial save a checkpoint.
sekd launch "$study" --backend ray --address "$address:$port" &
driver=$!
trap 'kill -INT $driver; wait $driver' INT
wait $driver

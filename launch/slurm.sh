#!/usr/bin/env bash
# Two machines of eight GPUs under SLURM: sbatch launch/slurm.sh recipes/imagenet/dml_pplcnet_x2_5.yaml [key.path=value ...]
#
# Before its time is over, or when it is preempted, the job gets SIGUSR1: every process writes the checkpoint at the next update and ends,
# and the job goes back into the queue. It always starts with --resume, which begins anew where there is no checkpoint yet.
#SBATCH --job-name=mutual
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log
set -euo pipefail

if [ "$#" -eq 0 ]; then
    echo "usage: sbatch launch/slurm.sh RECIPE [key.path=value ...]" >&2
    exit 2
fi

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500} WORLD_SIZE=$SLURM_NTASKS

stopping=""
# shellcheck disable=SC2317,SC2329 # called by the trap
stop() {
    stopping=1
    scancel --signal=USR1 "$SLURM_JOB_ID" # to the steps, not to this shell
}
trap stop USR1 TERM

# one task for each GPU, straight under srun: a launcher in between would not pass the signal on
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID; exec python -m mutual.train "$@" --resume' mutual "$@" &
step=$!
code=0
wait "$step" || code=$?
if [ -n "$stopping" ]; then
    wait "$step" || true # the first wait ended with the signal
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"

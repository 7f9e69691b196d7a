#!/usr/bin/env bash
# A job whose machines come and go: on each of them, with the same words (1 to 4 machines, 8 processes on each, 512 images at once)
#
#   launch/elastic.sh 1:4 8 512 FIRST_HOST:29500 recipes/imagenet/dml_pplcnet_x2_5.yaml [key.path=value ...]
#
# When a machine joins or leaves, torchrun ends all processes (they write the checkpoint first, if they can) and starts them anew on those
# that are there. Every update stays one of as many images (times train.accumulate), each process takes its share, and the run goes on
# with the same numbers.
set -euo pipefail

if [ "$#" -lt 5 ]; then
    echo "usage: launch/elastic.sh MIN:MAX PROCESSES IMAGES HOST:PORT RECIPE [key.path=value ...]" >&2
    exit 2
fi
machines=$1 processes=$2 endpoint=$4
export IMAGES=$3
shift 4

# torch keeps the address of the first round for later ones, so that a machine that joins waits for it in vain; with this it is told anew
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# shellcheck disable=SC2016 # expanded in each process, which knows how many there are
exec torchrun --nnodes "$machines" --nproc_per_node "$processes" --max_restarts 100 --rdzv_id mutual --rdzv_backend c10d \
    --rdzv_endpoint "$endpoint" --no_python \
    bash -c 'exec python -m mutual.train "$@" "data.batch_size=$((IMAGES / WORLD_SIZE))" --resume' mutual "$@"

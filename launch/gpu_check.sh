#!/usr/bin/env bash
# Tests and measures on this machine's GPU what no other machine can, in at most 20 minutes, and writes one file of results
#
#   launch/gpu_check.sh [RESULTS]            (by default runs/gpu_check.txt; an older one is replaced)
#
# In the environment in which `pip install -e ".[test]"` has put mutual. Each part has its own time limit, and what fails or is left out for
# want of time does not keep the others from running. The summary is the end of the file: seconds, exit code and name of each part. Exit
# codes: 0 all parts hold, 1 one has failed or was cut, 2 there is no GPU.
# GPU_CHECK_MINUTES=40 allows more time. GPU_CHECK_TRY=1 tries the script itself, with little of each part, where there is no GPU.
set -uo pipefail

results=$(realpath -m "${1:-runs/gpu_check.txt}")
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
limit=$((60 * ${GPU_CHECK_MINUTES:-20}))
try=${GPU_CHECK_TRY:-}

if [ -n "$try" ]; then
    export MUTUAL_GPU_TESTS_ON=cpu
elif ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu_check: no GPU here: torch.cuda.is_available() is false" >&2
    exit 2
fi
mkdir -p "$(dirname "$results")"
: >"$results" || exit 1
failed=0
summary=""
SECONDS=0

# part NAME MOST COMMAND...: runs it for at most so many seconds of those that are left; its output goes to the terminal and the results
part() {
    local name=$1 most=$2 begun=$SECONDS code=0 left=$((limit - SECONDS))
    shift 2
    [ "$most" -le "$left" ] || most=$left
    printf '\n== %s: %s\n' "$name" "$*" | tee -a "$results"
    if [ "$most" -lt 10 ]; then
        code="left out: no time"
    else
        timeout --kill-after=10 "$most" "$@" 2>&1 | tee -a "$results"
        code=${PIPESTATUS[0]}
        [ "$code" -ne 124 ] || code="cut after $most s"
    fi
    [ "$code" = 0 ] || failed=1
    summary+=$(printf '%5d s  %-18s %s' $((SECONDS - begun)) "$code" "$name")$'\n'
}

# bench NAME MOST RECIPE_ARGUMENT...: mutual.bench of a group that learns by DML
bench() {
    local name=$1 most=$2
    shift 2
    part "$name" "$most" python -m mutual.bench recipes/dml_pplcnet.yaml --json --rounds "$rounds" "name=gpu_check" "$@"
}

measure() {
    part "$1" "$2" python tests/gpu/gpu_bench.py "${@:3}" --rounds "$rounds" ${try:+--small}
}

rounds=20
tests=(tests/gpu)
if [ -n "$try" ]; then
    rounds=2
    tests=(tests/gpu/test_gpu_losses.py)
fi
pplcnet=("data={dataset: fake, image_size: 64, channels: 3, num_classes: 10, num_train: 64, num_val: 64, batch_size: 32}"
    "peers={a: {model: pplcnet_x1_0}, b: {model: pplcnet_x1_0}}")
resnet=("data={dataset: fake, image_size: 32, channels: 3, num_classes: 10, num_train: 128, num_val: 64, batch_size: 64}"
    "peers={a: {model: torchvision/resnet18}, b: {model: torchvision/resnet18}}")
light=("data={dataset: fake, image_size: 32, channels: 3, num_classes: 10, num_train: 128, num_val: 64, batch_size: 64}"
    "peers={a: {model: light_nn}, b: {model: light_nn}, c: {model: light_nn}, d: {model: light_nn}}")
cnn="{model: small_cnn}"
small=("data={dataset: fake, image_size: 28, channels: 1, num_classes: 10, num_train: 128, num_val: 64, batch_size: 64}"
    "peers={a: $cnn, b: $cnn, c: $cnn, d: $cnn, e: $cnn, f: $cnn, g: $cnn, h: $cnn}")

measure "environment" 60 environment
part "tests" 420 python -m pytest -q -rfEs -p no:cacheprovider -m gpu "${tests[@]}"
bench "floor, 2 x resnet18, 32 px" 60 --floor "${resnet[@]}"
if [ -z "$try" ]; then
    bench "floor, 2 x pplcnet_x1_0, 64 px" 60 --floor "${pplcnet[@]}"
    bench "floor, 4 x light_nn, 32 px" 60 --floor "${light[@]}"
    bench "floor, 8 x small_cnn, 28 px" 60 --floor "${small[@]}"
    for tf32 in true false; do
        bench "tf32 $tf32, 2 x resnet18, 32 px" 40 "${resnet[@]}" "train.tf32=$tf32"
    done
fi
measure "one peer against timm's loop" 120 loop
measure "busy share" 150 busy
measure "four equal peers against four runs" 150 four
measure "settings" 240 settings
[ -n "$try" ] || bench "tune, 2 x resnet18, 32 px" 240 --tune "${resnet[@]}"

{
    printf '\n== summary: %d s\n%s' "$SECONDS" "$summary"
    [ "$failed" -eq 0 ] && echo "everything holds" || echo "not everything holds"
} | tee -a "$results"
echo "results: $results"
exit "$failed"

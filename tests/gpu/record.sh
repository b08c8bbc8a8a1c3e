#!/usr/bin/env bash
# Everything here that needs a GPU, within 25 minutes: tests, audit, seven arms on CIFAR-10, trace, benchmarks.
#
#   SYMBREAK_DATA=/data OUT=results tests/gpu/record.sh     /data/cifar10-jpeg/{train,test}/<class>/*.jpg
#   TINY=1 OUT=/tmp/rehearsal tests/gpu/record.sh           a rehearsal on the CPU: every part, at its smallest
#   WHEELS=wheels ...                                       first install from a folder of wheels, without network:
#                                                           pip wheel --wheel-dir wheels ".[pictures]" pytest pytest-benchmark
#
# A part that fails or takes too long does not stop the others: OUT/parts.csv has each part's seconds and exit code,
# OUT/<part>.log its output.
set -uo pipefail
cd "$(dirname "$0")/../.."
: "${OUT:?the folder of the results}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export SYMBREAK_DATA=${SYMBREAK_DATA:-data} WANDB_MODE=disabled PYTHONPATH="$PWD/.package:$PWD"
python=${PYTHON:-python3}
tiny=${TINY:-}
device=${tiny:+cpu}
device=${device:-cuda}
accelerator=${device/cuda/gpu}
if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install --quiet --no-index --find-links "$WHEELS" symbreak pytest pytest-benchmark kaleido greenlet
fi
symbreak="$python -m symbreak.sweeps"

part() { # NAME SECONDS COMMAND...: run a command for so long at most
    local name=$1 limit=$2 start=$SECONDS code
    shift 2
    timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
    code=$?
    echo "$name,$((SECONDS - start)),$code" | tee -a "$OUT/parts.csv"
}

five_arms() {
    local file=sweeps/cifar10_short.yaml
    if [ -n "$tiny" ]; then
        file=$OUT/cifar10_short.yaml
        sed -e 's/accelerator=gpu/accelerator=cpu/; s/widen_factor=10/widen_factor=1/; s/=1053/=2/' \
            -e 's/^  - ${args}/  - --trainer.limit_val_batches=1\n  - --trainer.limit_test_batches=1\n&/' \
            sweeps/cifar10_short.yaml >"$file"
    fi
    $symbreak sweep "$file" --workers 1 --output "$OUT/runs"
}

trace() {
    local mode network=(--config digits --trainer.max_steps 30)
    [ -n "$tiny" ] && network=(--config digits --trainer.max_steps 2)
    for mode in nondeterministic cudnn strict; do
        $symbreak trace "${network[@]}" --trainer.accelerator "$accelerator" --determinism.mode "$mode" \
            --run.dir "$OUT/runs/trace-$mode" || return
    done
}

audit() {
    local few=()
    [ -n "$tiny" ] && few=(--operations '[conv3x3_*]' --precisions '[float32]' --modes '[strict]' --shapes '[2x4x8x8]')
    $symbreak audit --device "$device" --output "$OUT/audit_gpu.json" "${few[@]}"
}

benchmarks() {
    local each names="training callbacks measures"
    [ -n "$tiny" ] && names=start
    for each in $names; do
        "$python" -m pytest "tests/benchmarks/bench_$each.py" -q -p no:cacheprovider \
            --benchmark-json="$OUT/bench_$each.json" || return
    done
}

export -f five_arms trace audit benchmarks
export OUT tiny device accelerator python symbreak
echo "part,seconds,exit code" >"$OUT/parts.csv"
part environment 30 "$python" -c "
import json, sys, torch
from symbreak.callbacks.determinism import environment
json.dump(environment(), open(sys.argv[1] + '/environment.json', 'w'), indent=1, default=str)
" "$OUT"
part tests 270 "$python" -m pytest tests/gpu -q -p no:cacheprovider --junitxml="$OUT/tests.xml"
part audit 240 bash -c audit
part five_arms 600 bash -c five_arms
part trace 150 bash -c trace
part benchmarks 150 bash -c benchmarks
part record 60 $symbreak record "$OUT/runs/cifar10_short" -o "$OUT/cifar10_short"

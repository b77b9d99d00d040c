#!/usr/bin/env bash
# Every plane of the synthetic cohort with few labels: from scratch, pretrained on that plane, or on all planes at once.
#
#   launch/synthetic_planes.sh run [CPU]
#   python -m analysis.screening --runs=runs/planes --output=results
#
# A labelled set is named by the percentage of the training subjects and the plane. Resumable; SEEDS and PLANES choose.
set -euo pipefail
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
RUNS=${RUNS:-runs/planes}
SEEDS=${SEEDS:-0 1 2}
PLANES=${PLANES:-la_4ch la_2ch sax}
declare -A percent=([sax]=5 [la_2ch]=10 [la_4ch]=10)

pretrain() {  # config, seed, flags
  local run=$RUNS/$1_s$2
  [ -e "$run/done" ] && return
  ${PIN:-} "$PYTHON" -m morphojax.main --config="configs/$1.py" --config.workdir="$run" --config.seed="$2" --config.eval_every=0 "${@:3}"
  touch "$run/done"
}

segment() {  # arm, plane, seed, from
  local run=$RUNS/$1_${percent[$2]}${2//_/}_s$3
  [ -e "$run/evaluation/summary_test.json" ] && return
  ${PIN:-} "$PYTHON" -m morphojax.main --config="configs/segment_$2.py" --config.workdir="$run" --config.seed="$3" --config.init_from="$4" \
    --config.data.fraction="0.$(printf %02d "${percent[$2]}")" --config.eval_every=0
  ${PIN:-} "$PYTHON" -m morphojax.evaluate --run="$run" --split=test --checkpoint=last
}

case ${1:-} in
  run)
    PIN=${2:+taskset -c $2}
    mkdir -p "$RUNS"
    for seed in $SEEDS; do
      pretrain pretrain_multiplane "$seed"
      for plane in $PLANES; do
        pretrain "pretrain_$plane" "$seed"
        segment scratch "$plane" "$seed" ""
        segment pretrained "$plane" "$seed" "$RUNS/pretrain_${plane}_s$seed"
        segment multiplane "$plane" "$seed" "$RUNS/pretrain_multiplane_s$seed"
      done
    done ;;
  *) sed -n '2,7p' "$0"; exit 1 ;;
esac

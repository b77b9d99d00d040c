#!/usr/bin/env bash
# The few-label experiment on Sunnybrook (LV cavity only): pretraining with participants.csv, then segmentation, with and beside from scratch.
#
#   launch/sunnybrook_few_labels.sh prepare SUNNYBROOK_FOLDER
#   launch/sunnybrook_few_labels.sh run [CPU]
#
# The labelled subjects are a tenth of the training subjects, another tenth for each seed. Resumable, as launch/acdc_few_labels.sh.
set -euo pipefail
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
DATA=${DATA:-data/sunnybrook}
RUNS=${RUNS:-runs/sunnybrook}

case ${1:-} in
  prepare)
    "$PYTHON" -m morphojax.prepare --source=sunnybrook --input="$2" --output="$DATA" --spacing=1.5 --size=128 --split_fractions=0.6,0.1,0.3 ;;
  run)
    PIN=${2:+taskset -c $2}
    for seed in ${SEEDS:-0 1 2}; do
      if [ ! -e "$RUNS/pretrain_s$seed/done" ]; then
        ${PIN:-} "$PYTHON" -m morphojax.main --config=configs/pretrain_acdc.py --config.data.dataset="$DATA" --config.workdir="$RUNS/pretrain_s$seed" \
          --config.seed="$seed" --config.table.groups=all --config.batch_size=16 --config.steps=150
        touch "$RUNS/pretrain_s$seed/done"
      fi
      for arm in scratch pretrained; do
        run=$RUNS/${arm}_2_s$seed
        [ -e "$run/evaluation/summary_test.json" ] && continue
        from=""
        [ $arm = scratch ] || from=$RUNS/pretrain_s$seed
        ${PIN:-} "$PYTHON" -m morphojax.main --config=configs/segment_acdc.py --config.data.dataset="$DATA" --config.workdir="$run" \
          --config.seed="$seed" --config.steps=500 --config.data.fraction=0.1 --config.init_from="$from"
        ${PIN:-} "$PYTHON" -m morphojax.evaluate --run="$run" --split=test --checkpoint=last
      done
    done ;;
  *) sed -n '2,7p' "$0"; exit 1 ;;
esac

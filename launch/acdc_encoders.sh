#!/usr/bin/env bash
# Encoder families on ACDC with eight labelled patients, from scratch and pretrained with morphometrics.
#
#   launch/acdc_few_labels.sh prepare ACDC_FOLDER      once: data and lists are those of the few-label experiment
#   launch/acdc_encoders.sh run [CPU]
#   python -m analysis.screening --runs=runs/encoders --output=results --baseline=resnet18_scratch
#
# 150 steps of 12 patients x 3 slices of pretraining (InfoNCE), 1000 steps of 8 slices of segmentation. ENCODERS, SETS and SEEDS choose; resumable.
set -euo pipefail
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
DATA=${DATA:-data/acdc}
RUNS=${RUNS:-runs/encoders}
SEEDS=${SEEDS:-0}
SETS=${SETS:-8b}
ENCODERS=${ENCODERS:-resnet18 convnext_pico swin_micro unet_small}
declare -A width=([resnet18]=32 [convnext_pico]=32 [swin_micro]=32 [unet_small]=16)
declare -A rate=([resnet18]=5e-3 [convnext_pico]=2e-3 [swin_micro]=1e-3 [unet_small]=5e-3)  # attention and layer norm bear less

encoder() {  # encoder, seed
  local model=(--config.model.encoder="$1" --config.model.width="${width[$1]}") from=$RUNS/pretrain/$1_s$2 arm set run
  if [ ! -e "$from/done" ]; then
    ${PIN:-} "$PYTHON" -m morphojax.main --config=configs/pretrain_acdc.py --config.data.dataset="$DATA" --config.workdir="$from" \
      --config.seed="$2" --config.data.subjects="('$DATA.lists/pretraining.txt',)" --config.steps=150 --config.epochs=0.0 \
      --config.batch_size=12 --config.save_every=150 --config.images_every=150 --config.dynamics_every=30 "${model[@]}"
    touch "$from/done"
  fi
  for set in $SETS; do
    for arm in scratch pretrained; do
      run=$RUNS/$1_${arm}_${set}_s$2
      [ -e "$run/evaluation/summary_test.json" ] && continue
      ${PIN:-} "$PYTHON" -m morphojax.main --config=configs/segment_acdc_many.py --config.data.dataset="$DATA" --config.workdir="$run" \
        --config.seed="$2" --config.data.subjects="('$DATA.lists/$set.txt',)" --config.eval_every=0 \
        --config.optimizer.learning_rate="${rate[$1]}" --config.init_from="$([ $arm = pretrained ] && echo "$from")" "${model[@]}"
      ${PIN:-} "$PYTHON" -m morphojax.evaluate --run="$run" --split=test --checkpoint=last
    done
  done
}

case ${1:-} in
  run)
    PIN=${2:+taskset -c $2}
    mkdir -p "$RUNS/locks"
    for seed in $SEEDS; do
      for name in $ENCODERS; do
        ( flock --nonblock 9 || exit 0; encoder "$name" "$seed" ) 9>"$RUNS/locks/${name}_s$seed" </dev/null
      done
    done ;;
  *) sed -n '2,8p' "$0"; exit 1 ;;
esac

#!/usr/bin/env bash
# Every arm under one small budget on ACDC: pretraining, then segmentation from two labelled patients, image only at test.
#
#   launch/acdc_few_labels.sh prepare ACDC_FOLDER      once: data and lists are those of the few-label experiment
#   launch/acdc_screening.sh run [CPU]
#   python -m analysis.screening --runs=runs/screening --output=results
#
# The budget of an arm: 150 steps of 12 patients x 3 slices, then 800 steps of 8 slices for each labelled set. Arms that use the table in
# fine-tuning add one unlabelled stack to each of those steps. ARMS, SETS and SEEDS choose; resumable, as launch/acdc_few_labels.sh.
set -euo pipefail
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
DATA=${DATA:-data/acdc}
RUNS=${RUNS:-runs/screening}
SEEDS=${SEEDS:-0}
SETS=${SETS:-2a 2d}
PRETRAIN_STEPS=${PRETRAIN_STEPS:-150}
SEGMENT_STEPS=${SEGMENT_STEPS:-800}
ARMS=${ARMS:-scratch volume info_nce regression info_nce_volume regression_volume condition pseudo \
  volume_shuffled info_nce_shuffled info_nce_noise regression_shuffled \
  sigmoid cross_columns info_nce_regression simclr position byol simsiam barlow_twins vicreg swav regional \
  nt_xent supcon remove_fn remove_similar nearest soft match scratch_vit masked_patches}

pretrain_flags() {  # arm: the pretraining that it starts from; nothing for none
  local arm=${1%_volume} common=(--config.table.groups=cardiac_morphometric)
  case $arm in
    scratch|scratch_vit|volume|volume_shuffled|condition|pseudo) return ;;
    simclr|position|byol|simsiam|barlow_twins|vicreg|swav|regional|masked_patches) common=(--config.table.groups=none) ;;
    supcon|remove_fn) common+=(--config.table.label=group) ;;
    *_shuffled|*_noise) common+=(--config.table.control="${arm##*_}"); arm=${arm%_*} ;;
  esac
  echo "--config=configs/pretrain_arm.py:$arm" "${common[@]}"
}

segment_flags() {  # arm
  local stacks=(--config.unlabelled.batch_size=1 "--config.unlabelled.subjects=('$DATA.lists/pretraining.txt',)")
  case $1 in
    volume|*_volume) echo "${stacks[@]}" ;;
    volume_shuffled) echo "${stacks[@]}" --config.unlabelled.shuffled=True ;;
    pseudo) echo "${stacks[@]}" --config.unlabelled.pseudo=0.5 ;;
    condition) echo "${stacks[@]}" --config.model.condition=cardiac_morphometric \
      --config.unlabelled.consistency=0.0 --config.unlabelled.entropy=0.0001 ;;
    scratch_vit|masked_patches) echo --config.model.encoder=vit_tiny ;;
  esac
}

arm() {  # arm, seed
  local flags run pretraining=$RUNS/pretrain/$1_s$2 set from=""
  flags=$(pretrain_flags "$1")
  if [ -n "$flags" ]; then
    from=$pretraining
    if [ ! -e "$from/done" ]; then
      # shellcheck disable=SC2086  # flags are words
      ${PIN:-} "$PYTHON" -m morphojax.main $flags --config.data.dataset="$DATA" --config.workdir="$from" --config.seed="$2" \
        --config.data.subjects="('$DATA.lists/pretraining.txt',)" --config.epochs=0.0 --config.steps="$PRETRAIN_STEPS" \
        --config.batch_size=12 --config.input.slices=3 --config.eval_every=0 --config.save_every="$PRETRAIN_STEPS" \
        --config.images_every="$PRETRAIN_STEPS" --config.dynamics_every=30
      touch "$from/done"
    fi
  fi
  for set in $SETS; do
    run=$RUNS/$1_${set}_s$2
    [ -e "$run/evaluation/summary_test.json" ] && continue
    # shellcheck disable=SC2046
    ${PIN:-} "$PYTHON" -m morphojax.main --config=configs/segment_acdc.py --config.data.dataset="$DATA" --config.workdir="$run" \
      --config.seed="$2" --config.steps="$SEGMENT_STEPS" --config.data.subjects="('$DATA.lists/$set.txt',)" \
      --config.init_from="$from" --config.eval_every=0 $(segment_flags "$1")
    ${PIN:-} "$PYTHON" -m morphojax.evaluate --run="$run" --split=test --checkpoint=last
  done
}

case ${1:-} in
  run)
    PIN=${2:+taskset -c $2}
    mkdir -p "$RUNS/locks"
    for seed in $SEEDS; do
      for name in $ARMS; do
        ( flock --nonblock 9 || exit 0; arm "$name" "$seed" ) 9>"$RUNS/locks/${name}_s$seed" </dev/null
      done
    done ;;
  *) sed -n '2,9p' "$0"; exit 1 ;;
esac

#!/usr/bin/env bash
# Every arm under one small budget on ACDC: pretraining, then segmentation with two labelled patients. At test time
# every arm sees images alone.
#
#   launch/acdc_few_labels.sh prepare ACDC_FOLDER      once: makes the data and lists of subjects
#                                                      (shared with the few-label experiment)
#   launch/acdc_screening.sh run [CPU]
#   python -m analysis.screening --runs=runs/screening --output=results
#
# The budget of an arm: 150 steps of 12 patients x 3 slices, then 800 steps of 8 slices for each labelled set. Arms that
# use the table in fine-tuning add one unlabelled stack to each of those steps.
# The variables ARMS, SETS and SEEDS choose the runs. Resumable, as launch/acdc_few_labels.sh.
. "$(dirname "$0")/common.sh"
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

pretrain_flags() {  # arm: flags of the pretraining that it starts from; empty if it starts from scratch
  local arm=${1%_volume} common=(--config.table.groups=cardiac_morphometric)
  case $arm in
    scratch|scratch_vit|volume|volume_shuffled|condition|pseudo) return ;;
    simclr|position|byol|simsiam|barlow_twins|vicreg|swav|regional|masked_patches) common=(--config.table.groups=none) ;;
    supcon|remove_fn) common+=(--config.table.label=group) ;;
    *_shuffled|*_noise) common+=(--config.table.control="${arm##*_}"); arm=${arm%_*} ;;
  esac
  echo "--config=configs/pretrain_arm.py:$arm" "${common[@]}"
}

segment_flags() {  # arm: flags of its segmentation, beside those that all arms share
  local stacks=(--config.unlabelled.batch_size=1 "--config.unlabelled.subjects=('$DATA.lists/pretraining.txt',)")
  case $1 in
    volume|*_volume) echo "${stacks[@]}" ;;
    volume_shuffled) echo "${stacks[@]}" --config.unlabelled.control=shuffled ;;
    pseudo) echo "${stacks[@]}" --config.unlabelled.objectives.agreeing_stacks.weight=0.5 ;;
    condition) echo "${stacks[@]}" --config.model.condition=cardiac_morphometric --config.objective.measures_weight=0.1 \
      --config.unlabelled.objectives.volume_consistency.weight=0.0 --config.unlabelled.objectives.entropy.weight=0.0001 ;;
    scratch_vit|masked_patches) echo --config.model.encoder=vit_tiny ;;
  esac
}

arm() {  # arm, seed
  local flags set from="" data=(--config.data.dataset="$DATA" --config.seed="$2")
  flags=$(pretrain_flags "$1")
  if [ -n "$flags" ]; then
    from=$RUNS/pretrain/${1%_volume}_s$2
    # shellcheck disable=SC2086  # the flags are separate words
    trained "$from" $flags "${data[@]}" --config.data.subjects="('$DATA.lists/pretraining.txt',)" --config.epochs=0.0 \
      --config.steps="$PRETRAIN_STEPS" --config.batch_size=12 --config.input.slices=3 --config.eval_every=0 \
      --config.save_every="$PRETRAIN_STEPS" --config.images_every="$PRETRAIN_STEPS" --config.dynamics_every=30
  fi
  for set in $SETS; do
    # shellcheck disable=SC2046
    segmented "$RUNS/$1_${set}_s$2" --config=configs/segment_acdc.py "${data[@]}" --config.steps="$SEGMENT_STEPS" \
      --config.data.subjects="('$DATA.lists/$set.txt',)" --config.init_from="$from" --config.eval_every=0 $(segment_flags "$1")
  done
}

case ${1:-} in
  run)
    pinned "${2:-}"
    for seed in $SEEDS; do
      for name in $ARMS; do locked "${name}_s$seed" arm "$name" "$seed"; done
    done ;;
  *) usage ;;
esac

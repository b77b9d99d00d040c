#!/usr/bin/env bash
# ACDC with one or two labelled patients: pretraining x what a segmentation learns from unlabelled patients, and
# controls. At test time every arm sees images alone.
#
#   launch/acdc_few_labels.sh prepare ACDC_FOLDER      once: makes the data and lists of subjects
#   launch/acdc_self_training.sh run [CPU]
#   python -m analysis.screening --runs=runs/self_training --output=results --baseline=supervised --sets=1a,1c,1d,2a,2d
#
# An arm is `[<pretraining>_]<fine-tuning>[_<control>]`:
#   pretraining  info_nce (image against table), info_nce_shuffled (its permutation control), simclr (images alone)
#   fine-tuning  supervised, volume, self_training, calibrated: the arms of configs/segment_acdc.py
#   control      shuffled, mean, noise_5, noise_10 or noise_20: the volumes of config.unlabelled.control
# The variables ARMS, SETS and SEEDS choose the runs; STEPS and PRETRAIN_STEPS their length. On a GPU give
# CONFIG=segment_acdc_gpu ENCODER=unet and another folder in RUNS. Resumable, as launch/acdc_few_labels.sh. A run that
# fails is reported, and the next one begins.
. "$(dirname "$0")/common.sh"
DATA=${DATA:-data/acdc}
RUNS=${RUNS:-runs/self_training}
SEEDS=${SEEDS:-0}
SETS=${SETS:-2a 1a 2d 1d 1c}
STEPS=${STEPS:-2000}
PRETRAIN_STEPS=${PRETRAIN_STEPS:-1200}
CONFIG=${CONFIG:-segment_acdc}
ENCODER=${ENCODER:-unet_half}
WEIGHTS=ema
ARMS=${ARMS:-supervised self_training calibrated calibrated_shuffled volume info_nce_supervised \
  info_nce_shuffled_supervised simclr_supervised volume_shuffled calibrated_mean info_nce_self_training \
  info_nce_calibrated calibrated_noise_10}

pretrained() {  # pretraining, seed: trains it once
  local flags=(--config="configs/pretrain_arm.py:${1%_shuffled}" --config.table.groups=cardiac_morphometric)
  case $1 in
    simclr) flags=(--config=configs/pretrain_arm.py:simclr --config.table.groups=none) ;;
    *_shuffled) flags+=(--config.table.control=shuffled) ;;
  esac
  trained "$RUNS/pretrain/$1_s$2" "${flags[@]}" --config.data.dataset="$DATA" --config.seed="$2" \
    --config.data.subjects="('$DATA.lists/pretraining.txt',)" --config.epochs=0.0 --config.steps="$PRETRAIN_STEPS" \
    --config.batch_size=24 --config.input.slices=4 --config.eval_every=0 --config.save_every=400 \
    --config.images_every=400 --config.dynamics_every=200 --config.model.encoder="$ENCODER"
}

arm() {  # arm, seed
  local pretraining control fine_tuning set
  if [[ ! $1 =~ ^((.*)_)?(self_training|supervised|calibrated|volume)(_(.*))?$ ]]; then
    echo "unknown arm $1" >&2
    return 1
  fi
  pretraining=${BASH_REMATCH[2]} fine_tuning=${BASH_REMATCH[3]} control=${BASH_REMATCH[5]}
  if [ -n "$pretraining" ]; then pretrained "$pretraining" "$2"; fi
  for set in $SETS; do
    segmented "$RUNS/$1_${set}_s$2" --config="configs/$CONFIG.py:$fine_tuning" --config.data.dataset="$DATA" \
      --config.seed="$2" --config.steps="$STEPS" --config.data.subjects="('$DATA.lists/$set.txt',)" \
      --config.unlabelled.subjects="('$DATA.lists/pretraining.txt',)" --config.eval_every=0 \
      --config.init_from="${pretraining:+$RUNS/pretrain/${pretraining}_s$2}" --config.model.encoder="$ENCODER" \
      ${control:+--config.unlabelled.control="$control"}
  done
}

case ${1:-} in
  run)
    pinned "${2:-}"
    for seed in $SEEDS; do
      for name in $ARMS; do locked "${name}_s$seed" arm "$name" "$seed" || echo "failed: $name, seed $seed" >&2; done
    done ;;
  *) usage ;;
esac

#!/usr/bin/env bash
# Encoder families on ACDC with eight labelled patients, from scratch and pretrained with morphometrics.
#
#   launch/acdc_few_labels.sh prepare ACDC_FOLDER      once: makes the data and lists of subjects
#                                                      (shared with the few-label experiment)
#   launch/acdc_encoders.sh run [CPU]
#   python -m analysis.screening --runs=runs/encoders --output=results --baseline=resnet18_scratch
#
# Pretraining (InfoNCE): 150 steps of 12 patients x 3 slices. Segmentation: 1000 steps of 8 slices.
# The variables ENCODERS, SETS and SEEDS choose the runs. Resumable.
. "$(dirname "$0")/common.sh"
DATA=${DATA:-data/acdc}
RUNS=${RUNS:-runs/encoders}
SEEDS=${SEEDS:-0}
SETS=${SETS:-8b}
ENCODERS=${ENCODERS:-resnet18 convnext_pico swin_micro unet_small}
declare -A width=([resnet18]=32 [convnext_pico]=32 [swin_micro]=32 [unet_small]=16)
declare -A rate=([resnet18]=5e-3 [convnext_pico]=2e-3 [swin_micro]=1e-3 [unet_small]=5e-3)  # attention and LayerNorm need lower rates

encoder() {  # encoder, seed
  local common=(--config.data.dataset="$DATA" --config.seed="$2" --config.model.encoder="$1" --config.model.width="${width[$1]}")
  local pretraining=$RUNS/pretrain/$1_s$2 arm set from
  trained "$pretraining" --config=configs/pretrain_acdc.py "${common[@]}" --config.data.subjects="('$DATA.lists/pretraining.txt',)" \
    --config.steps=150 --config.batch_size=12 --config.save_every=150 --config.images_every=150 --config.dynamics_every=30
  for set in $SETS; do
    for arm in scratch pretrained; do
      from=""
      [ $arm = scratch ] || from=$pretraining
      segmented "$RUNS/$1_${arm}_${set}_s$2" --config=configs/segment_acdc_many.py "${common[@]}" --config.eval_every=0 \
        --config.data.subjects="('$DATA.lists/$set.txt',)" --config.optimizer.learning_rate="${rate[$1]}" --config.init_from="$from"
    done
  done
}

case ${1:-} in
  run)
    pinned "${2:-}"
    for seed in $SEEDS; do
      for name in $ENCODERS; do locked "${name}_s$seed" encoder "$name" "$seed"; done
    done ;;
  *) usage ;;
esac

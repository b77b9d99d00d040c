#!/usr/bin/env bash
# Classification of a diagnosis with few labels, on the synthetic cohort: with encoders pretrained on images and tables,
# on images alone, or not at all.
#
#   launch/synthetic_probes.sh run [CPU]
#   python -m analysis.probes --scores=runs/probes/scores
#
# The cohort: 600 subjects at 48 x 48 pixels of 4 mm. The encoder: a ResNet-18 of width 16. Pretraining: 1500 batches of
# 32 subjects x 6 slices (in 200 batches InfoNCE learns nothing); the table lacks the label and the columns that leak it.
# Every encoder is fine-tuned with the labelled fraction of the training subjects (20 epochs of all, 100 epochs of a
# tenth), and probed frozen.
. "$(dirname "$0")/common.sh"
RUNS=${RUNS:-runs/probes}
LABEL=${LABEL:-cardiomyopathy}
FRACTIONS=${FRACTIONS:-0.1 1.0}
SEEDS=${SEEDS:-0 1 2}
COHORT=(--config.data.synthetic_subjects=600 --config.data.synthetic_size=48 --config.data.synthetic_spacing_mm=4.0 --config.model.width=16)

pretrain() {  # arm, config and flags
  trained "$RUNS/$1" --config="$2" "${COHORT[@]}" --config.epochs=0.0 --config.steps=1500 \
    --config.table.without_leaks_for="$LABEL" --config.eval_every=300 --config.save_every=500 --config.images_every=500 "${@:3}"
}

finetune() {  # arm, labelled fraction, seed, epochs
  local name=${1}_finetuned_$2_s$3 from=""
  local run=$RUNS/$name out=$RUNS/scores/$name
  [ -e "$out/scores.json" ] && return
  [ "$1" = supervised ] || from=$RUNS/$1
  program main --config=configs/probe.py "${COHORT[@]}" --config.workdir="$run" --config.init_from="$from" --config.label="$LABEL" \
    --config.data.fraction="$2" --config.seed="$3" --config.epochs="$4" --config.eval_every=0 --config.save_every=1000
  program probe --run="$run" --checkpoint=last --output="$out"
}

frozen() {  # arm, labelled fraction, seed
  local out=$RUNS/scores/$1_frozen_$2_s$3
  [ -e "$out/scores.json" ] || program probe --run="$RUNS/$1" --label="$LABEL" --fraction="$2" --seed="$3" --output="$out"
}

case ${1:-} in
  run)
    pinned "${2:-}"
    pretrain multimodal configs/pretrain_sax.py
    pretrain image_only configs/pretrain_arm.py:simclr
    for seed in $SEEDS; do
      for fraction in $FRACTIONS; do
        epochs=20.0; [ "$fraction" = 1.0 ] || epochs=100.0
        for arm in multimodal image_only; do
          locked "frozen_${arm}_${fraction}_s$seed" frozen "$arm" "$fraction" "$seed"
        done
        for arm in supervised multimodal image_only; do
          locked "finetune_${arm}_${fraction}_s$seed" finetune "$arm" "$fraction" "$seed" "$epochs"
        done
      done
    done ;;
  *) usage ;;
esac

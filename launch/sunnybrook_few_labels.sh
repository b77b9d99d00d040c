#!/usr/bin/env bash
# The few-label experiment on Sunnybrook (LV cavity only): segmentation from scratch, and from an encoder pretrained
# with participants.csv.
#
#   launch/sunnybrook_few_labels.sh prepare SUNNYBROOK_FOLDER
#   launch/sunnybrook_few_labels.sh run [CPU]
#
# The labelled subjects are a tenth of the training subjects, drawn anew for each seed. Resumable, as
# launch/acdc_few_labels.sh.
. "$(dirname "$0")/common.sh"
DATA=${DATA:-data/sunnybrook}
RUNS=${RUNS:-runs/sunnybrook}

case ${1:-} in
  prepare)
    program prepare --source=sunnybrook --input="$2" --output="$DATA" --spacing=1.5 --size=128 --split_fractions=0.6,0.1,0.3 --key=none ;;
  run)
    pinned "${2:-}"
    for seed in ${SEEDS:-0 1 2}; do
      trained "$RUNS/pretrain_s$seed" --config=configs/pretrain_acdc.py --config.data.dataset="$DATA" \
        --config.seed="$seed" --config.table.groups=all --config.batch_size=16 --config.steps=150
      for arm in scratch pretrained; do
        from=""
        [ $arm = scratch ] || from=$RUNS/pretrain_s$seed
        segmented "$RUNS/${arm}_2_s$seed" --config=configs/segment_acdc.py --config.data.dataset="$DATA" \
          --config.seed="$seed" --config.steps=500 --config.data.fraction=0.1 --config.init_from="$from"
      done
    done ;;
  *) usage ;;
esac

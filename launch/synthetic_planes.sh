#!/usr/bin/env bash
# Segmentation of every plane of the synthetic cohort with few labels: from scratch, pretrained on that plane, or
# pretrained on all planes at once.
#
#   launch/synthetic_planes.sh run [CPU]
#   python -m analysis.screening --runs=runs/planes --output=results --sets=5sax
#
# The name of a labelled set is the percentage of the training subjects and the plane: 5sax, 10la2ch, 10la4ch.
# The variables SEEDS and PLANES choose the runs. Resumable.
. "$(dirname "$0")/common.sh"
RUNS=${RUNS:-runs/planes}
SEEDS=${SEEDS:-0 1 2}
PLANES=${PLANES:-la_4ch la_2ch sax}
declare -A percent=([sax]=5 [la_2ch]=10 [la_4ch]=10)

pretrain() {  # plane or multiplane, seed
  trained "$RUNS/pretrain_$1_s$2" --config="configs/pretrain_$1.py" --config.seed="$2" --config.eval_every=0
}

plane() {  # plane, seed
  local arm set=${percent[$1]}${1//_/}
  pretrain "$1" "$2"
  pretrain multiplane "$2"
  declare -A from=([scratch]="" [pretrained]=$RUNS/pretrain_$1_s$2 [multiplane]=$RUNS/pretrain_multiplane_s$2)
  for arm in scratch pretrained multiplane; do
    segmented "$RUNS/${arm}_${set}_s$2" --config="configs/segment_$1.py" --config.seed="$2" --config.init_from="${from[$arm]}" \
      --config.data.fraction="0.$(printf %02d "${percent[$1]}")" --config.eval_every=0
  done
}

case ${1:-} in
  run)
    pinned "${2:-}"
    for seed in $SEEDS; do
      for plane in $PLANES; do locked "${plane}_s$seed" plane "$plane" "$seed"; done
    done ;;
  *) usage ;;
esac

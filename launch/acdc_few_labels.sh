#!/usr/bin/env bash
# The few-label experiment on ACDC: segmentation from scratch, and from an encoder pretrained with morphometrics.
#
#   launch/acdc_few_labels.sh prepare ACDC_FOLDER   once: makes data/acdc and the lists of subjects
#   launch/acdc_few_labels.sh run [CPU]             trains and scores, on that CPU if given
#
# The patients are those of the published protocol of Chaitanya et al. 2020 (case numbers of the public training set).
# Every run is resumable, locked while it runs, and skipped once it is scored: the script can be stopped and started
# again, and several workers can share it.
. "$(dirname "$0")/common.sh"
DATA=${DATA:-data/acdc}
RUNS=${RUNS:-runs/acdc}
SEEDS=${SEEDS:-0 1 2}
SETS=${SETS:-2a 8a all 2d 8b 2b 8c 2c 2e}
ARMS=${ARMS:-scratch pretrained}

cases() { for number in "$@"; do printf 'patient%03d\n' "$((10#$number))"; done; }

pretraining=$(seq 1 6; echo 12; seq 17 26; seq 37 46; seq 57 66; echo 72; seq 77 86; seq 97 100)
validation="11 71"
test="13 14 15 16 33 34 35 36 53 54 55 56 73 74 75 76 91 92 93"  # 094 is among the labelled patients
declare -A labelled=(
  [1a]="002" [1b]="042" [1c]="095" [1d]="022" [1e]="062"
  [2a]="042 062" [2b]="002 042" [2c]="042 095" [2d]="002 022" [2e]="002 095"
  [8a]="002 022 042 062 095 003 023 043" [8b]="002 022 042 062 095 063 094 043" [8c]="002 022 042 062 095 003 094 023"
)

prepare() {
  mkdir -p "$DATA.lists"
  cases $pretraining >"$DATA.lists/pretraining.txt"
  for name in "${!labelled[@]}"; do cases ${labelled[$name]} >"$DATA.lists/$name.txt"; done
  local held_out=" $(cases $validation | tr '\n' ' ')" tested=" $(cases $test | tr '\n' ' ')"
  { echo subject,split
    for folder in "$1"/training/patient*; do
      case=$(basename "$folder"); split=train
      [[ $held_out == *" $case "* ]] && split=val
      [[ $tested == *" $case "* ]] && split=test
      echo "$case,$split"
    done; } >"$DATA.lists/splits.csv"
  program prepare --source=acdc --input="$1" --output="$DATA" --spacing=1.5 --size=128 --splits="$DATA.lists/splits.csv" --key=none
}

pretrain() {  # seed
  trained "$RUNS/pretrain_s$1" --config=configs/pretrain_acdc.py --config.data.dataset="$DATA" \
    --config.seed="$1" --config.data.subjects="('$DATA.lists/pretraining.txt',)"
}

segment() {  # arm (scratch or pretrained), name of the labelled set or all, seed, steps
  local run=$RUNS/$1_$2_s$3 config=configs/segment_acdc.py subjects="('$DATA.lists/$2.txt',)" from=""
  case $2 in 8*) config=configs/segment_acdc_many.py ;; all) config=configs/segment_acdc_many.py subjects="()" ;; esac
  if [ "$1" = pretrained ] && [ ! -e "$run/evaluation/summary_test.json" ]; then
    from=$RUNS/pretrain_s$3
    pretrain "$3"
  fi
  segmented "$run" --config=$config --config.data.dataset="$DATA" \
    --config.seed="$3" --config.steps="$4" --config.data.subjects="$subjects" --config.init_from="$from"
}

jobs_in_order() {  # seed by seed: if the experiment is stopped early, the finished seeds are complete
  local seed set arm steps
  for seed in $SEEDS; do
    [[ " $ARMS " == *" pretrained "* ]] && echo "pretrain $seed"
    for set in $SETS; do
      case $set in 2*) steps=${STEPS_2:-2000} ;; 8*) steps=${STEPS_8:-2000} ;; all) steps=${STEPS_ALL:-6000} ;; esac
      for arm in $ARMS; do echo "segment $arm $set $seed $steps"; done
    done
  done
}

case ${1:-} in
  prepare) prepare "$2" ;;
  run)
    pinned "${2:-}"
    jobs_in_order | while read -r job; do locked "${job// /_}" $job; done ;;
  *) usage ;;
esac

#!/usr/bin/env bash
# The dataset and the lists of patients that the ACDC studies share: data/acdc and data/acdc.lists.
#
#   launch/prepare_acdc.sh ACDC_FOLDER      the folder that holds training/patient001 and so on
#
# The patients are those of the protocol of Chaitanya et al. 2020 (case numbers of the public training set). Its test
# patients are not public, so 19 patients that no list names are the test. DATA names another dataset, PYTHON another
# interpreter than .venv/bin/python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DATA=${DATA:-data/acdc}
if [ $# -ne 1 ] || [ ! -d "$1/training" ]; then
  sed -n '2,/^[^#]/{/^#/p}' "$0"
  exit 2
fi

cases() { for number in "$@"; do printf 'patient%03d\n' "$((10#$number))"; done; }

pretraining=$(seq 1 6; echo 12; seq 17 26; seq 37 46; seq 57 66; echo 72; seq 77 86; seq 97 100)
validation="11 71"
test="13 14 15 16 33 34 35 36 53 54 55 56 73 74 75 76 91 92 93"  # 094 is among the labelled patients
declare -A labelled=(
  [1a]="002" [1b]="042" [1c]="095" [1d]="022" [1e]="062"
  [2a]="042 062" [2b]="002 042" [2c]="042 095" [2d]="002 022" [2e]="002 095"
  [8a]="002 022 042 062 095 003 023 043" [8b]="002 022 042 062 095 063 094 043" [8c]="002 022 042 062 095 003 094 023"
)

mkdir -p "$DATA.lists"
cases $pretraining >"$DATA.lists/pretraining.txt"
for name in "${!labelled[@]}"; do cases ${labelled[$name]} >"$DATA.lists/$name.txt"; done
held_out=" $(cases $validation | tr '\n' ' ')" tested=" $(cases $test | tr '\n' ' ')"
echo subject,split >"$DATA.lists/splits.csv"
for folder in "$1"/training/patient*; do
  case=$(basename "$folder") split=train
  [[ $held_out == *" $case "* ]] && split=val
  [[ $tested == *" $case "* ]] && split=test
  echo "$case,$split" >>"$DATA.lists/splits.csv"
done
awk -F, '$2 == "train" { print $1 }' "$DATA.lists/splits.csv" >"$DATA.lists/all.txt"
"${PYTHON:-.venv/bin/python}" -m morphojax.prepare --source=acdc --input="$1" --output="$DATA" --spacing=1.5 --size=128 \
  --splits="$DATA.lists/splits.csv" --key=none

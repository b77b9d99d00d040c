#!/usr/bin/env bash
# What image encoders know of a diagnosis with few labels, on the synthetic cohort: pretrained with images and tables, with images
# alone, or not at all.
#
#   launch/synthetic_probes.sh run [CPU]
#   launch/synthetic_probes.sh table
#
# 600 subjects; 200 batches of 32 subjects x 4 slices of pretraining, the label and what leaks it left out of the table. Every encoder is
# fine-tuned with the labelled share of the training subjects (20 passes over all of them, 100 over a tenth), and probed frozen.
. "$(dirname "$0")/common.sh"
RUNS=${RUNS:-runs/probes}
LABEL=${LABEL:-cardiomyopathy}
FRACTIONS=${FRACTIONS:-0.1 1.0}
SEEDS=${SEEDS:-0 1 2}
COHORT=(--config.data.synthetic_subjects=600)

pretrain() {  # arm, config and flags
  trained "$RUNS/$1" --config="$2" "${COHORT[@]}" --config.epochs=0.0 --config.steps=200 \
    --config.table.without_leaks_for="$LABEL" --config.eval_every=0 --config.save_every=100 --config.images_every=100 "${@:3}"
}

finetune() {  # arm, share of labels, seed, epochs
  local run=$RUNS/${1}_finetuned_$2_s$3 from=""
  [ -e "$run/probe/$LABEL/scores.json" ] && return
  [ "$1" = supervised ] || from=$RUNS/$1
  program main --config=configs/probe.py "${COHORT[@]}" --config.workdir="$run" --config.init_from="$from" --config.label="$LABEL" \
    --config.data.fraction="$2" --config.seed="$3" --config.epochs="$4" --config.eval_every=0 --config.save_every=1000
  program probe --run="$run" --checkpoint=last
}

frozen() {  # arm, share of labels, seed
  local out=$RUNS/$1/probe/${LABEL}_$2_s$3
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
        for arm in multimodal image_only; do frozen "$arm" "$fraction" "$seed"; done
        for arm in supervised multimodal image_only; do finetune "$arm" "$fraction" "$seed" "$epochs"; done
      done
    done ;;
  table)
    "$PYTHON" - "$RUNS" "$LABEL" <<'PYTHON'
import json, pathlib, re, statistics, sys
runs, label = pathlib.Path(sys.argv[1]), sys.argv[2]
found = {}
for path in runs.glob(f"*/probe/{label}*/scores.json"):
    name = f"{path.parents[2].name}/{path.parent.name}"
    fraction = re.search(r"_(0\.\d+|1\.0)_s", name)[1]
    arm = name.split("_finetuned")[0].split("/")[0]
    for probe, scores in json.loads(path.read_text())["scores"].items():
        if probe != "constant":
            found.setdefault((float(fraction), arm, probe), []).append(scores["auc"]["mean"])
print("| labels | encoder | probe | AUC by choice of labels | mean |\n| --- | --- | --- | --- | --- |")
for (fraction, arm, probe), values in sorted(found.items()):
    print(f"| {fraction:.0%} | {arm} | {probe} | {', '.join(f'{v:.3f}' for v in sorted(values))} | {statistics.mean(values):.3f} |")
PYTHON
    ;;
  *) usage ;;
esac

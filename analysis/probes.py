"""A table of how well each probe of each encoder predicts a label, over seeds.

    python -m analysis.probes --scores=runs/probes/scores

Reads `<scores>/<encoder>_<frozen or finetuned>_<labelled fraction>_s<seed>/scores.json`, which
launch/synthetic_probes.sh writes.
"""

import argparse
import json
import re
from pathlib import Path

import pandas as pd

_NAME = re.compile(r"(?P<encoder>\w+)_(?P<how>frozen|finetuned)_(?P<fraction>[\d.]+)_s(?P<seed>\d+)")
METRICS = ("auc", "balanced_accuracy", "mae", "r")


def read(folder: Path) -> pd.DataFrame:
    """A row per scored probe: encoder, how, fraction, seed, probe, and each of METRICS that it has.

    The constant guess is left out. Raises SystemExit where nothing is scored.
    """
    rows = []
    for path in sorted(folder.glob("*/scores.json")):
        if match := _NAME.fullmatch(path.parent.name):
            for probe, result in json.loads(path.read_text())["probes"].items():
                scores = {m: result["scores"][m]["value"] for m in METRICS if m in result["scores"]}
                rows.append({**match.groupdict(), "probe": probe, **scores})
    frame = pd.DataFrame(rows)
    frame = frame[frame["probe"] != "constant"] if rows else frame
    if frame.empty:
        raise SystemExit(f"error: {folder}: no <encoder>_<frozen or finetuned>_<fraction>_s<seed>/scores.json there")
    return frame.astype({"fraction": float, "seed": int})


def markdown(frame: pd.DataFrame) -> str:
    """A line per labelled fraction and probe, best first: mean and range over seeds."""
    metrics = [m for m in METRICS if m in frame]
    names = {m: m.replace("auc", "AUC").replace("_", " ").replace("mae", "MAE") for m in metrics}
    lines = [
        f"| labels | encoder | probe | seeds | {' | '.join(names[m] for m in metrics)} |",
        "|" + " --- |" * (4 + len(metrics)),
    ]
    ranked = []
    for (fraction, encoder, how, probe), group in frame.groupby(["fraction", "encoder", "how", "probe"]):
        values = [group[m] for m in metrics]
        kind = "fine-tuned" if how == "finetuned" else f"frozen, {probe}"
        cells = " | ".join(f"{v.mean():.3f} [{v.min():.3f}, {v.max():.3f}]" for v in values)
        rank = values[0].mean() * (1 if metrics[0] == "mae" else -1)
        ranked.append((fraction, rank, f"| {fraction:.0%} | {encoder} | {kind} | {len(group)} | {cells} |"))
    lines += [line for *_, line in sorted(ranked)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True, help="folder of the scored probes")
    print(markdown(read(parser.parse_args().scores)))


if __name__ == "__main__":
    main()

"""Runs the same small trainings in two checkouts of morphojax, and compares losses and scores.

    python -m benchmarks.behaviour run --checkout=DIR --output=A.json
    python -m benchmarks.behaviour compare A.json B.json

`run` trains on the embedded synthetic cohort, once for each seed: a pretraining, then a
segmentation from scratch, one from the pretrained encoder, and one with unlabelled objectives. It
scores each segmentation on the test subjects. It takes about 15 minutes on one core.

`compare` prints, for each arm, the largest relative difference between the losses of the first 20
steps, whether all losses are equal, and the Dice of every seed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

COMMON = {"log_every": 1, "save_every": 1000, "images_every": 1000, "dynamics_every": 0, "eval_every": 0}
PRETRAIN = COMMON | {"epochs": 0.0, "steps": 60, "batch_size": 16, "data.synthetic_size": 96}
SEGMENT = COMMON | {"steps": 400}
VOLUME = ("unlabelled.batch_size=1",)
FIRST = 20  # number of steps whose losses are compared


def train(checkout: Path, config: str, run: Path, settings: dict, *flags: str) -> list[float]:
    """Trains, and returns the loss of every step. flags: further settings, as KEY=VALUE."""
    changes = [f"{key}={value}" for key, value in (settings | {"workdir": run}).items()] + list(flags)
    config_flags = [f"--config.{change}" for change in changes]
    _python(checkout, "morphojax.main", f"--config=configs/{config}.py", *config_flags)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def dice(checkout: Path, run: Path) -> float:
    """Mean Dice of the test subjects, over structures and phases."""
    _python(checkout, "morphojax.evaluate", f"--run={run}", "--split=test", "--checkpoint=last")
    scores = pd.read_csv(run / "evaluation" / "scores_test.csv")
    return float(scores.loc[scores["phase"].isin(("ED", "ES")), "dice"].mean())


def measure(checkout: Path, seeds: range, volume: tuple[str, ...]) -> dict:
    """Results of a checkout: {arm: {seed: {"losses": [...], "dice": float}}}."""
    results: dict[str, dict] = {name: {} for name in ("pretrain", "scratch", "pretrained", "volume")}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            pretrained = Path(folder) / f"pretrain{seed}"
            losses = train(checkout, "pretrain_sax", pretrained, PRETRAIN | {"seed": seed})
            results["pretrain"][seed] = {"losses": losses}
            arms = {"scratch": (), "pretrained": (f"init_from={pretrained}",), "volume": volume}
            for arm, flags in arms.items():
                run = Path(folder) / f"{arm}{seed}"
                losses = train(checkout, "segment_sax", run, SEGMENT | {"seed": seed}, *flags)
                results[arm][seed] = {"losses": losses, "dice": dice(checkout, run)}
                print(f"seed {seed} {arm}: Dice {results[arm][seed]['dice']:.4f}", flush=True)
    return results


def compare(before: dict, after: dict) -> str:
    """A line for every arm. Results as `measure` returns them."""
    lines = [f"{'arm':<12} {'losses, first 20':>18} {'equal':>6} {'Dice before':>22} {'Dice after':>22}"]
    for arm, runs in before.items():
        pairs = [(np.array(run["losses"]), np.array(after[arm][seed]["losses"])) for seed, run in runs.items()]
        largest = max(np.max(np.abs(a[:FIRST] - b[:FIRST]) / np.abs(a[:FIRST])) for a, b in pairs)
        equal = all(np.array_equal(a, b) for a, b in pairs)
        scores = [
            " ".join(f"{run['dice']:.4f}" for run in side[arm].values()) if arm != "pretrain" else ""
            for side in (before, after)
        ]
        lines.append(f"{arm:<12} {largest:>18.1e} {equal!s:>6} {scores[0]:>22} {scores[1]:>22}")
    return "\n".join(lines)


def _python(checkout: Path, module: str, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", module, *arguments]
    completed = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if completed.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{completed.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks.behaviour", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="train and score in one checkout")
    runs.add_argument("--checkout", type=Path, default=Path.cwd())
    runs.add_argument("--output", type=Path, required=True)
    runs.add_argument("--seeds", type=int, default=3)
    runs.add_argument("--volume", nargs="*", default=VOLUME, help="settings of the arm with unlabelled objectives")
    comparison = commands.add_parser("compare", help="print two outputs side by side")
    comparison.add_argument("files", nargs=2, type=Path)
    flags = parser.parse_args()
    if flags.command == "run":
        results = measure(flags.checkout.resolve(), range(flags.seeds), tuple(flags.volume))
        flags.output.write_text(json.dumps(results) + "\n")
    else:
        print(compare(*(json.loads(file.read_text()) for file in flags.files)))


if __name__ == "__main__":
    main()

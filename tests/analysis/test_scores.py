from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import scores


def write(runs: Path, name: str, dice: dict[int, float], unit: str = "ml") -> None:
    """A scored run of one structure: Dice 0.05 above the given one at ED, 0.05 below at ES.

    The reference size is 100 ml (or cm2), the predicted size 100 times the Dice.
    """
    folder = runs / name / "evaluation"
    folder.mkdir(parents=True)
    rows = [
        {
            "subject": f"s{i}", "index": i, "phase": phase, "structure": "lv_cavity", "dice": d + shift, "hd95_mm": 5.0,
            f"reference_{unit}": 100.0, f"predicted_{unit}": 100.0 * (d + shift),
        }
        for i, d in dice.items()
        for phase, shift in (("ED", 0.05), ("ES", -0.05))
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "scores_test.csv", index=False)


def test_the_interval_covers_the_variation_of_runs_and_subjects() -> None:
    subjects_vary = np.tile(np.linspace(0, 1, 20), (6, 1))
    both_vary = subjects_vary + np.linspace(-1, 1, 6)[:, None]
    assert scores.crossed_interval(np.full((3, 4), 0.5)) == (0.5, 0.5)
    narrow, wide = (np.ptp(scores.crossed_interval(v)) for v in (subjects_vary, both_vary))
    assert 0.2 < narrow < 0.3  # 2 * 1.96 * sd / sqrt(20), sd = 0.3
    assert wide > 2 * narrow


def test_a_folder_without_scored_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no scored run"):
        scores.read_scores(tmp_path, r"\w+")

"""A cohort whose images differ in one thing: the fraction of bright pixels, which the
table states.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from morphojax.data.geometry import Grid
from morphojax.data.sources.base import Frame, Subject, View
from morphojax.data.tables.schema import Column, Schema
from tests.data.cohorts import AFFINE, label
from tests.data.preparing import prepare

N = 24
IDS = [f"secret{n:02d}" for n in range(N)]
SPLITS = np.array([("train", "train", "val", "test")[n % 4] for n in range(N)])
# Of bright pixels; low for four subjects, then high for four. Scaling by percentiles does not
# change it.
FRACTION = np.array([0.1 + 0.3 * (n // 4 % 2) + 0.01 * n for n in range(N)])
SCHEMA = Schema(
    (
        Column("bright", "continuous", "haemodynamic", "%", (), ("bright",)),
        Column("group", "categorical", "medical_history", "", ("low", "absent", "high")),
        Column("gappy", "binary", "lifestyle"),
        Column("rare", "categorical", "lifestyle"),
        Column("constant", "binary", "lifestyle"),
        Column("empty", "continuous", "lifestyle"),
        Column("twin", "continuous", "haemodynamic", "%", (), ("bright",)),
    )
)


class Cohort:  # a data.sources.base.Source
    root = Path("toy")
    frames = "phases"

    def subjects(self):
        return IDS

    def read(self, subject, planes):
        n = IDS.index(subject)
        frames = []
        for phase in ("ED", "ES") if n else ("ES",):  # the first subject has no ED
            random = np.random.default_rng((n, len(frames)))
            image = np.where(random.uniform(size=(20, 24, 2 + n % 3)) < FRACTION[n], 100, 0).astype(np.float32)
            frames.append(Frame(phase, image, label(image.shape), AFFINE))
        return Subject(subject, {"sax": View("sax", tuple(frames), ("lv_cavity", "lv_myocardium", "rv_cavity"))})

    def table(self):
        gappy = [str(n // 4 % 2) if n % 5 else None for n in range(N)]
        columns = {
            "bright": 100 * FRACTION,
            "group": np.where(FRACTION < 0.36, "low", "high"),
            "gappy": gappy,
            "rare": np.where(np.arange(N) == 4, "once", "often"),
            "constant": ["1"] * N,
            "empty": [np.nan] * N,
            "twin": 90 * FRACTION,
        }
        return pd.DataFrame(columns, index=IDS), SCHEMA


def make(root: Path) -> Path:
    """The folder of the prepared dataset, below `root`."""
    pd.DataFrame({"subject": IDS, "split": SPLITS}).to_csv(root / "split.csv", index=False)
    settings = {"grid": Grid(1.5, 32), "percentiles": (0.0, 100.0), "split_file": root / "split.csv"}
    prepare(Cohort(), root / "out", name="brightness", workers=1, progress=False, **settings)
    return root / "out"

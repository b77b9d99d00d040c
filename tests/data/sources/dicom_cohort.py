"""UK Biobank DICOM cohorts of one subject with a known cine."""

from pathlib import Path

import numpy as np

from morphojax.data.sources.ukb_dicom import UkbDicom
from tests.data import ukb_zips

SHAPE = (20, 14, 4, 6)  # X, Y, Z, T
AFFINE = ukb_zips.oblique()
NAME = "1000017_20209_2_0.zip"


def cine(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def sax(root: Path, files, name: str = NAME, **settings) -> UkbDicom:
    ukb_zips.write(root / name, files, **settings)
    return UkbDicom(root)


def one(source: UkbDicom, plane: str = "sax"):
    """The cine of the only subject, and its warnings."""
    warnings: list[str] = []
    (subject,) = source.subjects()
    return source.cines(subject, [plane], warnings)[plane], warnings

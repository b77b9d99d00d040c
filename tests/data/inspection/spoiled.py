"""The small ACDC cohort with one defect each, for the tests of inspection."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from morphojax.data.inspection import survey, suspicions
from morphojax.data.inspection.survey import Findings
from morphojax.data.sources import SOURCES
from tests.data import cohorts

Spoil = Callable[[Path], None]


def image_path(root: Path, n: int, frame: str = "01", label: bool = False) -> Path:
    return root / f"training/patient{n:03d}/patient{n:03d}_frame{frame}{'_gt' * label}.nii.gz"


def inspect(root: Path, name: str = "acdc", planes=("sax",)) -> tuple[Findings, dict[str, tuple[int, ...]]]:
    """The findings of a raw cohort, and its suspicions: indices by message."""
    findings = survey.of_source(SOURCES[name](root, frames="all"), name, planes, 1, False)
    return findings, {s.what: s.subjects for s in suspicions.find(findings)}


def share_images(root: Path) -> None:
    """Gives subject 5 the images of subject 2."""
    for frame in ("01", "09"):
        image_path(root, 5, frame).write_bytes(image_path(root, 2, frame).read_bytes())


def repeat_phase(root: Path) -> None:
    """Gives subject 3 its ED image at ES."""
    image_path(root, 3, "09").write_bytes(image_path(root, 3, "01").read_bytes())


def replace_images(n: int, shape: tuple[int, ...], affine=cohorts.AFFINE, values=(1, 2, 3)) -> Spoil:
    """Gives a subject images of another shape or geometry, and labels of these values."""

    def write(root):
        for frame, radius in (("01", 7), ("09", 4)):
            cohorts.save(image_path(root, n, frame), cohorts.image(shape, seed=n * 1000 + int(frame)), affine)
            cohorts.save(image_path(root, n, frame, True), cohorts.label(shape, values, radius), affine)

    return write


def change_label(n: int, change: Callable[[np.ndarray], None], frame: str = "01") -> Spoil:
    """Changes the label of a subject, which is that of ED."""

    def write(root):
        array = cohorts.label(radius=7)
        change(array)
        cohorts.save(image_path(root, n, frame, True), array)

    return write


def clear(array: np.ndarray) -> None:
    array[:] = 0


def clear_second_slice(array: np.ndarray) -> None:
    array[..., 1] = 0


def change_cell(column: str, row: int | slice, value: str) -> Spoil:
    """Changes a cell of the table, or all of a column."""

    def write(root):
        path = root / "morphometrics.csv"
        frame = pd.read_csv(path, dtype=object)
        frame.loc[row, column] = value
        frame.to_csv(path, index=False)

    return write

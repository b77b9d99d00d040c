"""Tiny cohorts on disk, with values that tests can foresee."""

from pathlib import Path

import nibabel as nib
import numpy as np

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])


def image(shape=(20, 24, 4), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def label(shape=(20, 24, 4), values=(1, 2, 3), radius=6) -> np.ndarray:
    """A disc at the centre of every slice, cut into a wedge per value."""
    x, y = np.meshgrid(*(np.arange(n) - n // 2 for n in shape[:2]), indexing="ij")
    wedge = ((np.arctan2(y, x) + np.pi) / (2 * np.pi + 1e-9) * len(values)).astype(int)
    disc = np.where(x**2 + y**2 <= radius**2, np.array(values)[wedge], 0).astype(np.uint8)
    return np.broadcast_to(disc.reshape(*disc.shape, *[1] * (len(shape) - 2)), shape).copy()


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def acdc(root: Path, subjects: int = 3, table: bool = True, shape=(20, 24, 4)) -> Path:
    for n in range(1, subjects + 1):
        name = f"patient{n:03d}"
        folder = root / "training" / name
        for frame in (1, 9):
            save(folder / f"{name}_frame{frame:02d}.nii.gz", image(shape, seed=100 * n + frame))
            save(folder / f"{name}_frame{frame:02d}_gt.nii.gz", label(shape, radius=7 if frame == 1 else 4))
        (folder / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: NOR\n")
    if table:
        from morphojax.data.sources.acdc import SCHEMA

        lines = [",".join(["patient", *SCHEMA.names])]
        for n in range(1, subjects + 1):
            lines.append(",".join([f"patient{n:03d}", *[f"{n + i / 10}" for i in range(9)], "NOR"]))
        (root / "morphometrics.csv").write_text("\n".join(lines) + "\n")
    return root

"""Pictures of scored stacks: a slice with its reference and its prediction.

`evaluate` writes one of every subject and plane to `cases_<split>.npz`, so that a report can show
any subject without running the network again. Subjects are indices.
"""

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphojax import anatomy

MARGIN = 12  # pixels around the structures of a case
Tile = tuple[np.ndarray, np.ndarray, np.ndarray, str]  # image, reference, prediction, title: `figures.worst_cases`
_LEFT = [anatomy.LABEL_ID[s] for s in ("lv_cavity", "lv_myocardium")]


@dataclasses.dataclass(frozen=True)
class Case:
    """picture: uint8 [3, h, w], a part of a slice on the grid: image, reference, prediction.

    slice: its number in the stack. The labels hold the annotated structures by canonical id.
    """

    subject: int
    plane: str
    phase: str
    slice: int
    picture: np.ndarray


def stack(records: Sequence[Mapping[str, np.ndarray]], predicted: np.ndarray, structures: Sequence[str]) -> np.ndarray:
    """Images, references and predictions of a stack, uint8 [3, Z, H, W]; labels of `structures`."""
    shown = [anatomy.LABEL_ID[s] for s in structures]
    labels = (np.where(np.isin(x, shown), x, 0) for x in (np.stack([r["label"] for r in records]), predicted))
    return np.stack([np.stack([r["image"] for r in records]), *labels]).astype(np.uint8)


def most_different(slices: np.ndarray, title: str) -> Tile:
    """The slice of a `stack` in which reference and prediction differ most."""
    image, label, predicted = slices
    z = int((label != predicted).sum((1, 2)).argmax())
    return image[z], label[z], predicted[z], f"{title}\nslice {z}"


def middle(slices: np.ndarray) -> tuple[int, np.ndarray]:
    """The middle slice of the left ventricle in a `stack`, and its number; cut to its structures.

    Without a left ventricle in the reference, the middle slice of any structure, or of the stack.
    """
    reference = slices[1]
    ventricle = np.flatnonzero(np.isin(reference, _LEFT).any((1, 2)))
    chosen = ventricle if len(ventricle) else np.flatnonzero(reference.any((1, 2)))
    z = int(chosen[(len(chosen) - 1) // 2]) if len(chosen) else (slices.shape[1] - 1) // 2
    return z, _cut(slices[:, z])


def _cut(picture: np.ndarray) -> np.ndarray:
    """The square around both labels, with a margin; the whole picture where there is no label."""
    points = np.argwhere(picture[1:].any(0))
    if not len(points):
        return picture
    shape = np.array(picture.shape[1:])
    side = min(int(np.ptp(points, axis=0).max()) + 1 + 2 * MARGIN, *shape)
    centre = (points.min(0) + points.max(0) + 1) // 2
    y, x = np.clip(centre - side // 2, 0, shape - side)
    return picture[:, y : y + side, x : x + side]


def encode(cases: Iterable[Case]) -> bytes:
    """The content of a file of cases."""
    cases = list(cases)
    arrays: dict[str, Any] = {f"picture_{n}": case.picture for n, case in enumerate(cases)}
    arrays |= {name: np.array([getattr(c, name) for c in cases], int) for name in ("subject", "slice")}
    arrays |= {name: np.array([getattr(c, name) for c in cases], str) for name in ("plane", "phase")}
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def read(path: Path, subject: int, plane: str | None = None) -> Case | None:
    """The case of a subject in a plane, by default the first in anatomy.PLANES; None where there is
    none.

    Raises ValueError, naming the file, where it is damaged; FileNotFoundError.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            planes = file["plane"].tolist()
            known = (n for n in np.flatnonzero(file["subject"] == subject) if plane in (None, planes[n]))
            found = sorted(known, key=lambda n: anatomy.PLANES.index(planes[n]))
            if not found:
                return None
            n, picture = found[0], file[f"picture_{found[0]}"]
            case = Case(subject, planes[n], str(file["phase"][n]), int(file["slice"][n]), picture)
    except FileNotFoundError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        EOFError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path}: not a file of cases ({error}); run evaluate again") from error
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(f"{path}: not a file of cases (a picture of shape {picture.shape}); run evaluate again")
    return case

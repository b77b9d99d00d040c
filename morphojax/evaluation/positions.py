"""Dice of a short-axis stack by slice position: base, middle and apex.

- **Slices.** Those in which the reference has the left ventricle (cavity or myocardium), in the
  order of the stack. Slices without it belong to no position, whatever the prediction has there.
- **Thirds.** The slices divide the ventricle into equal parts, and a slice belongs to the third
  that contains its centre. So base and apex have (n + 1) // 3 slices each, and the middle has the
  rest: of 1 slice 0-1-0 (base, middle, apex), of 2 1-0-1, of 3 1-1-1, of 4 1-2-1, of 5 2-1-2. The
  myocardial segments (Cerqueira et al., Circulation 2002) divide the long axis into thirds too.
- **Base.** The ventricle narrows towards its apex: the base is the end nearer to the centre of mass
  of the ventricle's area. The affine is not used, because some cohorts lack the orientation (ACDC).
  Where the centre of mass lies in the middle, both ends are left out.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from morphojax import anatomy
from morphojax.evaluation import overlap

PLANE = "sax"  # the only plane of several slices
_LEFT = ("lv_cavity", "lv_myocardium")
POSITIONS = ("base", "middle", "apex")
COLUMNS = ("plane", "phase", "structure", "position", "dice", "n_slices")


def thirds(n: int) -> tuple[slice, slice, slice]:
    """The first, middle and last third of n slices."""
    end = (n + 1) // 3
    return slice(0, end), slice(end, n - end), slice(n - end, n)


def _ventricle(label: np.ndarray) -> np.ndarray:
    """Pixels of the left ventricle in each slice, int [Z], of a label [X, Y, Z]."""
    cavity, wall = (label == anatomy.LABEL_ID[s] for s in _LEFT)
    n = label.shape[2]
    return np.bincount(np.flatnonzero(cavity | wall) % n, minlength=n)  # five times faster than a sum over X and Y


def base_is_first(references: Iterable[np.ndarray]) -> bool | None:
    """Whether the base is at the first slice; None where the labels do not show it.

    references: labels [X, Y, Z] of canonical ids, of the phases of one heart.
    """
    excess = 0  # of area in the first half of the slices, weighted by the distance to the middle
    for label in references:
        area = _ventricle(label)
        slices = np.flatnonzero(area)
        if slices.size:
            excess += int((area[slices] * (slices[0] + slices[-1] - 2 * slices)).sum())
    return excess > 0 if excess else None


def score(
    reference: np.ndarray, predicted: np.ndarray, structures: Sequence[str], base_first: bool | None
) -> Iterator[dict[str, str | float | int]]:
    """Structure, position, Dice and number of slices, where either label has the structure there.

    Labels [X, Y, Z] of canonical ids. base_first: `base_is_first`; where it is None, only the
    middle is scored.
    """
    slices = np.flatnonzero(_ventricle(reference))
    parts = dict(zip(POSITIONS if base_first else POSITIONS[::-1], thirds(len(slices)), strict=True))
    if base_first is None:
        parts = {"middle": parts["middle"]}
    chosen = {name: slices[parts[name]] for name in POSITIONS if name in parts}
    cut = {name: (reference[..., z], predicted[..., z]) for name, z in chosen.items() if z.size}
    for structure in structures:
        for position, labels in cut.items():
            dice = overlap.dice(*(label == anatomy.LABEL_ID[structure] for label in labels))
            if not np.isnan(dice):
                n_slices = chosen[position].size
                yield {"structure": structure, "position": position, "dice": dice, "n_slices": n_slices}

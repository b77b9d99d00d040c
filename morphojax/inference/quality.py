"""Which rows of measures.csv somebody should look at, and why.

Thresholds come from the labels of ACDC (160 stacks of 80 patients), so that they seldom speak
against a correct label; `docs/segmentation.md` gives the figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from morphojax import anatomy
from morphojax.evaluation import clinical, positions
from morphojax.inference.segmenter import Run
from morphojax.inference.stacks import SegmentedStack

GOOD, LOOK = "good", "look"
ISLANDS = 0.1  # of a structure's voxels outside its largest component; at most 0.06 in the labels
BEYOND = 1.5  # a size may exceed the range of training by this factor
FEWEST = 8  # training subjects whose range is used
# Depth of a short-axis stack: number of slices times their spacing. In ACDC it is 60 to 120 mm.
# Half of the smallest does not cover the ventricles of an adult; twice the largest is a cine whose
# frames lie along Z.
DEPTH_MM = (30.0, 240.0)
_LV = ("lv_cavity", "lv_myocardium")
_UNIT = {"ml": "mL", "cm2": "cm2"}


def columns(reasons: Sequence[str]) -> dict[str, str]:
    """The columns `quality` and `reasons` of a row."""
    return {"quality": LOOK if reasons else GOOD, "reasons": "; ".join(reasons)}


def of_stack(run: Run, plane: str, stack: SegmentedStack, spacing: Sequence[float]) -> Iterator[str]:
    """Reasons to look at the labels of one stack, in plain words. spacing: in mm."""
    if stack.black:
        yield "a black image"
    depth = stack.label.shape[2] * spacing[2]
    if plane == positions.PLANE and depth < DEPTH_MM[0]:
        yield f"a stack of {depth:.3g} mm: sizes of a part of the heart"
    structures = run.structures_of(plane)
    slices = {s: np.flatnonzero((stack.label == anatomy.LABEL_ID[s]).any(axis=(0, 1))) for s in structures}
    for structure, shown in slices.items():
        name = anatomy.LABEL_NAME[structure]
        if not shown.size:
            yield f"no {name}"
            continue
        if plane == positions.PLANE and (missing := _missing(slices, structure)):
            where = f"slice{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            yield f"no {name} in {where}, between slices that show the heart"
        if (islands := stack.islands.get(structure, 0.0)) > ISLANDS:
            end = "removed" if stack.removed else "kept"
            yield f"{100 * islands:.0f} % of the {name} outside its largest piece, {end}"
        yield from _beyond_training(run, plane, structure, *clinical.size(plane, stack.label, structure, spacing))


def _missing(slices: Mapping[str, np.ndarray], structure: str) -> list[int]:
    """Slices, from 0, that lack a structure between slices that have it, or in the middle third of
    those with the LV. slices: of each structure.
    """
    own = slices[structure]
    ventricle = np.unique(np.concatenate([slices[s] for s in _LV if s in slices] or [own]))
    expected = np.union1d(np.arange(own[0], own[-1] + 1), ventricle[positions.thirds(len(ventricle))[1]])
    return [int(z) for z in np.setdiff1d(expected, own)]


def _beyond_training(run: Run, plane: str, structure: str, size: float, unit: str) -> Iterator[str]:
    seen = (run.sizes or {}).get(plane, {}).get(structure)
    if seen and seen["subjects"] >= FEWEST and not seen["min"] / BEYOND <= size <= seen["max"] * BEYOND:
        name = anatomy.LABEL_NAME[structure]
        yield f"{name} of {size:.3g} {_UNIT[unit]}, {seen['min']:.3g} to {seen['max']:.3g} in training"


def of_measures(measures: Mapping[str, float]) -> Iterator[str]:
    """Reasons to doubt measures of ED and ES (keys of `clinical.TITLE`): a ventricle that is larger
    at ES, or an atrium that is larger at ED.
    """
    for side in ("lv", "rv"):
        if (stroke := measures.get(f"{side}_sv_ml", np.nan)) < 0:
            ejected = measures[f"{side}_ef_percent"]
            name = side.upper()
            yield f"{name} larger at ES than at ED: stroke volume {stroke:.3g} mL, ejection fraction {ejected:.3g} %"
    for side in ("la", "ra"):
        ed, es = (measures.get(f"{side}_volume_{phase}_ml", np.nan) for phase in ("ed", "es"))
        if ed > es:
            yield f"{side.upper()} larger at ED ({ed:.3g} mL) than at ES ({es:.3g} mL)"


def summary(run: Run, plane: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to tell a user of the rows of measures.csv: how many need a look, and sizes that were
    not compared with those of training.
    """
    doubtful = sum(row["quality"] == LOOK for row in rows)
    said = [f"{doubtful} of {len(rows)} rows of measures.csv need a look: see its column reasons"] if doubtful else []
    trained = (run.sizes or {}).get(plane, {})
    few = [s for s in run.structures_of(plane) if s not in trained or trained[s]["subjects"] < FEWEST]
    if rows and run.sizes is None:
        said.append("sizes are not compared with those of training: the run is of an older version, without sizes.json")
    elif rows and few:
        names = ", ".join(anatomy.LABEL_NAME[s] for s in few)
        said.append(f"sizes of {names} are not compared with those of training: of fewer than {FEWEST} subjects")
    return said

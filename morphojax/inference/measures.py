"""Tables of predicted labels: sizes of structures by frame, and clinical measures by heart."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from morphojax.data.errors import NamedError
from morphojax.evaluation import clinical
from morphojax.inference import quality
from morphojax.inference.segmenter import Run
from morphojax.inference.stacks import SegmentedStack

# Cavities by which ED and ES are found, the first that the run segments, and whether it is largest
# at ED.
_LARGEST_AT_ED = {"lv_cavity": True, "la_cavity": False, "ra_cavity": False, "rv_cavity": True}


class PredictError(NamedError):
    """An input, output or flag that cannot be used. The message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Segmented:
    """The labels of one file.

    name:       relative to the input, without suffix.
    frames:     the labels of each frame.
    spacing:    of a voxel, in mm.
    heart_rate: in beats per minute; NaN where unknown.
    notes:      what the reader assumed about the header, and whether images are black.
    """

    name: str
    frames: tuple[SegmentedStack, ...]
    spacing: tuple[float, float, float]
    heart_rate: float
    notes: tuple[str, ...] = ()


def sizes(run: Run, plane: str, label: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Size of every structure of a frame: in mL in the short axis, in cm2 in a long-axis plane."""
    by_structure = {s: clinical.size(plane, label, s, spacing) for s in run.structures_of(plane)}
    return {f"{structure}_{unit}": value for structure, (value, unit) in by_structure.items()}


def volume_rows(run: Run, plane: str, files: Sequence[Segmented]) -> Iterator[dict[str, Any]]:
    """Rows of volumes.csv: one per frame."""
    for file in files:
        for t, stack in enumerate(file.frames):
            yield {"file": file.name, "frame": t} | sizes(run, plane, stack.label, file.spacing) | stack.spread()


def measure_rows(run: Run, plane: str, files: Sequence[Segmented]) -> Iterator[dict[str, Any]]:
    """Rows of measures.csv for one heart: one per cine, and one for all files of a single frame."""
    for file in files:
        if len(file.frames) > 1:
            frames = [(stack, file.spacing) for stack in file.frames]
            ed, es = _find_ed_and_es(run, plane, frames)
            about = {"file": file.name, "kind": "cine"}
            found = {"ed": ed, "es": es, "heart_rate": file.heart_rate}
            yield about | _measure(run, plane, frames[ed], frames[es], found, file.heart_rate)
    single = [file for file in files if len(file.frames) == 1]
    frames = [(file.frames[0], file.spacing) for file in single]
    if len(single) == 1:
        judged = quality.columns(list(quality.of_stack(run, plane, *frames[0])))
        stack, spacing = frames[0]
        found = sizes(run, plane, stack.label, spacing) | stack.spread()
        yield {"file": single[0].name, "kind": "stack"} | judged | found
    elif single:
        names = [file.name.rpartition("_")[2] for file in single]
        ed, es = (names.index("ED"), names.index("ES")) if "ED" in names else _find_ed_and_es(run, plane, frames)
        about = {"file": single[0].name.rpartition("_")[0], "kind": "frames"}
        found = {"ed": names[ed], "es": names[es]}
        yield about | _measure(run, plane, frames[ed], frames[es], found, single[0].heart_rate)


_Frame = tuple[SegmentedStack, Sequence[float]]  # and its spacing [3] in mm


def _measure(run: Run, plane: str, ed: _Frame, es: _Frame, found: dict[str, Any], heart_rate: float) -> dict[str, Any]:
    """Quality, measures, and the larger spread of an ensemble, of ED and ES.

    found: the columns that say which frames they are.
    """
    at_ed, at_es = ((stack.label, spacing) for stack, spacing in (ed, es))
    measures = clinical.measures(plane, at_ed, at_es, run.structures_of(plane), heart_rate)
    reasons = [f"{phase}: {r}" for phase, x in (("ED", ed), ("ES", es)) for r in quality.of_stack(run, plane, *x)]
    at_ed, at_es = ed[0].spread(), es[0].spread()
    larger = {column: float(np.fmax(value, at_es[column])) for column, value in at_ed.items()}
    return quality.columns([*quality.of_measures(measures), *reasons]) | found | measures | larger


def _find_ed_and_es(run: Run, plane: str, frames: Sequence[_Frame]) -> tuple[int, int]:
    """Positions of ED and ES: a ventricle is largest at ED, an atrium at ES."""
    shown = run.structures_of(plane)
    for structure, largest_at_ed in _LARGEST_AT_ED.items():
        if structure in shown:
            volumes = [clinical.volume_ml(stack.label, structure, spacing) for stack, spacing in frames]
            largest, smallest = int(np.argmax(volumes)), int(np.argmin(volumes))
            return (largest, smallest) if largest_at_ed else (smallest, largest)
    raise PredictError(f"the run segments {', '.join(shown)} in {plane}: ED and ES cannot be found without a cavity")

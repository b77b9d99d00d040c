"""The sizes of structures in training, by which predictions are judged."""

from collections.abc import Sequence

import numpy as np

from morphojax import anatomy
from morphojax.data.input.frames import is_at_frames
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import clinical


def of_training(
    dataset: Dataset, subjects: np.ndarray, planes: Sequence[str], structures: Sequence[str], frames: Sequence[str]
) -> dict[str, dict[str, dict[str, float | int]]]:
    """Plane -> structure -> `min`, `max` and number of `subjects`, over labelled stacks.

    Sizes are those of the labels on their native grids: mL in the short axis, cm2 in a long-axis
    plane. Stacks where the structure is not annotated or does not occur do not count; a structure
    without any other stack is left out.

    Args:
        subjects: indices of the training subjects.
        frames: phases, and "cine", as in `slice_stream`.
    """
    sizes: dict[str, dict[str, dict[str, float | int]]] = {}
    for plane in planes:
        found: dict[str, list[tuple[int, float]]] = {}
        table = dataset.stacks(plane)
        chosen = table[table["labelled"] & table["subject"].isin(subjects) & is_at_frames(table, frames)]
        for stack in chosen.itertuples():
            label, placement = dataset.native(plane, int(stack.Index))
            shown = set(str(stack.structures).split()) & set(anatomy.PLANE_STRUCTURES[plane])
            for structure in structures:
                if label is None or structure not in shown:
                    continue
                size, _ = clinical.size(plane, label, structure, placement.native_spacing)
                if size > 0:
                    found.setdefault(structure, []).append((int(stack.subject), float(size)))
        sizes[plane] = {structure: _range(values) for structure, values in found.items()}
    return sizes


def _range(values: Sequence[tuple[int, float]]) -> dict[str, float | int]:
    """values: subject and size, by stack."""
    sizes = [size for _, size in values]
    return {"min": min(sizes), "max": max(sizes), "subjects": len({subject for subject, _ in values})}

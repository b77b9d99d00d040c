"""A collapsed teacher: a structure has vanished from its pseudo-labels, or floods them. The student
would learn that, and the teacher follows the student.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from morphojax.train.task import TrainingError

SMALLEST_RATIO, LARGEST_RATIO = 0.02, 10.0  # of the pixels with a pseudo-label to those with the label


class CollapseMonitor:
    """Compares the fraction of pixels that pseudo-labels give to a structure with its fraction in
    the labelled slices, as means over the last steps; see `Task.monitor`.

    structures: the classes of the pseudo-labels.
    steps:      of the means.
    first:      earlier steps do not count.
    """

    def __init__(self, structures: Sequence[str], steps: int, first: int = 0):
        self._structures, self._steps, self._first = tuple(structures), steps, first
        self._rows = collections.deque[tuple[int, np.ndarray]]()  # step, fractions [pseudo or label, structures]

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises TrainingError, naming the structure, for a collapsed teacher.

        metrics: of one step, or means over the steps up to this one.
        """
        if step < self._first or f"unlabelled/teacher/fraction/{self._structures[0]}" not in metrics:
            return
        kinds = ("fraction", "labelled_fraction")
        values = [[float(metrics[f"unlabelled/teacher/{kind}/{s}"]) for s in self._structures] for kind in kinds]
        self._rows.append((step, np.array(values)))
        while self._rows[-1][0] - self._rows[0][0] > self._steps:
            self._rows.popleft()
        if step - self._rows[0][0] < self._steps:
            return
        weight = np.diff([row[0] for row in self._rows])  # steps that each row, after the first, stands for
        pseudo, labelled = np.average([row[1] for row in list(self._rows)[1:]], axis=0, weights=weight)
        # A structure that fills much of the image cannot grow tenfold.
        largest = np.minimum(LARGEST_RATIO * labelled, (1 + labelled) / 2)
        collapsed = (labelled > 0) & ((pseudo < SMALLEST_RATIO * labelled) | (pseudo > largest))
        for i in np.flatnonzero(collapsed):
            raise TrainingError(
                f"the teacher has collapsed: in the {self._steps} steps up to {step} its pseudo-labels give "
                f"{self._structures[i]} {100 * pseudo[i]:.2g} % of the pixels, the labels {100 * labelled[i]:.2g} %. "
                "In a new config.workdir, let the objectives on unlabelled images start later (start, ramp), lower "
                "their weight, or label more subjects; config.unlabelled.teacher.collapse_steps=0 trains on"
            )

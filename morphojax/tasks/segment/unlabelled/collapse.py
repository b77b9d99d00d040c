"""A teacher that has collapsed: its pseudo-labels have lost a structure, or flood the image with
it. The student would learn that, and the teacher follows the student.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from morphojax.train.loop import TrainingError

SMALLEST, LARGEST = 0.02, 10.0  # of the fraction of pixels that the structure has in labelled slices


class CollapseMonitor:
    """Reads the metrics of every step; see `Task.monitor`.

    structures: the classes of the pseudo-labels.
    steps: the fractions of pixels are compared as means over this number of steps. A resumed run
        begins to count anew.
    """

    def __init__(self, structures: Sequence[str], steps: int):
        self._recent = {name: collections.deque[tuple[float, float]](maxlen=steps) for name in structures}

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises TrainingError, naming the structure, for a collapsed teacher."""
        for name, recent in self._recent.items():
            found = metrics.get(f"unlabelled/teacher/fraction/{name}")
            if found is None:  # before the first unlabelled step
                continue
            recent.append((float(found), float(metrics[f"unlabelled/teacher/labelled_fraction/{name}"])))
            pseudo, labelled = np.mean(recent, axis=0)
            if len(recent) < (recent.maxlen or 0) or not labelled:
                continue
            if not SMALLEST <= pseudo / labelled <= LARGEST:
                raise TrainingError(
                    f"the teacher has collapsed: in the {len(recent)} steps up to {step} its pseudo-labels give {name} "
                    f"{100 * pseudo:.2g} % of the pixels, the labels {100 * labelled:.2g} %. The last checkpoint is "
                    "kept. Let the objectives on unlabelled images start later (start, ramp), lower their weight, or "
                    "label a subject that shows it; config.unlabelled.teacher.collapse_steps=0 trains on"
                )

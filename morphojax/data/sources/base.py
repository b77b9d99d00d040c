"""What every cohort reader yields: subjects made of views made of frames, and one table."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from morphojax.data.table import Schema


class CohortError(ValueError):
    """A subject, file or table that cannot be used. The message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One time point of one plane, as stored: nothing resampled, nothing flipped.

    image:   [X, Y, Z] float32, the scanner's intensities; Z is the slice axis (Z = 1 in long-axis planes).
    label:   [X, Y, Z] uint8 of canonical ids (`anatomy.LABEL_ID`), or None where nobody drew one.
    affine:  [4, 4] float64, voxel index -> mm, RAS+.
    """

    phase: str  # one of anatomy.PHASES
    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray


@dataclasses.dataclass(frozen=True)
class View:
    """One plane of one subject. `labelled` names the structures that the annotators drew (absent ones included)."""

    plane: str
    frames: tuple[Frame, ...]  # at most one per phase, in the order of anatomy.PHASES
    labelled: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Subject:
    id: str
    views: Mapping[str, View]  # plane -> view
    warnings: tuple[str, ...] = ()  # what the reader had to assume; never holds the subject's id


class Source(Protocol):
    """A cohort on disk. Cheap to build and to pickle: it reads nothing until asked."""

    root: Path

    def subjects(self) -> Sequence[str]:
        """Ids, sorted. Raises CohortError for an empty folder or a subject found twice."""
        ...

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        """Raises CohortError for anything in that subject's files that could become a wrong number."""
        ...

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        """Rows indexed by subject id (str), and the meaning of the columns; None where the cohort has no table."""
        ...

"""What every cohort reader yields: subjects made of views made of frames, and one table."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from morphojax.data.tables.schema import Schema

# A file of its own says so by its name; the cohort's metadata give the frame of a cine; the largest or smallest chamber of a
# segmentation; the frame that differs most from the first; a cine starts at ED; halfway from ED to ES; the number is the name.
PHASE_FROM = ("file", "metadata", "segmentation", "motion", "first frame", "halfway", "number")


class CohortError(ValueError):
    """A subject, file or table that cannot be used. The message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One time point of one plane, as stored: nothing resampled, nothing flipped.

    image:   [X, Y, Z] float32, the scanner's intensities; Z is the slice axis (Z = 1 in long-axis planes).
    label:   [X, Y, Z] uint8 of canonical ids (`anatomy.LABEL_ID`), or None where nobody drew one.
    affine:  [4, 4] float64, voxel index -> mm, RAS+.
    phase_from: how it is known which phase this is: one of PHASE_FROM.
    """

    phase: str  # one of anatomy.PHASES, or anatomy.cine_phase
    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    phase_from: str = "file"


@dataclasses.dataclass(frozen=True)
class View:
    """One plane of one subject. `labelled` names the structures that the annotators drew (absent ones included). `cine` are frames
    kept besides those of `frames`, each made when it is asked for."""

    plane: str
    frames: tuple[Frame, ...]  # at most one per phase, in the order of anatomy.PHASES
    labelled: tuple[str, ...]
    cine: Sequence[Frame] = ()  # phases of anatomy.cine_phase, in the order of time


@dataclasses.dataclass(frozen=True)
class Subject:
    id: str
    views: Mapping[str, View]  # plane -> view
    warnings: tuple[str, ...] = ()  # what the reader had to assume; never holds the subject's id


class Source(Protocol):
    """A cohort on disk. Cheap to build and to pickle: it reads nothing until asked."""

    @property
    def root(self) -> Path: ...

    @property
    def frames(self) -> str:
        """Those kept of a cine, as in `cine_frames`."""
        ...

    def subjects(self) -> Sequence[str]:
        """Ids, sorted. Raises CohortError for an empty folder or a subject found twice."""
        ...

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        """Raises CohortError for anything in that subject's files that could become a wrong number."""
        ...

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        """Rows indexed by subject id (str), and the meaning of the columns; None where the cohort has no table."""
        ...

    def splits(self) -> Mapping[str, str] | None:
        """Subject -> train, val or test, as the cohort's makers published it; None where they published none."""
        ...


def cine_frames(choice: str, count: int) -> tuple[int, ...]:
    """Numbers, from 0, of the frames that are kept of a cine of `count`, besides its phases: none ("phases"), "all", or so many
    evenly spaced over the cycle, frame 0 among them ("8"; all where there are no more). Raises CohortError for another choice."""
    if choice == "phases":
        return ()
    if choice != "all" and not (choice.isdecimal() and int(choice)):
        raise CohortError(f"frames={choice!r}: choose phases, all, or a number such as 8")
    n = count if choice == "all" else min(int(choice), count)
    return tuple(i * count // n for i in range(n))


class Folder:
    """What the sources of a folder are built from: where it is, a table and its dictionary in place of the folder's own, the frames that
    are kept of a cine (`cine_frames`), and, of an export of UK Biobank's, which fields and which visit (`ukb_table.read_export`)."""

    name: str
    reads_exports = False

    def __init__(
        self,
        root: str | Path,
        table: str | Path | None = None,
        dictionary: str | Path | None = None,
        frames: str = "phases",
        fields: str = "",
        visit: int = 2,
    ):
        cine_frames(frames, 1)  # a bad choice is refused now, not for every subject
        if fields and not self.reads_exports:
            raise CohortError(
                f"the source {self.name} reads no export of UK Biobank, so no fields to choose; leave out --table_fields"
            )
        self.root, self.frames = Path(root), frames
        self.table_path, self.dictionary_path, self.fields, self.visit = table, dictionary, fields, visit

    def splits(self) -> Mapping[str, str] | None:
        return None

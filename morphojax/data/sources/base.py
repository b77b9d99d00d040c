"""What cohort readers return: a subject has views, a view has frames; a cohort has one table."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from morphojax.data.errors import NamedError
from morphojax.data.tables.schema import Schema

# How the phase of a frame is known.
PHASE_FROM = (
    "file",  # the file is named after the phase, or equals that frame of the cine
    "metadata",  # the cohort's metadata give the frame number
    "segmentation",  # the frame of the smallest LV cavity or the largest LA
    "motion",  # the frame that differs most from frame 0
    "first frame",  # the cine starts at ED
    "halfway",  # mid: halfway from ED to ES
    "number",  # no phase: the frame is named by its number
)


class CohortError(NamedError):
    """A subject, file or table cannot be used. The message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One time point of one plane, as stored: nothing is resampled or flipped.

    image:      [X, Y, Z] float32, the scanner's intensities; Z is the slice axis (1 in long axis).
    label:      [X, Y, Z] uint8 of canonical ids (`anatomy.LABEL_ID`); None where not annotated.
    affine:     [4, 4] float64, voxel index -> mm, RAS+.
    phase_from: how the phase is known: one of PHASE_FROM.
    """

    phase: str  # one of anatomy.PHASES, or anatomy.cine_phase
    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    phase_from: str = "file"


@dataclasses.dataclass(frozen=True)
class View:
    """One plane of one subject.

    frames:   at most one per phase, in the order of anatomy.PHASES.
    labelled: the annotated structures, including those that are absent from this heart.
    cine:     the other kept frames, named by anatomy.cine_phase, in time order; made on access.
    """

    plane: str
    frames: tuple[Frame, ...]
    labelled: tuple[str, ...]
    cine: Sequence[Frame] = ()


@dataclasses.dataclass(frozen=True)
class Subject:
    id: str
    views: Mapping[str, View]  # plane -> view
    warnings: tuple[str, ...] = ()  # assumptions of the reader; they never contain the subject's id


class Source(Protocol):
    """A cohort on disk. Cheap to build and to pickle: building it reads no file."""

    @property
    def root(self) -> Path: ...

    @property
    def frames(self) -> str:
        """Which frames of a cine to keep besides the phases: a choice of `cine_frames`."""
        ...

    def subjects(self) -> Sequence[str]:
        """Ids, sorted. Raises CohortError for an empty folder or a subject found twice."""
        ...

    def read(self, subject: str, planes: Sequence[str]) -> Subject:
        """One subject. Raises CohortError where its files are damaged or inconsistent."""
        ...

    def table(self) -> tuple[pd.DataFrame, Schema] | None:
        """Rows indexed by subject id (str), and their schema; None without a table."""
        ...

    def splits(self) -> Mapping[str, str] | None:
        """Subject -> train, val or test: the official split; None where the cohort has none."""
        ...


def cine_frames(choice: str, count: int) -> tuple[int, ...]:
    """Frame numbers, from 0, to keep of a cine of `count` frames, besides its phases.

    choice: "phases" keeps none, "all" keeps all, and a number such as "8" keeps that many, evenly
    spaced over the cycle from frame 0 (all, if the cine has fewer). Raises CohortError for another
    choice.
    """
    if choice == "phases":
        return ()
    if choice != "all" and not (choice.isdecimal() and int(choice)):
        raise CohortError(f"frames={choice!r}: choose phases, all, or a number such as 8")
    kept = count if choice == "all" else min(int(choice), count)
    return tuple(i * count // kept for i in range(kept))


class FolderSource:
    """Base class of the sources that read a folder.

    table, dictionary: files to use instead of the cohort's own.
    frames: which frames of a cine to keep besides the phases (`cine_frames`).
    """

    name: str

    def __init__(
        self,
        root: str | Path,
        table: str | Path | None = None,
        dictionary: str | Path | None = None,
        frames: str = "phases",
    ):
        cine_frames(frames, 1)  # refuse a bad choice once, instead of for every subject
        self.root, self.frames = Path(root), frames
        self.table_path, self.dictionary_path = table, dictionary

    def splits(self) -> Mapping[str, str] | None:
        return None

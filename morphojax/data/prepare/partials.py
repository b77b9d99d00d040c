"""One subject's files -> its records, kept as a partial result in the output folder.

A partial result is written completely or not at all, so a killed run continues where it stopped.
"""

import dataclasses
import hashlib
import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from morphojax import anatomy
from morphojax.data.geometry import BLACK, Grid, Placement, to_grid, to_input, to_native
from morphojax.data.prepare.checks import PrepareError, check_frame, describe_error
from morphojax.data.prepare.measured import Measured
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.prepare.workers import map_subjects
from morphojax.data.sources.base import CohortError, Frame, Source, View
from morphojax.data.store.dataset import encode_native
from morphojax.data.store.records import decode, encode, write_atomically
from morphojax.progress import bar as progress_bar

CUT_WARNING = 0.02  # fraction of a label's voxels outside the crop, above which there is a warning


@dataclasses.dataclass(frozen=True)
class PartialResults:
    """Makes and reads the partial results of a cohort, one file per subject in `folder`.

    Worker processes get a copy. Everything that it writes or raises names a subject by
    `name(subject)`.
    """

    source: Source
    planes: tuple[str, ...]
    grid: Grid
    percentiles: tuple[float, float]
    folder: Path
    pseudonym: Pseudonyms | None = None
    measured: Measured | None = None
    stamp: bytes = b""  # digest of all settings that partial results must share to be assembled

    def name(self, subject: str) -> str:
        """The subject's name in the dataset: its pseudonym, or its id where there is no key."""
        return self.pseudonym(subject) if self.pseudonym else subject

    def settings(self) -> dict[str, Any]:
        return {
            "planes": list(self.planes),
            "frames": self.source.frames,
            "grid": self.grid.to_json(),
            "percentiles": list(self.percentiles),
            **({"pseudonyms": self.pseudonym.check} if self.pseudonym else {}),
            **({"measured": [c.name for c in self.measured.columns]} if self.measured else {}),
        }

    def path(self, subject: str) -> Path:
        """The subject's file; a hash, as an id may hold characters that a file name cannot."""
        return self.folder / f"{hashlib.sha256(self.name(subject).encode()).hexdigest()[:32]}.msgpack"

    def write(self, subject: str) -> str | None:
        """Writes the subject's partial result; returns the reason where its files are unusable.

        Raises OSError where the disk cannot be written.
        """
        record = self._record(subject)
        if isinstance(record, str):
            return record
        body = self.stamp + encode(record)
        write_atomically(self.path(subject), hashlib.sha256(body).digest() + body, durable=False)
        return None

    def read(self, subject: str) -> dict[str, Any] | None:
        """What `write` wrote, or None where there is no file or a damaged one.

        A damaged file is removed: a power failure or a copy between machines may have truncated
        it. Raises PrepareError for a file that was made with other settings.
        """
        path = self.path(subject)
        try:
            data = memoryview(path.read_bytes())
        except FileNotFoundError:
            return None
        digest, body = data[:32], data[32:]
        if hashlib.sha256(body).digest() != digest:
            path.unlink(missing_ok=True)
            return None
        if body[: len(self.stamp)] != self.stamp:
            raise PrepareError(
                f"{path} was made with other settings; remove it or {self.folder}, or use the same settings again"
            )
        return decode(bytes(body[len(self.stamp) :]))

    def estimate(self, subject: str) -> dict[str, Any] | str:
        """What `write` would add to the dataset, or why nothing; writes nothing.

        Keys: `planes` ({plane: [stacks, slices, labelled stacks]}), `bytes` (estimated size on
        disk), `warnings`, `measured` (names of the measured columns).
        """
        record = self._record(subject)
        if isinstance(record, str):
            return record
        planes, size = {}, 0
        for plane, view in record["views"].items():
            stacks = view["stacks"]
            planes[plane] = [len(stacks), sum(s["slices"] for s in stacks), sum(bool(s["structures"]) for s in stacks)]
            # zlib's level 1 gives nearly the size of the shards' zstd level 1.
            size += sum(len(zlib.compress(data, 1)) for data in (*view["slices"], *view["native"]))
        return {"planes": planes, "bytes": size, "warnings": record["warnings"], "measured": list(record["measured"])}

    def _record(self, subject: str) -> dict[str, Any] | str:
        """The subject's partial result, or the reason why its files are unusable."""
        try:
            contents = self.source.read(subject, self.planes)
            if not contents.views:
                raise CohortError(f"no images of {', '.join(self.planes)}")
            black: list[str] = []
            views = {plane: self._view(view, black) for plane, view in contents.views.items()}
            values = dict(self.measured.of(contents.views)) if self.measured else {}
            # Labels are used to warn about the crop, never to place it.
            cut = [p for p, v in views.items() if any(s["cut"] > CUT_WARNING * s["voxels"] for s in v["stacks"])]
        except Exception as error:  # whatever a damaged file raises is the failure of its subject alone
            message = describe_error(error)
            return self.pseudonym.hide(subject, message) if self.pseudonym else message
        warnings = [
            *contents.warnings,
            *(f"{p}: the crop cuts off more than {CUT_WARNING:.0%} of a label" for p in cut),
            *(f"{p}: {BLACK}" for p in dict.fromkeys(black)),
        ]
        return {"subject": self.name(subject), "warnings": warnings, "views": views, "measured": values}

    def _view(self, view: View, black: list[str]) -> dict[str, Any]:
        """The stacks of a view; adds its plane to `black` where one of them is black."""
        slices, native, stacks = [], [], []
        for frame in itertools.chain(view.frames, view.cine):
            stack, frame_slices, frame_native, visible = self._stack(view, frame)
            black += [] if visible else [view.plane]
            stacks.append(stack)
            slices += frame_slices
            native.append(frame_native)
        return {"stacks": stacks, "slices": slices, "native": native}

    def _stack(self, view: View, frame: Frame) -> tuple[dict[str, Any], list[bytes], bytes, bool]:
        """A frame's row of stacks.csv, the records of its slices, its native record, and whether
        its image is not black.
        """
        check_frame(view.plane, frame)
        image, placement = to_input(frame.image, frame.affine, self.grid, self.percentiles)
        if frame.label is None:
            label, structures, voxels, cut = np.zeros_like(image), "", 0, 0
        else:
            label, structures = to_grid(frame.label, placement, order=0), " ".join(view.labelled)
            voxels, cut = measure_cut(frame.label, placement, self.grid.size)
        stack = {
            "phase": frame.phase,
            "phase_from": frame.phase_from,
            "slices": len(image),
            "structures": structures,
            "voxels": voxels,
            "cut": cut,
        }
        slices = [encode({"image": i, "label": la}) for i, la in zip(image, label, strict=True)]
        return stack, slices, encode(encode_native(frame.label, placement)), bool(image.any())


def measure_cut(label: np.ndarray, placement: Placement, size: int) -> tuple[int, int]:
    """Labelled voxels of a native label [X, Y, Z], and those outside the crop of `size` pixels."""
    flat = dataclasses.replace(placement, shape=(*placement.shape[:2], 1))
    covered = to_native(np.ones((1, size, size), np.uint8), flat, order=0)[..., 0]
    labelled = label != anatomy.BACKGROUND
    return int(np.count_nonzero(labelled)), int(np.count_nonzero(labelled & (covered == 0)[..., None]))


def write_all(
    partials: PartialResults, subjects: Sequence[str], workers: int | None, strict: bool, progress: bool
) -> dict[str, str]:
    """Writes the partial results that are missing; returns the reasons of failures by subject.

    With `strict` the first failure is raised as PrepareError.
    """
    failures: dict[str, str] = {}
    todo = [i for i in subjects if partials.read(i) is None]
    with progress_bar(
        total=len(subjects), initial=len(subjects) - len(todo), desc="prepare", unit="subject", show=progress
    ) as bar:
        for subject, failure in map_subjects(partials.write, todo, workers):
            bar.update()
            if failure is not None:
                failures[subject] = failure
                bar.set_postfix(failed=len(failures))
                if strict:
                    raise PrepareError(f"subject {partials.name(subject)}: {failure}")
    return failures

"""Segments NIfTI files with a run, and writes labels with the exact geometry of the images."""

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from morphojax import anatomy
from morphojax.data import geometry
from morphojax.data.prepare.checks import describe_error
from morphojax.data.sources import nifti, nifti_bytes
from morphojax.data.store.records import write_atomically
from morphojax.inference import quality
from morphojax.inference.measures import PredictError, Segmented, measure_rows, volume_rows
from morphojax.inference.planes import check_plane
from morphojax.inference.segmenter import Run
from morphojax.inference.stacks import segment_volume
from morphojax.progress import bar as progress_bar
from morphojax.train.run import RunError

NAN = float("nan")
SUFFIXES = (".nii.gz", ".nii")
# Names of files, without suffix.
_LABEL = re.compile(r"^(label|seg\d*)_|_(gt|seg|label)$")
_UKB = re.compile(r"^(sa|la_[234]ch)(_ED|_ES|_mid)?$")  # UK Biobank: the plane is in the name
_FRAME_OF = re.compile(r"^(?P<heart>.+)_(?P<phase>ED|ES|frame\d+)$")


class UnwritableError(PredictError):
    """An output that cannot be written: no other file can be, either."""


def stem(path: Path) -> str:
    """The name of a file without .nii or .nii.gz."""
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.endswith(s)), path.name)


def find_inputs(source: Path, plane: str, pattern: str = "*") -> tuple[list[Path], list[str]]:
    """The images to segment, sorted, and a line for each kind of file that is skipped.

    Args:
        source: a file, which is always segmented, or a folder. In a folder, files whose name marks
            them as labels (`label_*`, `seg_*`, `*_gt`) and UK Biobank files of another plane are
            skipped.
        pattern: of names in the folder.

    Raises:
        PredictError: nothing to segment.
    """
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise PredictError(f"--input={source}: no such file or folder")
    kept, labels, other_planes = [], 0, 0
    images, others = _images(source, pattern)
    for path in images:
        ukb = _UKB.match(stem(path))
        if _LABEL.search(stem(path)):
            labels += 1
        elif ukb and ukb.group(1).replace("sa", "sax") != plane:
            other_planes += 1
        else:
            kept.append(path)
    notes = [f"skipped: {labels} files named as labels"] if labels else []
    notes += [f"skipped: {other_planes} files named as planes other than {plane}"] if other_planes else []
    if others:
        notes.append(f"skipped: {len(others)} hidden files, or not named .nii or .nii.gz, such as {others[0].name}")
    if not kept:
        reason = "; ".join(notes) or "it holds no such .nii or .nii.gz file"
        raise PredictError(f"--input={source}: no image of {plane} that matches {pattern!r} ({reason})")
    return kept, notes


def _images(source: Path, pattern: str) -> tuple[list[Path], list[Path]]:
    """The NIfTI files below a folder, and its other files that match the pattern, sorted.

    Linked folders are searched too, each folder once.
    """
    found, searched = list[Path](), set[Path]()
    for folder, subfolders, names in os.walk(source, followlinks=True):
        real = Path(folder).resolve()
        if real in searched:
            subfolders.clear()
            continue
        searched.add(real)
        found += [Path(folder, name) for name in names if fnmatch.fnmatchcase(name, pattern)]
    files = sorted(path for path in found if path.is_file())
    images = [p for p in files if p.name.endswith(SUFFIXES) and not p.name.startswith(".")]
    return images, [p for p in files if p not in set(images)]


def hearts(paths: Sequence[Path]) -> list[list[Path]]:
    """Files grouped by heart, in order.

    Files of one folder whose names differ only in _ED and _ES, or in _frameNN, are one heart.
    """
    groups: dict[tuple[Path, str, bool], list[Path]] = {}
    for path in paths:
        match = _FRAME_OF.match(stem(path))
        numbered = bool(match) and match["phase"].startswith("frame")
        groups.setdefault((path.parent, match["heart"] if match else path.name, numbered), []).append(path)
    return list(groups.values())


def disk_numbers(run: Run, convention: str) -> np.ndarray:
    """A lookup table, uint8 [256]: canonical id -> number on disk.

    Raises PredictError where a structure of the run has no number.
    """
    numbers = anatomy.CONVENTIONS[convention]
    lacking = [s for s in run.structures if s not in numbers.labelled]
    if lacking:
        raise PredictError(f"--labels={convention} has no number for {', '.join(lacking)}; use --labels=canonical")
    table = np.zeros(256, np.uint8)
    for canonical, number in numbers.from_canonical().items():
        table[canonical] = number
    return table


def segment(run: Run, plane: str, path: Path, name: str, stated: bool = False) -> tuple[Segmented, Any]:
    """The labels of one file, and its NIfTI image. Raises ValueError, naming the file.

    stated: the user stated the plane; otherwise the file must not contradict it (`check_plane`).
    """
    image: Any = nifti_bytes.parse(path)
    volume = nifti.from_image(path, image)
    spacing = geometry.spacing_of(volume.affine)
    if not stated:
        check_plane(path, stem(path), plane, volume.raw.shape, spacing)
    frames = segment_volume(run, plane, volume)
    black = sum(stack.black for stack in frames)
    notes = volume.notes
    if black:
        notes = (*notes, f"{geometry.BLACK} ({black} of {volume.frames} frames); do not use its labels")
    rate = heart_rate(image.header, volume.frames)
    return Segmented(name, frames, spacing, rate, notes), image


def heart_rate(header: Any, frames: int) -> float:
    """Beats per minute of a cine that covers one cardiac cycle.

    NaN where the time step has no unit, or gives a rate outside 25 to 250.
    """
    seconds = {8: 1.0, 16: 1e-3}.get(int(header["xyzt_units"]) & 56)  # NIfTI-1: codes of sec and msec
    step = float(header["pixdim"][4])
    if frames < 2 or seconds is None or not step > 0:
        return NAN
    rate = 60 / (step * seconds * frames)
    return rate if 25 <= rate <= 250 else NAN


def save(path: Path, image: Any, frames: Sequence[np.ndarray], numbers: np.ndarray) -> None:
    """Writes labels with the image's geometry: shape, affine, qform, sform, spacing and units.

    The file is complete or absent. Raises UnwritableError where it cannot be written.
    """
    data = numbers[np.stack(frames, axis=-1)].reshape(image.shape, order="F")
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.extensions.clear()  # extensions and the texts below may identify the subject
    for field, value in {"descrip": b"", "db_name": b"", "aux_file": b"", "cal_min": 0, "cal_max": 0}.items():
        if field in header:
            header[field] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")  # nibabel chooses the format by the suffix
    try:
        nib.save(type(image)(data, None, header), partial)  # the header holds qform and sform
        partial.replace(path)
    except OSError as error:
        raise UnwritableError(f"{path}: cannot be written ({error.strerror or error}); make room") from error
    finally:
        partial.unlink(missing_ok=True)


def predict_files(
    run: Run,
    plane: str,
    paths: Sequence[Path],
    source: Path,
    output: Path,
    labels: str = "canonical",
    overwrite: bool = False,
    stated: bool = False,
) -> tuple[list[str], list[str]]:
    """Segments files; writes labels and both tables.

    Returns an error per file that is left out, and notes: about headers and black images of the
    others, and about the quality of measures.

    Args:
        paths: of `find_inputs`.
        source: the file or folder that was searched; the output has the same relative names.
        labels: of anatomy.CONVENTIONS, for the numbers on disk.
        stated: see `segment`.
    """
    numbers = disk_numbers(run, labels)
    root = source if source.is_dir() else source.parent
    targets = {path: output / path.relative_to(root) for path in paths}
    _check_targets(targets, output, overwrite)
    problems, notes, volumes, measures = [], [], [], []
    with progress_bar(total=len(paths), desc="predict", unit="file") as progress:
        for files in hearts(paths):
            segmented = []
            for path in files:
                name = str(path.relative_to(root).with_name(stem(path)))
                try:
                    file, image = segment(run, plane, path, name, stated)
                    save(targets[path], image, [stack.label for stack in file.frames], numbers)
                except (RunError, UnwritableError):
                    raise
                except Exception as error:  # whatever a file raises concerns this file alone
                    message = describe_error(error)
                    problems.append(message if str(path) in message else f"{path}: {message}")
                else:
                    segmented.append(file)
                    notes += [f"{path}: {note}" for note in file.notes]
                progress.update()
            volumes += volume_rows(run, plane, segmented)
            measures += measure_rows(run, plane, segmented)
    notes += quality.summary(run, plane, measures)
    output.mkdir(parents=True, exist_ok=True)
    for table, rows in (("volumes.csv", volumes), ("measures.csv", measures)):
        write_atomically(output / table, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())
    return problems, notes


def _check_targets(targets: Mapping[Path, Path], output: Path, overwrite: bool) -> None:
    """Raises PredictError where writing would replace an image, an output, or another target."""
    for path, target in targets.items():
        if target.resolve() == path.resolve():
            raise PredictError(f"--output={output} would overwrite the images; give another folder")
    twice = [p for p in targets if p.suffix == ".gz" and p.with_suffix("") in targets]
    if twice:
        raise PredictError(f"{twice[0]} and {twice[0].stem} both exist; remove one, or choose with --pattern")
    existing = [t for t in (*targets.values(), output / "measures.csv", output / "volumes.csv") if t.exists()]
    if existing and not overwrite:
        raise PredictError(
            f"{existing[0]} already exists ({len(existing)} files in all); add --overwrite or change --output"
        )

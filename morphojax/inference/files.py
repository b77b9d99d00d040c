"""NIfTI images -> labels with their exact geometry, and measures: what `morphojax.predict` does with a run."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from morphojax import anatomy
from morphojax.data.sources import nifti
from morphojax.data.store.records import write_atomically
from morphojax.evaluation import clinical
from morphojax.inference.segmenter import Run
from morphojax.train.run import RunError

NAN = float("nan")
SUFFIXES = (".nii.gz", ".nii")
_LABEL = re.compile(r"^(label|seg\d*)_|_(gt|seg|label)$")
_UKB = re.compile(r"^(sa|la_[234]ch)(_ED|_ES|_mid)?$")
_FRAME_OF = re.compile(r"^(?P<heart>.+)_(?P<phase>ED|ES|frame\d+)$")


class PredictError(ValueError):
    """An input, output or flag that cannot be used. The message names it and says what to do."""


@dataclasses.dataclass(frozen=True)
class Segmented:
    """A file's frames, each [X, Y, Z] uint8 of canonical ids. `name` is relative to the input, without suffix."""

    name: str
    frames: tuple[np.ndarray, ...]
    spacing: tuple[float, float, float]
    heart_rate: float  # beats per minute of a cine that covers one cycle; NaN where unknown


def stem(path: Path) -> str:
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.endswith(s)), path.name)


def choose_plane(run: Run, plane: str | None) -> str:
    """--plane, which a run of one plane need not be told. Raises PredictError for one that the run does not know."""
    if plane is None and len(run.planes) == 1:
        return run.planes[0]
    if plane not in run.planes:
        raise PredictError(
            f"--plane={plane}: the run segments {', '.join(run.planes)}; name the one that the images show"
        )
    return plane


def find_inputs(source: Path, plane: str, pattern: str = "*") -> tuple[list[Path], list[str]]:
    """Images to segment, sorted, and a line for each kind of file that was passed over.

    In a folder, names that are labels by convention (`label_*`, `seg_*`, `*_gt`) and UK Biobank names of another plane
    are passed over; a file that is named is always taken.
    """
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise PredictError(f"--input={source}: no such file or folder")
    kept, labels, other = [], 0, 0
    for path in sorted(p for p in source.rglob(pattern) if p.is_file() and p.name.endswith(SUFFIXES)):
        ukb = _UKB.match(stem(path))
        if _LABEL.search(stem(path)):
            labels += 1
        elif ukb and ukb.group(1).replace("sa", "sax") != plane:
            other += 1
        else:
            kept.append(path)
    notes = [f"passed over: {labels} files named as labels"] if labels else []
    notes += [f"passed over: {other} files named as planes other than {plane}"] if other else []
    if not kept:
        found = "; ".join(notes) or "no .nii or .nii.gz at all"
        raise PredictError(f"--input={source}: no image of {plane} that matches {pattern!r} ({found})")
    return kept, notes


def hearts(paths: Sequence[Path]) -> list[list[Path]]:
    """Files grouped by heart, in order: those of one folder whose names differ only in _ED / _ES, or in _frameNN."""
    groups: dict[tuple[Path, str, bool], list[Path]] = {}
    for path in paths:
        match = _FRAME_OF.match(stem(path))
        numbered = bool(match) and match["phase"].startswith("frame")
        groups.setdefault((path.parent, match["heart"] if match else path.name, numbered), []).append(path)
    return list(groups.values())


def largest_components(label: np.ndarray) -> np.ndarray:
    """Keeps, of each structure in [X, Y, Z], the largest piece connected through faces; the rest becomes background."""
    out = np.zeros_like(label)
    for value in np.unique(label[label > 0]):
        pieces, _ = ndimage.label(label == value)
        sizes = np.bincount(pieces.ravel())
        out[pieces == 1 + sizes[1:].argmax()] = value
    return out


def disk_numbers(run: Run, convention: str) -> np.ndarray:
    """[256] uint8, canonical id -> number on disk. Raises PredictError where a structure of the run has none."""
    known = anatomy.CONVENTIONS[convention]
    lacking = [s for s in run.structures if s not in known.labelled]
    if lacking:
        raise PredictError(f"--labels={convention} has no number for {', '.join(lacking)}; use --labels=canonical")
    table = np.zeros(256, np.uint8)
    for canonical, number in known.from_canonical().items():
        table[canonical] = number
    return table


def segment(run: Run, plane: str, path: Path, name: str, largest_component: bool) -> tuple[Segmented, Any]:
    """One file -> its labels, and the NIfTI image they came from. Raises ValueError, naming the file."""
    volume, image = _read(path)
    if plane != "sax" and volume.raw.shape[2] != 1:
        raise PredictError(f"{path}: has {volume.raw.shape[2]} slices, {plane} has one; is this another plane?")
    frames = []
    for t in range(volume.frames):
        try:
            label = run.labels(run.predict(volume.values(t), volume.affine), plane)
        except RunError:  # the run's fault, not the file's
            raise
        except ValueError as error:
            raise PredictError(f"{path}: {error}") from error
        frames.append(largest_components(label) if largest_component else label)
    x, y, z = (float(s) for s in np.sqrt((volume.affine[:3, :3] ** 2).sum(axis=0)))
    return Segmented(name, tuple(frames), (x, y, z), heart_rate(image.header, volume.frames)), image


def _read(path: Path) -> tuple[nifti.Volume, Any]:
    """The voxels, strictly read, and the image for its header."""
    try:
        image: Any = nib.load(path)
        shape = image.shape
    except Exception as error:  # whatever nibabel trips over: the strict reader says it with advice
        nifti.load(path, 3)
        raise PredictError(f"{path}: not a readable NIfTI file ({error})") from error
    return nifti.load(path, 4 if len(shape) > 3 and max(shape[3:]) > 1 else 3), image


def heart_rate(header: Any, frames: int) -> float:
    """Beats per minute, taking a cine for one cardiac cycle; NaN where the time step has no unit or is absurd."""
    seconds = {"sec": 1.0, "msec": 1e-3}.get(header.get_xyzt_units()[1])
    step = float(header["pixdim"][4])
    if frames < 2 or seconds is None or not step > 0:
        return NAN
    rate = 60 / (step * seconds * frames)
    return rate if 25 <= rate <= 250 else NAN


def save(path: Path, image: Any, frames: Sequence[np.ndarray], numbers: np.ndarray) -> None:
    """Writes labels with the image's geometry (shape, affine, qform, sform, spacing, units), whole or not at all."""
    data = numbers[np.stack(frames, axis=-1)].reshape(image.shape, order="F")
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.extensions.clear()  # they, and the texts below, may tell who was scanned
    for field, value in {"descrip": b"", "db_name": b"", "aux_file": b"", "cal_min": 0, "cal_max": 0}.items():
        if field in header:
            header[field] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")  # nibabel goes by the suffix
    try:
        nib.save(type(image)(data, image.affine, header), partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sizes(run: Run, plane: str, label: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Size of every structure of a frame: mL in short axis, cm2 in a long-axis plane."""
    found = {s: clinical.size(plane, label, s, spacing) for s in run.structures_of(plane)}
    return {f"{s}_{unit}": value for s, (value, unit) in found.items()}


def volume_rows(run: Run, plane: str, files: Sequence[Segmented]) -> Iterator[dict[str, Any]]:
    for file in files:
        for t, label in enumerate(file.frames):
            yield {"file": file.name, "frame": t} | sizes(run, plane, label, file.spacing)


def measure_rows(run: Run, plane: str, files: Sequence[Segmented]) -> Iterator[dict[str, Any]]:
    """What the files of one heart measure: a row for each cine, one for the single frames together."""
    for file in files:
        if len(file.frames) > 1:
            stacks = [(label, file.spacing) for label in file.frames]
            ed, es = _extremes(run, plane, stacks)
            row: dict[str, Any] = {"file": file.name, "kind": "cine", "ed": ed, "es": es, "heart_rate": file.heart_rate}
            yield row | clinical.measures(plane, stacks[ed], stacks[es], run.structures_of(plane), file.heart_rate)
    single = [file for file in files if len(file.frames) == 1]
    stacks = [(file.frames[0], file.spacing) for file in single]
    if len(single) == 1:
        yield {"file": single[0].name, "kind": "stack"} | sizes(run, plane, *stacks[0])
    elif single:
        names = [file.name.rpartition("_")[2] for file in single]
        ed, es = (names.index("ED"), names.index("ES")) if "ED" in names else _extremes(run, plane, stacks)
        row = {"file": single[0].name.rpartition("_")[0], "kind": "frames", "ed": names[ed], "es": names[es]}
        yield row | clinical.measures(plane, stacks[ed], stacks[es], run.structures_of(plane))


def _extremes(run: Run, plane: str, stacks: Sequence[clinical.Stack]) -> tuple[int, int]:
    """(ED, ES) positions: largest and smallest LV cavity; without an LV, smallest and largest atrium."""
    for structure, ed_is_largest in (
        ("lv_cavity", True),
        ("la_cavity", False),
        ("ra_cavity", False),
        ("rv_cavity", True),
    ):
        if structure in run.structures_of(plane):
            volumes = [clinical.volume_ml(label, structure, spacing) for label, spacing in stacks]
            largest, smallest = int(np.argmax(volumes)), int(np.argmin(volumes))
            return (largest, smallest) if ed_is_largest else (smallest, largest)
    raise PredictError(f"no cavity among {', '.join(run.structures_of(plane))}: ED and ES cannot be told apart")


def predict_files(
    run: Run,
    plane: str,
    paths: Sequence[Path],
    source: Path,
    output: Path,
    labels: str = "canonical",
    largest_component: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Segments every file and writes labels, measures.csv and volumes.csv. Returns a message per file left out."""
    numbers = disk_numbers(run, labels)
    root = source if source.is_dir() else source.parent
    targets = {path: output / path.relative_to(root) for path in paths}
    _check_targets(targets, output, overwrite)
    problems, volumes, measures = [], [], []
    with tqdm(total=len(paths), desc="predict", unit="file") as progress:
        for files in hearts(paths):
            done = []
            for path in files:
                name = str(path.relative_to(root).with_name(stem(path)))
                try:
                    file, image = segment(run, plane, path, name, largest_component)
                except RunError:
                    raise
                except ValueError as error:
                    problems.append(str(error))
                else:
                    save(targets[path], image, file.frames, numbers)
                    done.append(file)
                progress.update()
            volumes += volume_rows(run, plane, done)
            measures += measure_rows(run, plane, done)
    output.mkdir(parents=True, exist_ok=True)
    for table, rows in (("volumes.csv", volumes), ("measures.csv", measures)):
        write_atomically(output / table, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())
    return problems


def _check_targets(targets: Mapping[Path, Path], output: Path, overwrite: bool) -> None:
    for path, target in targets.items():
        if target.resolve() == path.resolve():
            raise PredictError(f"--output={output} would overwrite the images; give another folder")
    twice = [p for p in targets if p.suffix == ".gz" and p.with_suffix("") in targets]
    if twice:
        raise PredictError(f"{twice[0]} and {twice[0].stem} are both there; remove one, or choose with --pattern")
    there = [t for t in (*targets.values(), output / "measures.csv", output / "volumes.csv") if t.exists()]
    if there and not overwrite:
        raise PredictError(
            f"{there[0]} is already there ({len(there)} files in all); add --overwrite or change --output"
        )

"""Writes the cohort: a folder per subject in the UK Biobank NIfTI layout, and the table."""

import concurrent.futures
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from morphojax import interrupts
from morphojax.anatomy import CONVENTIONS
from morphojax.data import json_text
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic import columns as table
from morphojax.data.sources.synthetic import heart as hearts
from morphojax.data.sources.synthetic import imaging, measures, thorax
from morphojax.data.sources.synthetic import person as persons
from morphojax.data.tables.schema import DICTIONARY_FIELDS
from morphojax.progress import bar as progress_bar

VERSION = 3  # increase it whenever the files of a seed change
MARK = "cohort.json"
MARK_SHAPE = {"version": int, "seed": int, "subjects": int}
_PREFIX = {"sax": "sa", "la_2ch": "la_2ch", "la_4ch": "la_4ch"}
_LABELS = {
    "sax": ("label_sa", "ukb_sax"),
    "la_2ch": ("label_la_2ch", "ukb_la_2ch"),
    "la_4ch": ("seg4_la_4ch", "canonical"),
}
_PHASES = {"ED": 0, "ES": imaging.END_SYSTOLE}


def generate(root: Path, subjects: int, seed: int = 0, workers: int | None = None, progress: bool = True) -> Path:
    """Writes the subjects syn000001 to syn<subjects> to `root`, and returns `root`.

    A subject depends only on the seed and its number. Existing subjects are kept, so that calling
    again with more subjects extends the cohort; calling with fewer removes none. A subject appears
    once it is complete, also if the process is killed. A cine has 6 frames (ED is frame 0, ES frame
    2) and 10 to 14 slices; a subject takes less than 0.3 s of one core. About one subject in fifty
    has no table row.

    workers: number of processes; by default one per available core.

    Raises CohortError where `root` has a cohort of another seed or generator version, or other
    files.
    """
    root = Path(root)
    if subjects < 1:
        raise ValueError(f"subjects is {subjects}; ask for at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    _claim(root, seed)
    names = [f"syn{number:06d}" for number in range(1, subjects + 1)]
    jobs = [(root, name, seed, number) for number, name in enumerate(names, 1) if not (root / name).is_dir()]
    workers = min(workers or _cores(), len(jobs))
    with progress_bar(total=len(jobs), desc="synthetic cohort", unit="subject", show=progress and bool(jobs)) as bar:
        if workers <= 1:
            for job in jobs:
                _write_subject(*job)
                bar.update()
        else:
            # Spawned, not forked, because the caller may already run JAX's threads.
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(
                workers, mp_context=context, initializer=interrupts.ignore
            ) as pool:
                pending = [pool.submit(_write_subject, *job) for job in jobs]
                try:
                    for done in concurrent.futures.as_completed(pending):
                        done.result()
                        bar.update()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    _write_table(root, seed)
    return root


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _claim(root: Path, seed: int) -> None:
    """Checks that `root` is empty or a cohort of this seed and version, and writes its mark."""
    mark = root / MARK
    if mark.is_file():
        try:
            state = json_text.parse(mark.read_bytes(), MARK_SHAPE)
            old_version, old_seed = state["version"], state["seed"]
        except (ValueError, OSError) as error:
            raise CohortError(f"{mark}: cannot be read ({error}); delete {root} to make the cohort again") from error
        if (old_version, old_seed) != (VERSION, seed):
            raise CohortError(
                f"{root}: has a synthetic cohort of generator version {old_version}, seed {old_seed}, not of version {VERSION}, "
                f"seed {seed}; choose another folder, or delete this one to make it again"
            )
        return
    if root.is_dir() and any(root.iterdir()):
        raise CohortError(f"{root}: is not empty and has no {MARK}; choose an empty folder for the synthetic cohort")
    root.mkdir(parents=True, exist_ok=True)
    _replace(mark, json.dumps({"version": VERSION, "seed": seed, "subjects": 0}, indent=2).encode())


def _write_subject(root: Path, name: str, seed: int, number: int) -> None:
    """Writes one subject, completely or not at all."""
    files = subject_files(seed, number)
    folder = Path(tempfile.mkdtemp(prefix=f".partial-{name}-", dir=root))
    try:
        for file, data in files.items():
            (folder / file).write_bytes(data)
        folder.chmod(0o755)
        try:
            folder.rename(root / name)
        except OSError:
            if not (root / name).is_dir():  # otherwise another process has written the same subject
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def subject_files(seed: int, number: int, shape: str | None = None) -> dict[str, bytes]:
    """File name -> content of one subject. `shape`: the kind of heart, of `person.SHAPES`."""
    body_rng, scanner_rng, report_rng = np.random.default_rng([seed, number]).spawn(3)
    person = persons.draw(body_rng, shape)
    heart = hearts.build(person, body_rng)
    chest = thorax.build(person, heart, body_rng)
    gain, sigma = float(scanner_rng.lognormal(5.6, 0.4)), float(scanner_rng.uniform(0.03, 0.075))
    seconds = 60 / person.heart_rate / imaging.FRAMES

    files: dict[str, bytes] = {}
    masks: dict[str, dict[str, np.ndarray]] = {}
    affines: dict[str, np.ndarray] = {}
    for plane in imaging.planes(heart, scanner_rng):
        cine = imaging.scan(heart, chest, plane, scanner_rng, gain, sigma)
        prefix = _PREFIX[plane.name]
        stem, convention = _LABELS[plane.name]
        files[f"{prefix}.nii.gz"] = _nifti(cine.image, plane.affine, seconds)
        for phase, frame in _PHASES.items():
            files[f"{prefix}_{phase}.nii.gz"] = _nifti(cine.image[..., frame], plane.affine)
            label = _lookup(convention)[cine.labels[frame]]
            files[f"{stem}_{phase}.nii.gz"] = _nifti(label, plane.affine)
        masks[plane.name] = {phase: cine.labels[frame] for phase, frame in _PHASES.items()}
        affines[plane.name] = plane.affine
    measured = measures.measure(masks["sax"], masks["la_2ch"]["ES"], masks["la_4ch"]["ES"], affines)
    files["row.json"] = json.dumps(table.row(person, measured, report_rng)).encode()
    return files


def _lookup(convention: str) -> np.ndarray:
    """Canonical id -> number on disk; background for structures outside the convention."""
    lookup = np.zeros(8, np.uint8)
    for canonical, disk in CONVENTIONS[convention].from_canonical().items():
        lookup[canonical] = disk
    return lookup


def _nifti(data: np.ndarray, affine: np.ndarray, seconds: float | None = None) -> bytes:
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    if seconds is not None:
        image.header["pixdim"][4] = seconds
    # Noise does not repeat, so Huffman codes alone compress it as well, twice as fast.
    strategy = zlib.Z_HUFFMAN_ONLY if data.dtype == np.int16 else zlib.Z_DEFAULT_STRATEGY
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31, 9, strategy)  # 31: a gzip header, without a date
    return compressor.compress(image.to_bytes()) + compressor.flush()


def _write_table(root: Path, seed: int) -> None:
    """Writes the table of all existing subjects, then its dictionary, then the mark."""
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["subject", *table.SCHEMA.names], lineterminator="\n")
    writer.writeheader()
    for name in names:
        row = json.loads((root / name / "row.json").read_text())
        if row is not None:
            writer.writerow({"subject": name} | row)
    _replace(root / "table.csv", text.getvalue().encode())

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DICTIONARY_FIELDS)
    for c in table.SCHEMA.columns:
        categories, leak = ";".join(c.categories), ";".join(c.leak)
        fields = dataclasses.asdict(c) | {"categories": categories, "leak": leak}
        writer.writerow([fields[name] for name in DICTIONARY_FIELDS])
    _replace(root / "dictionary.csv", text.getvalue().encode())
    _replace(root / MARK, json.dumps({"version": VERSION, "seed": seed, "subjects": len(names)}, indent=2).encode())


def _replace(path: Path, data: bytes) -> None:
    """Writes a file completely or not at all."""
    handle, partial = tempfile.mkstemp(prefix=f".partial-{path.name}-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.chmod(partial, 0o644)
    os.replace(partial, path)

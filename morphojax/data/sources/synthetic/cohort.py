"""Writes the cohort: a folder per subject in the UK Biobank NIfTI layout, table.csv, dictionary.csv and cohort.json."""

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
from tqdm import tqdm

from morphojax.anatomy import CONVENTIONS
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic import columns as table
from morphojax.data.sources.synthetic import heart as hearts
from morphojax.data.sources.synthetic import imaging, measures, thorax
from morphojax.data.sources.synthetic import person as persons
from morphojax.data.tables.schema import DICTIONARY_FIELDS

VERSION = 3  # raise it whenever the same seed gives other files
MARK = "cohort.json"
_PREFIX = {"sax": "sa", "la_2ch": "la_2ch", "la_4ch": "la_4ch"}
_LABELS = {
    "sax": ("label_sa", "ukb_sax"),
    "la_2ch": ("label_la_2ch", "ukb_la_2ch"),
    "la_4ch": ("seg4_la_4ch", "canonical"),
}
_PHASES = {"ED": 0, "ES": imaging.END_SYSTOLE}


def generate(root: Path, subjects: int, seed: int = 0, workers: int | None = None, progress: bool = True) -> Path:
    """Makes subjects syn000001 to syn<subjects> under `root`, and returns `root`.

    A cine has 6 frames (ED is frame 0, ES frame 2), which with 10-14 slices keeps a subject under 0.3 s of one core. A subject
    depends on (seed, its number) alone: not on `workers` (processes; by default one per available core) nor on `subjects`, so
    a cohort grows by calling again with more, and never shrinks. Subjects already there are kept; one that was being written
    when the process died was never visible. About one subject in fifty has no row in the table.

    Raises CohortError where `root` holds a cohort of another seed or generator version, or files that are no cohort.
    """
    root = Path(root)
    if subjects < 1:
        raise ValueError(f"subjects is {subjects}; ask for at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    _claim(root, seed)
    names = [f"syn{number:06d}" for number in range(1, subjects + 1)]
    todo = [(root, name, seed, number) for number, name in enumerate(names, 1) if not (root / name).is_dir()]
    workers = min(workers or _cores(), len(todo))
    with tqdm(
        total=len(todo), desc="synthetic cohort", unit="subject", disable=None if progress and todo else True
    ) as bar:
        if workers <= 1:
            for job in todo:
                _write_subject(*job)
                bar.update()
        else:
            # Spawned, not forked: the caller may already run JAX's threads.
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
                pending = [pool.submit(_write_subject, *job) for job in todo]
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
    """Checks that `root` is ours or empty, and marks it."""
    mark = root / MARK
    if mark.is_file():
        try:
            found = json.loads(mark.read_text())
            version, old = found["version"], found["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise CohortError(f"{mark}: cannot be read ({error}); delete {root} to make the cohort anew") from error
        if (version, old) != (VERSION, seed):
            raise CohortError(
                f"{root}: holds a synthetic cohort of generator version {version}, seed {old}; version {VERSION}, seed {seed} "
                "was asked for. Choose another folder, or delete this one to make it anew."
            )
        return
    if root.is_dir() and any(root.iterdir()):
        raise CohortError(f"{root}: is not empty and holds no {MARK}; choose an empty folder for the synthetic cohort")
    root.mkdir(parents=True, exist_ok=True)
    _replace(mark, json.dumps({"version": VERSION, "seed": seed, "subjects": 0}, indent=2).encode())


def _write_subject(root: Path, name: str, seed: int, number: int) -> None:
    """One subject, whole or not at all."""
    files = subject_files(seed, number)
    folder = Path(tempfile.mkdtemp(prefix=f".partial-{name}-", dir=root))
    try:
        for file, data in files.items():
            (folder / file).write_bytes(data)
        folder.chmod(0o755)
        try:
            folder.rename(root / name)
        except OSError:
            if not (root / name).is_dir():  # otherwise another process made the same subject meanwhile
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def subject_files(seed: int, number: int, shape: str | None = None) -> dict[str, bytes]:
    """File name -> content of one subject. `shape` fixes the kind of heart (`person.SHAPES`) instead of drawing it."""
    body, scanner, report = np.random.default_rng([seed, number]).spawn(3)
    person = persons.draw(body, shape)
    heart = hearts.build(person, body)
    chest = thorax.build(person, heart, body)
    gain, sigma = float(scanner.lognormal(5.6, 0.4)), float(scanner.uniform(0.03, 0.075))
    seconds = 60 / person.heart_rate / imaging.FRAMES

    files: dict[str, bytes] = {}
    masks: dict[str, dict[str, np.ndarray]] = {}
    affines: dict[str, np.ndarray] = {}
    for plane in imaging.planes(heart, scanner):
        cine = imaging.scan(heart, chest, plane, scanner, gain, sigma)
        prefix = _PREFIX[plane.name]
        stem, convention = _LABELS[plane.name]
        files[f"{prefix}.nii.gz"] = _nifti(cine.image, plane.affine, seconds)
        for phase, frame in _PHASES.items():
            files[f"{prefix}_{phase}.nii.gz"] = _nifti(cine.image[..., frame], plane.affine)
            on_disk = _lookup(convention)[cine.labels[frame]]
            files[f"{stem}_{phase}.nii.gz"] = _nifti(on_disk, plane.affine)
        masks[plane.name] = {phase: cine.labels[frame] for phase, frame in _PHASES.items()}
        affines[plane.name] = plane.affine
    measured = measures.measure(masks["sax"], masks["la_2ch"]["ES"], masks["la_4ch"]["ES"], affines)
    files["row.json"] = json.dumps(table.row(person, measured, report)).encode()
    return files


def _lookup(convention: str) -> np.ndarray:
    """Canonical id -> number on disk; what the convention does not name is background."""
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
    # Noise holds no repetition to look for: Huffman codes alone are as small and twice as fast.
    strategy = zlib.Z_HUFFMAN_ONLY if data.dtype == np.int16 else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 9, strategy)  # 31: a gzip header, without a date
    return packer.compress(image.to_bytes()) + packer.flush()


def _write_table(root: Path, seed: int) -> None:
    """The table of all subjects that are there, then its dictionary, then the mark."""
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
    """Writes a file whole or not at all."""
    handle, partial = tempfile.mkstemp(prefix=f".partial-{path.name}-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.chmod(partial, 0o644)
    os.replace(partial, path)

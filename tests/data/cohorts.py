"""Tiny cohorts on disk, with known values."""

from pathlib import Path

import nibabel as nib
import numpy as np

from morphojax import anatomy
from morphojax.data.sources.base import Frame, Source, Subject

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])


def image(shape=(20, 24, 4), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def label(shape=(20, 24, 4), values=(1, 2, 3), radius=6) -> np.ndarray:
    """A disc at the centre of every slice, cut into a wedge per value."""
    x, y = np.meshgrid(*(np.arange(n) - n // 2 for n in shape[:2]), indexing="ij")
    wedge = ((np.arctan2(y, x) + np.pi) / (2 * np.pi + 1e-9) * len(values)).astype(int)
    disc = np.where(x**2 + y**2 <= radius**2, np.array(values)[wedge], 0).astype(np.uint8)
    return np.broadcast_to(disc.reshape(*disc.shape, *[1] * (len(shape) - 2)), shape).copy()


def _constant(value: int):
    return lambda shape: np.full(shape, value, np.int16)


def _few_voxels(shape) -> np.ndarray:
    array = np.zeros(shape, np.int16)
    array[shape[0] // 2, shape[1] // 2, 0] = 900  # below one per cent, and so above the percentile
    return array


def _at_the_edge(shape) -> np.ndarray:
    """Visible voxels in the first two columns alone."""
    array = np.zeros(shape, np.int16)
    array[:2] = 900
    return array


# Images that the grid shows as black: shape -> array.
BLACK = {"zeros": _constant(0), "one value": _constant(700), "a few voxels": _few_voxels, "the edge": _at_the_edge}


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def acdc(root: Path, subjects: int = 3, table: bool = True, shape=(20, 24, 4)) -> Path:
    for n in range(1, subjects + 1):
        name = f"patient{n:03d}"
        folder = root / "training" / name
        for frame in (1, 9):
            save(folder / f"{name}_frame{frame:02d}.nii.gz", image(shape, seed=100 * n + frame))
            save(folder / f"{name}_frame{frame:02d}_gt.nii.gz", label(shape, radius=7 if frame == 1 else 4))
        (folder / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: NOR\n")
    if table:
        from morphojax.data.sources.acdc import SCHEMA

        lines = [",".join(["patient", *SCHEMA.names])]
        for n in range(1, subjects + 1):
            lines.append(",".join([f"patient{n:03d}", *[f"{n + i / 10}" for i in range(9)], "NOR"]))
        (root / "morphometrics.csv").write_text("\n".join(lines) + "\n")
    return root


def frames_of(subject: Subject, plane: str = "sax") -> dict[str, Frame]:
    return {frame.phase: frame for frame in subject.views[plane].frames}


def _lookup(convention: str) -> np.ndarray:
    """Canonical id -> number on disk."""
    table = np.zeros(6, np.uint8)
    for canonical, disk in anatomy.CONVENTIONS[convention].from_canonical().items():
        table[canonical] = disk
    return table


def mnms(source: Source, root: Path) -> Path:
    """The short axes of another cohort in the layout of M&Ms, distributed over its four folders.

    A cine has ED at frame 0, mid at 2 and ES at 4.
    """
    parts = ("Training/Labeled", "Training/Unlabeled", "Validation", "Testing")
    lines = [",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight"]
    for i, subject in enumerate(source.subjects()):
        frames = frames_of(source.read(subject, ("sax",)))
        ed, mid, es = (frames[p] for p in anatomy.PHASES)
        cine = np.stack([ed.image, ed.image // 2, mid.image, es.image // 2, es.image], axis=-1).astype(np.int16)
        labels = np.zeros(cine.shape, np.uint8)
        labels[..., 0], labels[..., 4] = (_lookup("mnms")[f.label] for f in (ed, es))
        code = f"M{i:03d}"
        folder = root / parts[i % 4] / code
        save(folder / f"{code}_sa.nii.gz", cine, ed.affine)
        save(folder / f"{code}_sa_gt.nii.gz", labels, ed.affine)
        lines.append(f"{i},{code},Maker,A,1,0,4,{50 + i},NOR,F,{170 + i}.0,")
    (root / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").write_text("\n".join(lines) + "\n")
    return root


def mnms2(source: Source, root: Path) -> Path:
    """The short axes and 4-chamber views of another cohort in the layout of M&Ms-2."""
    lines = ["SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD"]
    for i, subject in enumerate(source.subjects(), 1):
        read = source.read(subject, ("sax", "la_4ch"))
        for plane, prefix in (("sax", "SA"), ("la_4ch", "LA")):
            frames = frames_of(read, plane)
            stem = root / f"dataset/{i:03d}/{i:03d}_{prefix}"
            cine = np.stack([frames[p].image for p in anatomy.PHASES], axis=-1).astype(np.int16)
            save(Path(f"{stem}_CINE.nii.gz"), cine, frames["ED"].affine)
            for phase in ("ED", "ES"):
                frame = frames[phase]
                save(Path(f"{stem}_{phase}.nii.gz"), frame.image.astype(np.int16), frame.affine)
                save(Path(f"{stem}_{phase}_gt.nii.gz"), _lookup("mnms2")[frame.label], frame.affine)
        lines.append(f"{i},NOR,SIEMENS,Avanto,1.5")  # a spreadsheet drops leading zeros
    (root / "dataset_information.csv").write_text("\n".join([*lines, ",,,,", "", ",,,,"]) + "\n")
    return root


def nifti_table(source: Source, root: Path) -> Path:
    """Another cohort with a mapping.csv: a labelled short-axis cine, 4-chamber ED and ES."""
    numbers = {"lv_cavity": 7, "lv_myocardium": 2, "rv_cavity": 4}
    disk = np.array([0, *(numbers.get(s, 0) for s in anatomy.STRUCTURES)], np.uint8)
    labels = ";".join(f"{s}:{n}" for s, n in numbers.items())
    lines = ["subject,plane,phase,image,label,labels,ed_frame,es_frame"]
    for subject in source.subjects():
        read = source.read(subject, ("sax", "la_4ch"))
        frames = frames_of(read)
        ed, mid, es = (frames[p] for p in anatomy.PHASES)
        cine = np.stack([ed.image // 2, es.image, mid.image, ed.image], axis=-1).astype(np.int16)
        drawn = np.zeros(cine.shape, np.uint8)
        drawn[..., 1], drawn[..., 3] = disk[es.label], disk[ed.label]
        save(root / f"a/{subject} short.nii.gz", cine, ed.affine)
        save(root / f"a/{subject} mask.nii.gz", drawn, ed.affine)
        lines.append(f"{subject},sax,,a/{subject} short.nii.gz,a/{subject} mask.nii.gz,{labels},3,1")
        for phase in ("ED", "ES"):
            frame = frames_of(read, "la_4ch")[phase]
            save(root / f"b/{subject}_{phase}.nii", frame.image.astype(np.int16), frame.affine)
            save(root / f"b/{subject}_{phase}_m.nii", disk[frame.label], frame.affine)
            lines.append(f"{subject},la_4ch,{phase},b/{subject}_{phase}.nii,./b/{subject}_{phase}_m.nii,{labels},,")
    (root / "mapping.csv").write_text("\n".join(lines) + "\n")
    return root

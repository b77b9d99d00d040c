"""Whole cohorts: the files that describe them, and folders from which files are missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic.cohort import MARK
from tests.data import cohorts
from tests.data.sources import challenge_files
from tests.reliability import mutations
from tests.reliability.mutations import Mutate
from tests.reliability.targets import Target, check_subject, nifti, require
from tests.reliability.targets.tables import DICTIONARY, TABLE

SHAPE = (8, 8, 3)
PLANES = ("sax", "la_4ch")
csv, info = mutations.text(), mutations.text("ED: 1\n", "NbFrame: 3\n", "9", "1.0")


def _images(folder: Path, *names: str) -> list[tuple[str, Mutate]]:
    for i, name in enumerate(names):
        is_cine = "cine" in name or "4d" in name or name.endswith(("_sa.nii.gz", "_sa_gt.nii.gz", "/sa.nii.gz"))
        shape = (*SHAPE, 4) if is_cine or "label_sa.nii" in name else SHAPE
        drawn = "gt" in name or "label" in name or "mask" in name
        array = cohorts.label(shape, radius=3) if drawn else cohorts.image(shape, seed=i)
        if drawn and len(shape) == 4:
            array[..., 1:3] = 0
        cohorts.save(folder / name, array)
    return [(name, nifti.mutate) for name in names]


def _texts(folder: Path, mutate: Mutate, times: int = 6, **files: str) -> list[tuple[str, Mutate]]:
    """Text files that are mutated more often than images; `__` in a keyword is a dot."""
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return [(name.replace("__", "."), mutate) for name in files] * times


def acdc(folder: Path) -> Sequence[tuple[str, Mutate]]:
    cohorts.acdc(folder, subjects=1, shape=SHAPE)
    inside = "training/patient001"
    files = _images(folder, f"{inside}/patient001_4d.nii.gz")
    files += [(f"{inside}/patient001_frame{n}.nii.gz", nifti.mutate) for n in ("01", "01_gt", "09")]
    (folder / inside / "Info.cfg").write_text("ED: 1\nES: 3\nGroup: NOR\nNbFrame: 4\n")
    cohorts.save(folder / inside / "patient001_frame03.nii.gz", cohorts.image(SHAPE))
    return [*files, *[(f"{inside}/Info.cfg", info)] * 10, *[("morphometrics.csv", csv)] * 6]


def mnms(folder: Path) -> Sequence[tuple[str, Mutate]]:
    inside = "Training/Labeled/A1"
    files = _images(folder, f"{inside}/A1_sa.nii.gz", f"{inside}/A1_sa_gt.nii.gz")
    rows = "0,A1,Siemens,A,1,0,3,45,HCM,M,180,\n1,B2,Philips,B,2,1,2,60,DCM,F,,70\n"
    (folder / challenge_files.MNMS_CSV).write_text(challenge_files.MNMS_HEADER + rows)
    return [*files, *[(challenge_files.MNMS_CSV, csv)] * 10]


def mnms2(folder: Path) -> Sequence[tuple[str, Mutate]]:
    stem = "dataset/007/007_SA"
    files = _images(folder, *(f"{stem}_{n}.nii.gz" for n in ("ED", "ED_gt", "ES", "ES_gt")))
    content = "SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD\n007,ARR,GE,X,3\n8,NOR,,Y,1.5\n,,,,\n"
    return [*files, *_texts(folder, csv, dataset_information__csv=content)]


def sunnybrook(folder: Path) -> Sequence[tuple[str, Mutate]]:
    files = _images(folder, "s1/sa_ED.nii.gz", "s1/sa_ES.nii.gz")
    label = cohorts.label(SHAPE, values=(1,), radius=3)
    cohorts.save(folder / "s1/label_sa_ED.nii.gz", label)
    header = "subject,sex,age_years,pathology,lv_edv_ml,lv_esv_ml,lv_ef_percent\n"
    content = header + "s1,Male,50,HF,150.5,60,60.1\ns2,Female,,N,,,\n"
    return [*files, *_texts(folder, csv, participants__csv=content)]


def ukb_nifti(folder: Path) -> Sequence[tuple[str, Mutate]]:
    files = _images(folder, "1000017/sa.nii.gz", "1000017/label_sa.nii.gz")
    for name, shape in (("la_4ch_ED", (8, 8, 1)), ("la_4ch_ES", (8, 8, 1))):
        cohorts.save(folder / f"1000017/{name}.nii", cohorts.image(shape))
        files.append((f"1000017/{name}.nii", nifti.mutate))
    return [*files, *_texts(folder, csv, 3, table__csv=TABLE, dictionary__csv=DICTIONARY)]


def nifti_table(folder: Path) -> Sequence[tuple[str, Mutate]]:
    files = _images(folder, "ed.nii.gz", "ed_mask.nii.gz", "es.nii.gz", "cine.nii.gz")
    labels = challenge_files.LABELS
    rows = f"p,sax,ED,ed.nii.gz,ed_mask.nii.gz,{labels},,\np,sax,ES,es.nii.gz,,,,\nq,sax,,cine.nii.gz,,,0,3\n"
    (folder / "mapping.csv").write_text(challenge_files.MAPPING_HEADER + rows)
    mapping = mutations.text("lv_cavity:1", ":", "../ed.nii.gz", "cine", "ES", "sax", "la_2ch", "C:\\ed.nii")
    files += [("mapping.csv", mapping)] * 12
    return [*files, *_texts(folder, csv, 3, table__csv=TABLE, dictionary__csv=DICTIONARY)]


def synthetic(folder: Path) -> Sequence[tuple[str, Mutate]]:
    files = _images(folder, "a/sa.nii.gz")
    (folder / MARK).write_text('{"version": 1, "seed": 0, "subjects": 1}')
    tables = _texts(folder, csv, 1, table__csv=TABLE.replace("p1", "a"), dictionary__csv=DICTIONARY)
    return [*files, *tables, *[(MARK, mutations.json_text)] * 6]


def _read(name: str, folder: Path) -> None:
    source: Any = SOURCES[name](folder, frames="2")
    subjects = source.subjects()
    require(list(subjects) == sorted(set(subjects)), f"subjects {subjects}")
    for subject in subjects:
        check_subject(source.read(subject, PLANES).views)
    source.splits()
    if table := source.table():
        frame, schema = table
        require(frame.index.is_unique and list(frame.columns) == list(schema.names), f"columns {list(frame.columns)}")
        require(all(isinstance(i, str) and i for i in frame.index), f"ids {list(frame.index)}")


def _target(build: Any) -> Target:
    name = build.__name__
    return Target(name, build, lambda folder, _: _read(name, folder), (CohortError,))


TARGETS = tuple(map(_target, (acdc, mnms, mnms2, sunnybrook, ukb_nifti, nifti_table, synthetic)))

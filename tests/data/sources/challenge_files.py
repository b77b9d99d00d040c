"""Small M&Ms, M&Ms-2 and mapped cohorts of one subject, for tests that damage them."""

from pathlib import Path

import numpy as np

from morphojax.data.sources.nifti_table import NiftiTable
from tests.data import cohorts

SHAPE = (20, 24, 4, 6)  # of a cine

MNMS_CSV = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
MNMS_HEADER = ",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n"


def mnms(
    root: Path, code="A1", part="Training/Labeled", row="0,A1,Siemens,A,1,0,3,45,HCM,M,180,", affine=cohorts.AFFINE
) -> Path:
    """A cine labelled at frames 0 and 3, and the CSV with `row`; the folder of the subject."""
    labels = cohorts.label(SHAPE)
    labels[..., [1, 2, 4, 5]] = 0
    cohorts.save(root / part / code / f"{code}_sa.nii.gz", cohorts.image(SHAPE), affine)
    cohorts.save(root / part / code / f"{code}_sa_gt.nii.gz", labels, affine)
    (root / MNMS_CSV).write_text(MNMS_HEADER + row + "\n")
    return root / part / code


def mnms2(root: Path) -> Path:
    """The short axis of subject 007, without a cine; its folder."""
    for phase, seed in (("ED", 1), ("ES", 2)):
        cohorts.save(root / f"dataset/007/007_SA_{phase}.nii.gz", cohorts.image(seed=seed))
        cohorts.save(root / f"dataset/007/007_SA_{phase}_gt.nii.gz", cohorts.label())
    (root / "dataset_information.csv").write_text("SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD\n007,ARR,GE,X,3\n")
    return root / "dataset/007"


MAPPING_HEADER = "subject,plane,phase,image,label,labels,ed_frame,es_frame\n"
LABELS = "lv_cavity:1;lv_myocardium:2;rv_cavity:3"
ED, ES = f"p,sax,ED,ed.nii.gz,ed_m.nii.gz,{LABELS},,", f"p,sax,ES,es.nii.gz,es_m.nii.gz,{LABELS},,"


def mapped(root: Path, *rows: str, header: str = MAPPING_HEADER) -> NiftiTable:
    """Images and labels of ED, ES and a cine, and a mapping of these rows."""
    for name, seed in (("ed", 1), ("es", 2)):
        cohorts.save(root / f"{name}.nii.gz", cohorts.image(seed=seed))
        cohorts.save(root / f"{name}_m.nii.gz", cohorts.label())
    cohorts.save(root / "cine.nii.gz", cohorts.image(SHAPE))
    cohorts.save(root / "cine_m.nii.gz", cohorts.label(SHAPE))
    (root / "mapping.csv").write_text(header + "\n".join(rows) + "\n")
    return NiftiTable(root)


def sheared(cosine: float) -> np.ndarray:
    """AFFINE with this cosine between its in-plane axes."""
    affine = cohorts.AFFINE.copy()
    affine[:3, 1] = 1.5 * np.array([cosine, -np.sqrt(1 - cosine**2), 0])
    return affine

"""Headers that users have, rewritten in every file of a cohort: each reader treats them alike."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.mnms import Mnms
from morphojax.data.sources.mnms2 import Mnms2
from morphojax.data.sources.nifti_geometry import COSINE_NOTE, QFORM_NOTE, UNIT_NOTE, UNPLACED_NOTE
from morphojax.data.sources.sunnybrook import Sunnybrook
from morphojax.data.sources.ukb_nifti import UkbNifti
from tests.data import cohorts
from tests.data.sources import challenge_files

UNITS = {"meter": (1, 1e-3), "micron": (3, 1e3)}  # code in the header, and how many of it a mm is


def _ukb(root: Path) -> UkbNifti:
    """A cine, whose labels show ES in frame 2, and a subject with images of the phases alone."""
    radii = (8, 7, 4, 6)
    cohorts.save(root / "1" / "sa.nii.gz", np.stack([cohorts.image(seed=t) for t in range(4)], -1))
    cohorts.save(root / "1" / "label_sa.nii.gz", np.stack([cohorts.label(radius=r) for r in radii], -1))
    for phase, radius in (("ED", 8), ("ES", 5)):
        cohorts.save(root / "2" / f"sa_{phase}.nii.gz", cohorts.image())
        cohorts.save(root / "2" / f"label_sa_{phase}.nii.gz", cohorts.label(radius=radius))
    return UkbNifti(root)


def _sunnybrook(root: Path) -> Sunnybrook:
    for phase, radius in (("ED", 8), ("ES", 5)):
        cohorts.save(root / "1" / f"sa_{phase}.nii.gz", cohorts.image())
        cohorts.save(root / "1" / f"label_sa_{phase}.nii.gz", cohorts.label(values=(1,), radius=radius))
    return Sunnybrook(root)


def _mnms(root: Path) -> Mnms:
    challenge_files.mnms(root)
    return Mnms(root)


def _mnms2(root: Path) -> Mnms2:
    challenge_files.mnms2(root)
    return Mnms2(root)


COHORTS = {
    "ukb_nifti": _ukb,
    "acdc": lambda root: Acdc(cohorts.acdc(root)),
    "sunnybrook": _sunnybrook,
    "mnms": _mnms,
    "mnms2": _mnms2,
    "nifti_table": lambda root: challenge_files.mapped(root, challenge_files.ED, challenge_files.ES),
}


@pytest.fixture(params=COHORTS)
def cohort(request, tmp_path):
    return COHORTS[request.param](tmp_path / "in")


def rewrite(root: Path, change, chosen=lambda path: True) -> None:
    """Changes the bytes of the chosen NIfTI-1 files below a folder."""
    for path in filter(chosen, sorted(root.rglob("*.nii.gz"))):
        data = bytearray(gzip.decompress(path.read_bytes()))
        change(data)
        path.write_bytes(gzip.compress(bytes(data), 1))


def _spacing(data: bytearray) -> np.ndarray:
    return np.frombuffer(data, "<f4", 3, 80)


def set_spacing(data: bytearray, spacing: np.ndarray) -> None:
    data[80:92] = np.asarray(spacing, "<f4").tobytes()


def set_forms(data: bytearray, qform: int, sform: int, rows: np.ndarray | None = None) -> None:
    """The codes, and the rows [3, 4] of the sform where given; the qform becomes RAS+ axes."""
    data[252:256] = struct.pack("<hh", qform, sform)
    data[256:280] = np.array([0, 0, 1, 0, 0, 0], "<f4").tobytes()  # a half turn about Z: -x, -y, z
    if rows is not None:
        data[280:328] = np.asarray(rows, "<f4").tobytes()


def volumes(cohort) -> list[tuple]:
    """(subject, phase, sizes of the structures in ml, spacing in mm) of every frame."""
    found = []
    for subject in cohort.subjects():
        for frame in cohort.read(subject, ("sax",)).views["sax"].frames:
            spacing = np.sqrt((frame.affine[:3, :3] ** 2).sum(0))
            counts = (
                [] if frame.label is None else np.bincount(frame.label.ravel(), minlength=6) * spacing.prod() / 1000
            )
            found.append((subject, frame.phase, *np.round(counts, 3), *np.round(spacing, 4)))
    return found


def notes(cohort) -> set[str]:
    return {w.partition(": ")[2] for s in cohort.subjects() for w in cohort.read(s, ("sax",)).warnings}


@pytest.mark.parametrize("unit", UNITS)
def test_lengths_are_in_the_unit_of_the_header(cohort, unit):
    code, per_mm = UNITS[unit]
    expected = volumes(cohort)

    def change(data):
        data[123] = data[123] & ~7 | code
        set_spacing(data, _spacing(data) * per_mm)
        data[280:328] = (np.frombuffer(data, "<f4", 12, 280) * per_mm).astype("<f4").tobytes()

    rewrite(cohort.root, change)
    assert volumes(cohort) == expected and len(expected) > 0


@pytest.mark.parametrize("code", [1, 3, 5])
def test_a_unit_that_cannot_be_of_a_heart_is_refused(cohort, code):
    def change(data):
        data[123] = data[123] & ~7 | code

    rewrite(cohort.root, change)
    with pytest.raises(CohortError, match=r"\.nii\.gz: .*(are not of a heart|unknown spatial unit 5)"):
        volumes(cohort)


def test_a_shear_is_refused(cohort):
    def change(data):
        rows = np.frombuffer(data, "<f4", 12, 280).reshape(3, 4).copy()
        rows[:, 2] = 10 * np.array([np.sin(0.26), 0, np.cos(0.26)])
        set_forms(data, 0, 1, rows)

    rewrite(cohort.root, change)
    with pytest.raises(CohortError, match=r"two axes of the affine have a cosine of 0\.257"):
        volumes(cohort)


def test_rounded_cosines_are_made_orthonormal_with_a_warning(cohort):
    expected = volumes(cohort)

    def change(data):
        rows = np.frombuffer(data, "<f4", 12, 280).reshape(3, 4).copy()
        rows[0, 2] += 0.02
        set_forms(data, 0, 1, rows)

    rewrite(cohort.root, change)
    assert COSINE_NOTE in notes(cohort)
    for frame, reference in zip(volumes(cohort), expected, strict=True):
        np.testing.assert_allclose(frame[2:], reference[2:], rtol=1e-4)


@pytest.mark.parametrize("sform", [np.eye(3, 4), np.zeros((3, 4)), 3 * np.eye(3, 4), np.full((3, 4), np.nan)])
def test_the_qform_replaces_an_sform_that_contradicts_the_spacing(cohort, sform):
    rewrite(cohort.root, lambda data: set_forms(data, 1, 0))
    expected = volumes(cohort)
    assert QFORM_NOTE not in notes(cohort)
    rewrite(cohort.root, lambda data: set_forms(data, 1, 1, sform))
    assert volumes(cohort) == expected and QFORM_NOTE in notes(cohort)


@pytest.mark.parametrize("codes", [(0, 1), (1, 1)])
def test_a_lost_spacing_does_not_replace_the_sform(cohort, codes):
    def change(data):
        set_spacing(data, np.ones(3))
        data[252:256] = struct.pack("<hh", *codes)

    rewrite(cohort.root, change)
    with pytest.raises(CohortError, match="correct whichever is wrong"):
        volumes(cohort)


def test_a_header_without_orientation_is_a_warning(cohort):
    rewrite(cohort.root, lambda data: set_forms(data, 0, 0))
    assert UNPLACED_NOTE in notes(cohort)


def test_a_quaternion_that_is_none_names_the_file(cohort):
    def change(data):
        set_forms(data, 1, 1, 3 * np.eye(3, 4))
        data[256:268] = np.array([0.9, 0.9, 0.9], "<f4").tobytes()

    rewrite(cohort.root, change)
    with pytest.raises(CohortError, match=r"nii\.gz: .*correct the header"):
        volumes(cohort)


def test_files_in_capital_letters_are_refused(cohort):
    for path in sorted(cohort.root.rglob("*.nii.gz")):
        if any(word in path.name for word in ("gt", "label", "_m.")):
            path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    with pytest.raises(CohortError, match=r"rename it to end in|no such file"):
        volumes(cohort)


def test_voxels_of_one_millimetre_are_a_warning(cohort):
    def change(data):
        set_spacing(data, np.ones(3))
        set_forms(data, 0, 1, np.diag([-1.0, -1, 1, 1])[:3])

    rewrite(cohort.root, change)
    assert UNIT_NOTE in notes(cohort)


@pytest.mark.parametrize("slope", [0.5, 2 / 255, -1.0])
def test_labels_are_read_by_their_scaling(cohort, slope):
    """Also where the stored numbers of background are not 0, and where scaling rounds."""
    expected = volumes(cohort)
    intercept = 0.0 if slope > 0 else 7.0

    def change(data):
        kind = {2: "u1", 4: "<i2", 512: "<u2"}[struct.unpack("<h", data[70:72])[0]]
        offset = int(struct.unpack("<f", data[108:112])[0])
        values = np.frombuffer(bytes(data), kind, -1, offset).astype(float)
        data[70:74] = struct.pack("<hh", 4, 16)
        data[112:120] = struct.pack("<ff", slope, intercept)
        data[offset:] = np.rint((values - intercept) / slope).astype("<i2").tobytes()

    rewrite(cohort.root, change, lambda path: any(word in path.name for word in ("gt", "label", "_m.")))
    assert volumes(cohort) == expected

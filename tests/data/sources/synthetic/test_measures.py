import gzip

import nibabel as nib
import numpy as np
import pytest

from morphojax.anatomy import LABEL_ID
from morphojax.data.sources.synthetic import cohort, measures, person

LV, MYO, RV, LA, RA = (LABEL_ID[s] for s in ("lv_cavity", "lv_myocardium", "rv_cavity", "la_cavity", "ra_cavity"))


@pytest.fixture(scope="module")
def shaped():
    """Kind of heart -> file name -> content, all from the same random numbers."""
    return {shape: cohort.subject_files(5, 1, shape) for shape in person.SHAPES}


def opened(data: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(data))


def measured(files: dict[str, bytes]) -> dict[str, float]:
    names = {"sax": "label_sa", "la_2ch": "label_la_2ch", "la_4ch": "seg4_la_4ch"}
    images = {(k, ph): opened(files[f"{v}_{ph}.nii.gz"]) for k, v in names.items() for ph in ("ED", "ES")}
    label = {k: np.asarray(v.dataobj) for k, v in images.items()}
    two = np.where(label["la_2ch", "ES"] == 1, LA, 0)
    sax = {ph: label["sax", ph] for ph in ("ED", "ES")}
    return measures.measure(sax, two, label["la_4ch", "ES"], {k: images[k, "ES"].affine for k in names})


def test_kinds_of_heart_differ_in_their_measures(shaped):
    by_shape = {shape: measured(files) for shape, files in shaped.items()}
    healthy = by_shape["healthy"]
    assert 45 < healthy["lv_ef"] < 80 and 45 < healthy["rv_ef"] < 80
    assert 20 < healthy["la_volume"] < 140 and 20 < healthy["ra_volume"] < 140
    assert by_shape["dilated"]["lv_edv"] > 1.3 * healthy["lv_edv"]
    assert by_shape["dilated"]["lv_ef"] < 45
    assert by_shape["hypertrophic"]["wall_thickness_max"] > 1.3 * healthy["wall_thickness_max"]
    assert by_shape["hypertrophic"]["lv_mass"] > 1.2 * healthy["lv_mass"]
    assert by_shape["infarcted"]["lv_ef"] < healthy["lv_ef"] - 3
    assert by_shape["rv_overload"]["rv_edv"] > 1.25 * healthy["rv_edv"]
    assert by_shape["rv_overload"]["rv_ef"] < healthy["rv_ef"]
    assert by_shape["rv_overload"]["ra_volume"] > healthy["ra_volume"]


def test_the_myocardium_keeps_its_volume(shaped):
    for files in shaped.values():
        ed, es = (np.asarray(opened(files[f"label_sa_{ph}.nii.gz"]).dataobj) for ph in ("ED", "ES"))
        assert np.count_nonzero(es == MYO) == pytest.approx(np.count_nonzero(ed == MYO), rel=0.2)


def test_wall_thickness_of_a_ring():
    x, y = np.mgrid[:101, :101] - 50.0
    r = np.hypot(x, y)
    label = np.where(r < 20, LV, np.where(r < 28, MYO, 0)).astype(np.uint8)[..., None].repeat(4, 2)
    mean, most = measures.wall_thickness(label, pixel=1.5)
    assert mean == pytest.approx(8 * 1.5, rel=0.02) and most == pytest.approx(8 * 1.5, rel=0.06)
    assert np.isnan(measures.wall_thickness(np.zeros((8, 8, 2), np.uint8), 1.0)).all()


def test_atrial_volume_of_a_sphere():
    """A sphere of 60 mm: area-length is exact, 4/3 pi 6^3 = 905 mL, in both planes."""
    x, y = np.mgrid[:141, :141] - 70.0
    disc = np.where(np.hypot(x, y) < 60, 1, 0)[..., None]
    blank = {"ED": np.zeros((4, 4, 1)), "ES": np.zeros((4, 4, 1))}
    affines = dict.fromkeys(("sax", "la_2ch", "la_4ch"), np.eye(4))
    values = measures.measure(blank, disc * LA, disc * LA, affines)
    assert values["la_volume"] == pytest.approx(4 / 3 * np.pi * 216, rel=0.02)
    assert np.isnan(values["lv_ef"]) and np.isnan(values["ra_volume"])  # the EF of an empty label is missing, not 0

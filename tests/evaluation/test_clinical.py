import math

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.evaluation import clinical

LV, MYO, RV, LA, RA = (anatomy.LABEL_ID[s] for s in anatomy.STRUCTURES)


def grid(shape, spacing):
    """Coordinates in mm of voxel centres, the origin at the centre of the image."""
    return np.meshgrid(*((np.arange(n) - (n - 1) / 2) * h for n, h in zip(shape, spacing, strict=True)), indexing="ij")


def test_volume_counts_voxels_times_spacing():
    label = np.zeros((4, 4, 3), np.uint8)
    label[0, 0, 0] = label[1, 2, 2] = LV
    assert clinical.volume_ml(label, "lv_cavity", (2.0, 1.5, 10.0)) == pytest.approx(2 * 30 / 1000)
    assert clinical.volume_ml(label, "rv_cavity", (2.0, 1.5, 10.0)) == 0


def test_sphere_and_shell():
    spacing = (1.0, 1.25, 2.0)
    x, y, z = grid((80, 64, 40), spacing)
    radius = np.sqrt(x**2 + y**2 + z**2)
    label = np.where(radius < 25, LV, np.where(radius < 33, MYO, 0)).astype(np.uint8)
    assert clinical.volume_ml(label, "lv_cavity", spacing) == pytest.approx(4 / 3 * math.pi * 25**3 / 1000, rel=0.01)
    shell = 4 / 3 * math.pi * (33**3 - 25**3) / 1000
    assert clinical.myocardial_mass_g(label, spacing) == pytest.approx(1.05 * shell, rel=0.01)


def test_ellipsoid():
    spacing = (1.0, 1.0, 1.0)
    x, y, z = grid((60, 50, 90), spacing)
    label = (LV * ((x / 25) ** 2 + (y / 20) ** 2 + (z / 40) ** 2 < 1)).astype(np.uint8)
    assert clinical.volume_ml(label, "lv_cavity", spacing) == pytest.approx(4 / 3 * math.pi * 20, rel=0.005)


def cylinder(inner, outer, spacing=(1.0, 1.0, 10.0), slices=6):
    x, y, _ = grid((90, 90, slices), spacing)
    radius = np.hypot(x, y)
    return np.where(radius < inner, LV, np.where(radius < outer, MYO, 0)).astype(np.uint8)


def test_ventricular_measures_of_a_beating_cylinder():
    spacing = (1.0, 1.0, 10.0)
    got = clinical.ventricular(
        (cylinder(28, 38), spacing), (cylinder(20, 34), spacing), anatomy.PLANE_STRUCTURES["sax"], 60
    )
    edv, esv = math.pi * 28**2 * 60 / 1000, math.pi * 20**2 * 60 / 1000
    expected = {
        "lv_edv_ml": edv,
        "lv_esv_ml": esv,
        "lv_sv_ml": edv - esv,
        "lv_ef_percent": 100 * (1 - 20**2 / 28**2),
        "lv_co_l_min": (edv - esv) * 60 / 1000,
        "lv_mass_g": 1.05 * math.pi * (38**2 - 28**2) * 60 / 1000,
    }
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, rel=0.015), key
    assert got["lv_wall_thickness_max_mm"] == pytest.approx(10, abs=1.0)
    assert got["rv_edv_ml"] == 0 and math.isnan(got["rv_ef_percent"]) and math.isnan(got["rv_sv_ml"])
    assert set(got) == {key for key in clinical.TITLE if key.startswith(("lv", "rv"))}


def test_only_annotated_structures_are_measured():
    got = clinical.ventricular((cylinder(28, 38), (1, 1, 10)), (cylinder(20, 34), (1, 1, 10)), ("lv_cavity",))
    assert set(got) == {"lv_edv_ml", "lv_esv_ml", "lv_sv_ml", "lv_ef_percent", "lv_co_l_min"}
    assert math.isnan(got["lv_co_l_min"])  # no heart rate


def test_a_measure_that_cannot_be_computed_is_nan_not_zero():
    ed, empty = (cylinder(28, 38), (1, 1, 10)), (np.zeros((90, 90, 6), np.uint8), (1, 1, 10))
    structures = ("lv_cavity", "lv_myocardium")
    no_es = clinical.ventricular(ed, None, structures)
    assert no_es["lv_edv_ml"] > 0 and no_es["lv_mass_g"] > 0
    assert all(math.isnan(no_es[k]) for k in ("lv_esv_ml", "lv_sv_ml", "lv_ef_percent"))
    no_ed = clinical.ventricular(None, ed, structures)
    assert all(math.isnan(no_ed[k]) for k in ("lv_edv_ml", "lv_ef_percent", "lv_mass_g", "lv_wall_thickness_max_mm"))
    for pair in ((ed, empty), (empty, ed), (empty, empty)):
        assert math.isnan(clinical.ventricular(*pair, structures)["lv_ef_percent"])


def test_function_by_hand():
    assert clinical.function(150, 60, 70) == {"sv_ml": 90, "ef_percent": 60, "co_l_min": pytest.approx(6.3)}
    assert all(math.isnan(clinical.function(150, 60, rate)["co_l_min"]) for rate in (0, math.nan))
    assert clinical.function(60, 90)["ef_percent"] == -50  # implausible values are reported unchanged


def test_wall_thickness_takes_the_thickest_wall_and_ignores_slices_without_cavity():
    label = cylinder(20, 28, (1.0, 1.0, 10.0), 3)
    x, y, _ = grid((90, 90, 3), (1.0, 1.0, 10.0))
    label[(np.hypot(x, y) >= 20) & (np.abs(y) < 20) & (x > 0) & (x < 34)] = MYO  # a septum of 14 mm
    label[44, 44, 1] = MYO  # a papillary muscle
    label[..., 2] = np.where(np.hypot(x, y)[..., 2] < 40, MYO, 0)  # an apical slice: wall without cavity
    assert clinical.wall_thickness_max_mm(label, (1, 1, 10)) == pytest.approx(14, abs=1.0)
    assert clinical.wall_thickness_max_mm(label, (1.5, 1.5, 10)) == pytest.approx(21, abs=1.5)
    # The septum lies along x: 14 pixels of 1.5 or of 1 mm, its corner a little more.
    assert clinical.wall_thickness_max_mm(label, (1.5, 1.0, 10)) == pytest.approx(21, abs=1.5)
    assert 14 <= clinical.wall_thickness_max_mm(label, (1.0, 1.5, 10)) < 17
    assert math.isnan(clinical.wall_thickness_max_mm(label[..., 2:], (1, 1, 10)))


def ellipse(half_long, half_short, spacing, angle, value, shape=(160, 160)):
    x, y = grid(shape, spacing)
    u, v = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
    return (value * ((u / half_long) ** 2 + (v / half_short) ** 2 < 1)).astype(np.uint8)


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.5])
def test_biplane_area_length_of_an_ellipsoid(angle):
    spacing = (0.8, 1.0)
    two, four = ellipse(30, 18, spacing, angle, LA), ellipse(30, 22, spacing, -angle, LA)
    assert clinical.length_mm(two == LA, spacing) == pytest.approx(60, rel=0.03)
    assert clinical.area_mm2(two == LA, spacing) == pytest.approx(math.pi * 30 * 18, rel=0.01)
    exact = 4 / 3 * math.pi * 30 * 18 * 22 / 1000  # area-length is exact for an ellipsoid
    assert clinical.la_volume_ml(two[..., None], (*spacing, 8), four, spacing) == pytest.approx(exact, rel=0.03)


def test_biplane_divides_by_the_mean_length():
    assert clinical.biplane_volume_ml(1000, 1200, 40, 60) == pytest.approx(8 / (3 * math.pi) * 1.2e6 / 50 / 1000)


def test_single_plane_area_length_of_a_spheroid():
    label = ellipse(28, 20, (1.0, 1.0), 0.4, RA)
    assert clinical.ra_volume_ml(label, (1.0, 1.0)) == pytest.approx(4 / 3 * math.pi * 28 * 20**2 / 1000, rel=0.03)


def test_a_missing_atrium_has_no_volume():
    empty = np.zeros((20, 20), np.uint8)
    present = ellipse(5, 4, (1, 1), 0, LA, (20, 20))
    assert math.isnan(clinical.ra_volume_ml(empty, (1, 1)))
    assert math.isnan(clinical.la_volume_ml(empty, (1, 1), empty, (1, 1)))
    assert math.isnan(clinical.la_volume_ml(empty, (1, 1), present, (1, 1)))


def test_measures_of_one_plane():
    spacing = (1.0, 1.0, 8.0)
    ed = ellipse(28, 20, (1.0, 1.0), 0.4, RA)[..., None]
    es = ellipse(24, 18, (1.0, 1.0), 0.4, RA)[..., None]
    got = clinical.measures("la_4ch", (ed, spacing), (es, spacing), ("la_cavity", "ra_cavity"))
    assert got["ra_volume_ed_ml"] == pytest.approx(4 / 3 * math.pi * 28 * 20**2 / 1000, rel=0.03)
    assert got["ra_volume_es_ml"] == pytest.approx(4 / 3 * math.pi * 24 * 18**2 / 1000, rel=0.03)
    assert math.isnan(got["la_volume_ed_ml"])
    assert set(clinical.measures("la_2ch", None, (es, spacing), ("la_cavity",))) == {
        "la_volume_ed_ml",
        "la_volume_es_ml",
    }
    assert "lv_edv_ml" in clinical.measures("sax", None, None, ("lv_cavity",))


def test_the_biplane_volume_is_of_both_planes_at_one_phase():
    spacing = (1.0, 1.0, 8.0)
    ed, es = (ellipse(*axes, (1.0, 1.0), 0, LA)[..., None] for axes in ((20, 14), (28, 20)))
    view = ((ed, spacing), (es, spacing), ("la_cavity",))
    got = clinical.of_heart({"la_2ch": view, "la_4ch": view})
    for phase, label in (("ed", ed), ("es", es)):
        expected = clinical.la_volume_ml(label, spacing, label, spacing)
        assert got[clinical.BIPLANE, f"la_volume_{phase}_ml"] == pytest.approx(expected)


def test_each_phase_is_measured_with_its_own_spacing():
    label = np.full((2, 2, 2), LV, np.uint8)
    got = clinical.ventricular((label, (1, 1, 10)), (label, (1, 1, 5)), ("lv_cavity",))
    assert got["lv_ef_percent"] == pytest.approx(50)

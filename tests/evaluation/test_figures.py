import numpy as np
import pytest
from matplotlib.figure import Figure

from morphojax import anatomy
from morphojax.evaluation import agreement, figures
from tests.disk import full_disk


def picture():
    image = np.full((6, 8), 100, np.uint8)
    label = np.zeros((6, 8), np.uint8)
    label[1:6, 1:6] = 1
    return image, label


def test_overlay_paints_outline_fully_and_inside_partly():
    image, label = picture()
    rgb = figures.overlay(image, label)
    colour = np.array(anatomy.COLOUR["lv_cavity"], float)
    assert rgb.shape == (6, 8, 3) and rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[0, 0], [100, 100, 100])  # background: the unchanged image
    np.testing.assert_array_equal(rgb[1, 1], colour)  # outline
    np.testing.assert_array_equal(rgb[3, 3], np.rint(0.65 * 100 + 0.35 * colour))  # inside


def test_overlay_puts_prediction_right_of_label_and_accepts_floats():
    image, label = picture()
    both = figures.overlay(image, label, np.zeros_like(label))
    assert both.shape == (6, 16, 3)
    np.testing.assert_array_equal(both[:, :8], figures.overlay(image, label))
    assert (both[:, 8:] == 100).all()
    np.testing.assert_array_equal(figures.overlay(image.astype(np.float32) / 255, label), both[:, :8])


def test_overlay_has_a_colour_for_every_structure():
    for name, number in anatomy.LABEL_ID.items():
        rgb = figures.overlay(np.zeros((1, 2), np.uint8), np.array([[number, 0]]))
        assert tuple(rgb[0, 0]) == anatomy.COLOUR[name]


def test_overlay_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"\(6, 8\) and \(6, 7\)"):
        figures.overlay(np.zeros((6, 8), np.uint8), np.zeros((6, 7), np.uint8))


def test_every_figure_is_written_even_with_missing_values(tmp_path):
    image, label = picture()
    a = np.array([1.0, 2.0, np.nan, 4.0])
    figures.contact_sheet(tmp_path / "deep" / "sheet.png", [(image, label, "subject 0 ED")] * 5, columns=3)
    figures.worst_cases(tmp_path / "worst.png", [(image, label, label, "subject 0")])
    figures.bland_altman(
        tmp_path / "ba.png", {"LV EDV (mL)": (a, a + 1), "one": (a[:1], a[:1]), "none": (a[:0], a[:0])}
    )
    figures.score_strip(tmp_path / "strip.png", {("lv_cavity", "ED"): a / 4, ("rv_cavity", "ED"): a * np.nan})
    for name in ("deep/sheet.png", "worst.png", "ba.png", "strip.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG"), name


def test_a_bland_altman_panel_has_units_on_both_axes_and_a_band_per_interval():
    axis = Figure().subplots()
    reference, predicted = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 2.0, 6.0, 1.0])
    figures.agreement_panel(axis, "LA volume, ED (mL), biplane", reference, predicted)
    assert axis.get_title() == "LA volume, ED, biplane (n = 3)"
    assert axis.get_xlabel() == "mean of the two (mL)" and axis.get_ylabel() == "predicted - reference (mL)"
    bounds = agreement.intervals(agreement.bland_altman(reference, predicted))
    bands = [(band.get_y(), band.get_y() + band.get_height()) for band in axis.patches]
    np.testing.assert_allclose(bands, [bounds.bias, bounds.lower, bounds.upper])
    alone = Figure().subplots()
    figures.agreement_panel(alone, "one", reference[:1], predicted[:1])
    assert not alone.patches and alone.get_xlabel() == "mean of the two"


def test_nothing_to_draw_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ValueError, match="sheet"):
        figures.contact_sheet(tmp_path / "sheet.png", [])


def test_a_full_disk_leaves_no_half_picture(tmp_path):
    tiles = [(*picture(), "heart")]
    with full_disk(1000), pytest.raises(OSError, match="contact_sheet"):
        figures.contact_sheet(tmp_path / "contact_sheet.png", tiles)
    assert not (tmp_path / "contact_sheet.png").exists()
    figures.contact_sheet(tmp_path / "contact_sheet.png", tiles)
    assert [p.name for p in tmp_path.iterdir()] == ["contact_sheet.png"]

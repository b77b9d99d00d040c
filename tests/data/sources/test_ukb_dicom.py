from pathlib import Path

import numpy as np
import pytest

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.ukb_dicom import UkbDicom
from tests.data import cvi42_files, ukb_zips
from tests.data.sources.dicom_cohort import AFFINE, NAME, SHAPE, cine, one, sax


def test_phases_of_a_cine_and_the_warnings(tmp_path: Path) -> None:
    still = np.repeat(cine()[..., :1], 6, axis=3)
    still[..., 4] += 50
    source = sax(tmp_path, ukb_zips.short_axis(still, AFFINE))
    view = source.read("1000017", ["sax"]).views["sax"]
    assert [f.phase for f in view.frames] == ["ED", "mid", "ES"] and not any(f.label is not None for f in view.frames)
    np.testing.assert_array_equal(view.frames[2].image, still[..., 4])
    assert source.read("1000017", ["sax", "la_2ch"]).warnings == (
        "la_2ch: no images",
        "sax: ES assumed to be the frame that differs most from frame 0",
    )
    cines = UkbDicom(tmp_path, frames="3").read("1000017", ["sax"]).views["sax"].cine
    np.testing.assert_array_equal(cines[1].image, still[..., 2])


def drawings(
    frames=(0, 4), names=("lv_cavity", "lv_myocardium", "rv_cavity"), series=ukb_zips.sax_series
) -> dict[str, str]:
    box = {"lv_myocardium": (4, 3, 12, 11), "lv_cavity": (6, 5, 9, 8), "rv_cavity": (13, 4, 17, 9)}

    def inside(t: int) -> str:
        """The boxes of these structures; that of the LV cavity is smaller in later frames."""
        smaller = {n: (x0, y0, x1 - (n == "lv_cavity" and t > 2), y1) for n, (x0, y0, x1, y1) in box.items()}
        around = {n: [(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for n, (x0, y0, x1, y1) in smaller.items()}
        return "".join(cvi42_files.drawn(cvi42_files.NAME[n], around[n]) for n in names)

    return {ukb_zips.uid(series(z), z, t): inside(t) for z in range(SHAPE[2]) for t in frames}


def test_contours_label_the_frames_in_which_they_were_drawn(tmp_path: Path) -> None:
    source = sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE))
    cvi42_files.save(tmp_path / "1000017.cvi42wsx", drawings())
    subject = source.read("1000017", ["sax"])
    view = subject.views["sax"]
    assert [f.phase for f in view.frames if f.label is not None] == ["ED", "ES"] and subject.warnings == ()
    np.testing.assert_array_equal(
        view.frames[2].image, cine()[..., 4]
    )  # annotated, although another frame differs more
    assert view.frames[0].label[:, :, 0].T[6].tolist() == [0] * 4 + [2, 2, 1, 1, 1, 2, 2, 2, 0, 3, 3, 3, 3, 0, 0, 0]


def test_unusable_contours_give_warnings_or_errors(tmp_path: Path) -> None:
    source = sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE))
    path = tmp_path / "1000017.cvi42wsx"

    def warnings(**settings) -> tuple[str, ...]:
        cvi42_files.save(path, drawings(**settings))
        return source.read("1000017", ["sax"]).warnings

    assert "sax: contours, but none in frame 0, which is ED" in warnings(frames=(1, 4))
    assert "contours of images that are not there: not used" in warnings(series=lambda z: f"another_b{z}")
    only_right = warnings(names=("rv_cavity",))  # does not define ES
    assert only_right == ("sax: ES assumed to be the frame that differs most from frame 0",)
    (tmp_path / "1000017").mkdir()
    cvi42_files.save(tmp_path / "1000017" / "second.cvi42wsx", drawings())
    with pytest.raises(CohortError, match="2 cvi42 workspaces of one subject"):
        source.read("1000017", ["sax"])
    path.write_text("<a/>")
    (tmp_path / "1000017" / "second.cvi42wsx").unlink()
    with pytest.raises(CohortError, match="contains no ImageStates"):
        source.read("1000017", ["sax"])


def test_visits_and_folders(tmp_path: Path) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    ukb_zips.write(tmp_path / "1000028" / "1000028_20209_3_0.zip", files)
    source = sax(tmp_path, files)
    assert source.subjects() == ["1000017", "1000028"]
    warnings: list[str] = []
    source.cines("1000028", ["sax"], warnings)
    assert warnings == ["images of the repeat visit"]
    ukb_zips.write(tmp_path / "1000017" / NAME, files)
    with pytest.raises(CohortError, match="1 zips exist twice"):
        source.subjects()
    with pytest.raises(CohortError, match="holds no <eid>"):
        (tmp_path / "empty").mkdir()
        UkbDicom(tmp_path / "empty").subjects()


def test_of_two_downloads_the_second_is_used(tmp_path: Path) -> None:
    sax(tmp_path, ukb_zips.short_axis(cine(seed=5), AFFINE))
    result, warnings = one(sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE), "1000017_20209_2_1.zip"))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert warnings == ["field 20209: several zips, the last taken"]

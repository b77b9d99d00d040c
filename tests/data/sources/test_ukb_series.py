import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from morphojax.data.sources.base import CohortError
from tests.data import ukb_zips
from tests.data.sources.dicom_cohort import AFFINE, NAME, SHAPE, cine, one, sax


@pytest.mark.parametrize("manifest", ["manifest.cvs", "manifest.csv", None])
def test_a_stack_has_the_pixels_and_the_affine_of_the_scan(manifest: str | None, tmp_path: Path) -> None:
    result, warnings = one(sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE), manifest=manifest))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert result.volume.raw.dtype == np.int16 and result.seconds == pytest.approx(0.020) and not warnings
    np.testing.assert_allclose(result.volume.affine, AFFINE, atol=1e-4)


def test_long_axis_views_by_name_and_by_order(tmp_path: Path) -> None:
    views = {n: cine((*SHAPE[:2], 1, 6), seed=n) for n in (2, 3, 4)}
    tilted = {n: ukb_zips.oblique(1.5 + n / 10) for n in views}
    files = [f for n in views for f in ukb_zips.long_axis(views[n], tilted[n], n)]
    files += ukb_zips.images(cine(seed=9), AFFINE, lambda _: "CINE_segmented_LAX_4Ch_InlineVF")
    source = sax(tmp_path / "named", files, "1000017_20208_2_0.zip")
    for n in (2, 4):
        result, _ = one(source, f"la_{n}ch")
        np.testing.assert_array_equal(result.volume.raw, views[n])
        np.testing.assert_allclose(result.volume.affine, tilted[n], atol=1e-4)
    together = []
    for i, n in enumerate((3, 4, 2)):
        for file in ukb_zips.images(views[n], tilted[n], lambda _: "CINE_segmented_LAX", SeriesInstanceUID="1.2.3"):
            file.ImagePositionPatient = [str(float(v) + n) for v in file.ImagePositionPatient]
            file.InstanceNumber += 6 * i
            together.append(file)
    source = sax(tmp_path / "ordered", together, "1000017_20208_2_0.zip")
    for n in (2, 4):
        result, warnings = one(source, f"la_{n}ch")
        np.testing.assert_array_equal(result.volume.raw, views[n])
        assert warnings == ["long-axis views told apart by their order in one series"]


def test_a_series_that_contains_all_slices(tmp_path: Path) -> None:
    files = ukb_zips.images(cine(), AFFINE, lambda _: "CINE_segmented_SAX")
    for file in files:
        place = np.linalg.norm(np.array(file.ImagePositionPatient, float) - np.diag([-1, -1, 1]) @ AFFINE[:3, 3])
        file.InstanceNumber += 6 * round(place / 10)
    result, _ = one(sax(tmp_path, files))
    np.testing.assert_array_equal(result.volume.raw, cine())


def test_the_last_of_repeated_series_is_used(tmp_path: Path) -> None:
    first = ukb_zips.short_axis(cine(seed=5), AFFINE)
    again = ukb_zips.short_axis(cine(), AFFINE, SeriesTime="104500")
    for file in again:
        file.SeriesInstanceUID = file.SeriesInstanceUID[:50] + ".7"
    result, warnings = one(sax(tmp_path, [*again, *first]))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert warnings == ["sax: a series was repeated, the last taken"]


def frame(files, z: int, t: int):
    """The place in a list of the image of frame t of slice b<z+1>."""
    return next(
        i for i, f in enumerate(files) if f.SeriesDescription.endswith(f"_b{z + 1}") and f.InstanceNumber == t + 1
    )


def test_a_missing_frame_repeats_the_one_before(tmp_path: Path) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    del files[frame(files, 2, 3)]
    result, warnings = one(sax(tmp_path, files))
    expected = cine()
    expected[:, :, 2, 3] = expected[:, :, 2, 2]
    np.testing.assert_array_equal(result.volume.raw, expected)
    assert warnings == ["sax: missing frames repeat the ones before"]


def test_a_repeated_frame_is_dropped(tmp_path: Path) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    files.append(files[frame(files, 1, 2)])
    result, warnings = one(sax(tmp_path, files))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert warnings == ["sax: a frame is there twice"]


def test_without_trigger_times_frames_are_ordered_by_number(tmp_path: Path) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    for file in files:
        del file.TriggerTime
    result, warnings = one(sax(tmp_path, files))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert warnings == ["sax: no trigger times, frames ordered by number"] and result.seconds == 0


@pytest.mark.parametrize("acquired", [None, "same", "in order"])
def test_trigger_times_that_are_all_zero_do_not_order_frames(tmp_path: Path, acquired: str | None) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    for file in files:
        file.TriggerTime = "0"
        if acquired:
            file.AcquisitionTime = f"1015{file.InstanceNumber if acquired == 'in order' else 1:02d}.5"
    result, warnings = one(sax(tmp_path, files))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert warnings == ["sax: no trigger times, frames ordered by number"] and result.seconds == 0


def test_frame_numbers_against_the_time_of_acquisition_are_refused(tmp_path: Path) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    for file in files:
        file.TriggerTime, file.AcquisitionTime = "0", f"1015{30 - file.InstanceNumber:02d}.5"
    with pytest.raises(CohortError, match="acquired in another order than that of their numbers"):
        one(sax(tmp_path, files))


def timed(milliseconds):
    """The files of a short axis; milliseconds(z, t): the trigger time of a frame, None for none."""
    files = ukb_zips.short_axis(cine(), AFFINE)
    for file in files:
        time = milliseconds(int(file.SeriesDescription[-1]) - 1, file.InstanceNumber - 1)
        if time is None:
            del file.TriggerTime
        else:
            file.TriggerTime = f"{time:g}"
    return files


@pytest.mark.parametrize("frame", range(SHAPE[3]))
@pytest.mark.parametrize("time", [None, -16.5, -7, 0, 31, 53.5, 90, 123.5, 500])
def test_one_wrong_trigger_time_never_changes_the_order_in_silence(
    tmp_path: Path, frame: int, time: float | None
) -> None:
    """Of a frame of a slice: the order is right, the subject is refused, or there is a warning."""
    files = timed(lambda z, t: time if (z, t) == (1, frame) else 3.5 + 20 * t)
    try:
        result, warnings = one(sax(tmp_path, files))
    except CohortError as error:
        assert re.search("order the frames of a slice otherwise|two different frames at", str(error))
        return
    if (time, frame) in ((-16.5, 5), (123.5, 0)):  # a cine that begins one frame earlier or later
        assert warnings == ["sax: trigger times order the frames otherwise than their numbers; the times count"]
    else:
        np.testing.assert_array_equal(result.volume.raw, cine())
        even = time is not None and abs(time - 3.5 - 20 * frame) <= 5
        expected = (
            "no trigger times, frames ordered by number" if time is None else "trigger times are not evenly spaced"
        )
        assert warnings == ([] if even else [f"sax: {expected}"])


def test_even_trigger_times_count_against_the_numbers_with_a_warning(tmp_path: Path) -> None:
    result, warnings = one(sax(tmp_path, timed(lambda z, t: 100 - 20 * t)))
    np.testing.assert_array_equal(result.volume.raw, cine()[..., ::-1])
    assert warnings == ["sax: trigger times order the frames otherwise than their numbers; the times count"]


def test_uneven_trigger_times_in_order_are_a_warning(tmp_path: Path) -> None:
    result, warnings = one(sax(tmp_path, timed(lambda z, t: (0, 20, 25, 80, 81, 100)[t])))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert warnings == ["sax: trigger times are not evenly spaced"]


@pytest.mark.parametrize("lacking", range(SHAPE[3]))
def test_trigger_times_of_some_frames_against_their_numbers_are_refused(tmp_path: Path, lacking: int) -> None:
    files = timed(lambda z, t: None if t == lacking else 200 - 20 * t)
    with pytest.raises(CohortError, match="lacks trigger times, and its frames were acquired in another order"):
        one(sax(tmp_path, files))


def test_a_wrong_trigger_time_in_place_of_a_missing_frame_is_refused(tmp_path: Path) -> None:
    files = timed(lambda z, t: 3.5 + 20 * (3 if t == 4 else t))
    files = [f for f in files if f.InstanceNumber != 4]  # frame 3 is missing; give frame 1 the place of frame 4
    for file in files:
        if file.InstanceNumber == 2:
            file.TriggerTime = "83.5"
    with pytest.raises(CohortError, match="order the frames of a slice otherwise"):
        one(sax(tmp_path, files))


def test_files_of_another_name_are_mentioned(tmp_path: Path) -> None:
    source = sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE), manifest="manifest.csv")
    assert one(source)[1] == []
    with zipfile.ZipFile(tmp_path / NAME, "a") as archive:
        archive.writestr("IM0001", b"DICM")
    assert one(source)[1] == ["a zip holds files that are not named .dcm, which were not read"]


def change(at: int | None = None, **fields):
    """Changes fields of one image, or of all: None deletes."""

    def changed(files):
        for i, file in enumerate(files):
            if at is None or i == at:
                for name, value in fields.items():
                    delattr(file, name) if value is None else setattr(file, name, value)
        return files

    return changed


def without_slice(files):
    return [f for f in files if not f.SeriesDescription.endswith("_b2")]


def moved_slice(files):
    for file in files:
        if file.SeriesDescription.endswith("_b3"):
            file.ImagePositionPatient = [str(float(v) + 3) for v in file.ImagePositionPatient]
    return files


def tilted_slice(files):
    for file in files:
        if file.SeriesDescription.endswith("_b3"):
            file.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    return files


def other_count(files):
    for file in files:
        if file.SeriesDescription.endswith("_b3"):
            file.CardiacNumberOfImages = 7
    return files


def two_at_a_time(files):
    files[0].TriggerTime = next(f for f in files[1:] if f.SeriesDescription == files[0].SeriesDescription).TriggerTime
    return files


def sheared(files):
    """Every slice lies 8 mm further along its rows than a straight stack."""
    for file in files:
        z = int(file.SeriesDescription.rpartition("_b")[2]) - 1
        row = np.array([float(v) for v in file.ImageOrientationPatient[:3]])
        file.ImagePositionPatient = [
            f"{float(v) + d:.6f}" for v, d in zip(file.ImagePositionPatient, 8 * z * row, strict=True)
        ]
    return files


def longer_row(files):
    for file in files:
        file.ImageOrientationPatient = [str(2 * float(v)) for v in file.ImageOrientationPatient]
    return files


BAD = {
    "the stack is sheared": (sheared, "two axes of the affine have a cosine of"),
    "directions of length 2": (longer_row, "not perpendicular or not of length 1"),
    "spacing of one image": (change(3, PixelSpacing=["3.0", "3.0"]), "different PixelSpacing"),
    "spacing in metres": (change(None, PixelSpacing=["0.0015", "0.0015"]), "are not of a heart"),
    "slope 0": (change(3, RescaleSlope="0", RescaleIntercept="0"), "RescaleSlope 0 and .* unusable"),
    "slope 1e38": (change(3, RescaleSlope="1e38", RescaleIntercept="0"), "unusable"),
    "a slice is missing": (without_slice, "short-axis series 2 of 4 is missing"),
    "a slice was moved": (moved_slice, "not evenly spaced"),
    "a slice is tilted": (tilted_slice, "not parallel"),
    "slices of other frame counts": (other_count, "slices of 6 and 7 frames"),
    "two frames at one time": (two_at_a_time, "two different frames at"),
    "no pixels": (change(3, PixelData=None), "contains no pixels"),
    "no position": (change(None, ImagePositionPatient=None), "no position or orientation of the slice"),
    "no spacing": (change(None, PixelSpacing=None), "no valid PixelSpacing"),
    "no order": (change(None, TriggerTime=None, InstanceNumber=None), "no order"),
    "most frames are missing": (lambda f: [i for i in f if i.InstanceNumber < 3], "has 2 frames of 6 of one slice"),
    "more frames than said": (change(None, CardiacNumberOfImages=5), "6 frames of one slice, but its header says 5"),
    "a frame of a slice was moved": (
        change(5, ImagePositionPatient=["0", "0", "0"]),
        "lie in different places|evenly spaced",
    ),
    "pixels of another size": (change(5, Rows=7, Columns=40), "images of"),
    "an orientation of five numbers": (
        change(2, ImageOrientationPatient=["1", "0", "0", "0", "1"]),
        "must be 6 finite numbers",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_inconsistent_images_are_refused(bad: str, tmp_path: Path) -> None:
    damage, message = BAD[bad]
    with pytest.raises(CohortError, match=message):
        one(sax(tmp_path, damage(ukb_zips.short_axis(cine(), AFFINE))))

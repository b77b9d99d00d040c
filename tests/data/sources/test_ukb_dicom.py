"""Zips of known cines, intact and damaged: tests of `ukb_dicom`, `ukb_series` and `dicom`."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import JPEG2000LosslessDecoder
from pydicom.uid import JPEG2000Lossless

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.ukb_dicom import UkbDicom
from tests.data import cvi42_files, ukb_zips

SHAPE = (20, 14, 4, 6)  # X, Y, Z, T
AFFINE = ukb_zips.oblique()
NAME = "1000017_20209_2_0.zip"


def cine(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def sax(root: Path, files, name: str = NAME, **settings) -> UkbDicom:
    ukb_zips.write(root / name, files, **settings)
    return UkbDicom(root)


def one(source: UkbDicom, plane: str = "sax"):
    """The cine of the only subject, and its warnings."""
    warnings: list[str] = []
    (subject,) = source.subjects()
    return source.cines(subject, [plane], warnings)[plane], warnings


@pytest.mark.parametrize("manifest", ["manifest.cvs", "manifest.csv", None])
def test_a_stack_has_the_pixels_and_the_affine_of_the_scan(manifest: str | None, tmp_path: Path) -> None:
    result, warnings = one(sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE), manifest=manifest))
    np.testing.assert_array_equal(result.volume.raw, cine())
    assert result.volume.raw.dtype == np.int16 and result.seconds == pytest.approx(0.020) and not warnings
    np.testing.assert_allclose(result.volume.affine, AFFINE, atol=1e-4)


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


def test_rescaled_pixels_are_in_the_units_of_the_scanner(tmp_path: Path) -> None:
    result, _ = one(sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE, RescaleSlope="2", RescaleIntercept="-10")))
    np.testing.assert_array_equal(result.volume.raw, 2.0 * cine() - 10)


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


BAD = {
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


def test_undecodable_pixels_name_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    files[4].PixelData = encapsulate([b"\xff\x4f\xff\x51, a code stream"])
    files[4]["PixelData"].is_undefined_length = True
    packed = ukb_zips.encode(files[4], JPEG2000Lossless)
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(CohortError, match=r"pixels in JPEG 2000 .* install morphojax\[dicom-compressed\]"):
        one(sax(tmp_path, [*files[:4], packed, *files[5:]]))


def test_damaged_or_hostile_zips_are_refused(tmp_path: Path) -> None:
    files = [ukb_zips.encode(f) for f in ukb_zips.short_axis(cine(), AFFINE)]
    path = ukb_zips.write(tmp_path / NAME, files)
    source, intact = UkbDicom(tmp_path), path.read_bytes()
    path.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(CohortError, match="truncated or corrupt zip"):
        one(source)
    flipped = bytearray(intact)
    flipped[400] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(CohortError, match="corrupt"):
        one(source)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../1.dcm", files[0])
    with pytest.raises(CohortError, match="leads out of the zip"):
        one(source)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.dcm", bytes(30 * 2**20))
    with pytest.raises(CohortError, match="would unpack to 31457280 bytes"):
        one(source)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.dcm", b"no DICOM at all")
    with pytest.raises(CohortError, match="not a readable DICOM file"):
        one(source)
    encrypted = bytearray(intact)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := encrypted.find(signature, at + 1)) >= 0:
            encrypted[at + offset] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(CohortError, match="is encrypted"):
        one(source)


def test_randomly_damaged_zips_are_read_or_refused(tmp_path: Path) -> None:
    path = ukb_zips.write(tmp_path / NAME, ukb_zips.short_axis(cine((6, 5, 2, 3)), AFFINE))
    source, intact, rng = UkbDicom(tmp_path), path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        data = bytearray(intact)
        for at in rng.integers(0, len(data), 8):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            one(source)
        except CohortError:
            refused += 1
    assert refused > 30


def test_compressed_pixels_are_read_where_a_decoder_is_installed(tmp_path: Path) -> None:
    for module in ("pylibjpeg", "openjpeg"):
        pytest.importorskip(module, reason="JPEG 2000 needs pylibjpeg and pylibjpeg-openjpeg")
    files = ukb_zips.short_axis(cine((64, 48, 2, 2)), AFFINE)
    plain = ukb_zips.write(tmp_path / "plain" / NAME, files)
    packed = []
    for file in files:
        dataset = pydicom.dcmread(io.BytesIO(ukb_zips.encode(file)))
        dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", j2k_cr=[1])
        stream = io.BytesIO()
        dataset.save_as(stream)
        packed.append(stream.getvalue())
    result, _ = one(sax(tmp_path / "packed", packed))
    np.testing.assert_array_equal(result.volume.raw, one(UkbDicom(plain.parent))[0].volume.raw)

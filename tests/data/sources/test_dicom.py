import io
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import JPEG2000LosslessDecoder
from pydicom.uid import JPEG2000Lossless

from morphojax.data.sources import dicom
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.ukb_dicom import UkbDicom
from tests.data import ukb_zips
from tests.data.sources.dicom_cohort import AFFINE, NAME, cine, one, sax


def test_rescaled_pixels_are_in_the_units_of_the_scanner(tmp_path: Path) -> None:
    result, _ = one(sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE, RescaleSlope="2", RescaleIntercept="-10")))
    np.testing.assert_array_equal(result.volume.raw, 2.0 * cine() - 10)


@pytest.mark.parametrize("meaning", ["MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL", "", None])
@pytest.mark.parametrize("where", ["one image", "every image"])
def test_numbers_that_are_no_brightness_are_refused(tmp_path: Path, meaning: str | None, where: str) -> None:
    """Inverted grey values (MONOCHROME1) and indices of a palette look like an image."""
    files = ukb_zips.short_axis(cine(), AFFINE)
    for file in files[:1] if where == "one image" else files:
        if meaning is None:
            del file.PhotometricInterpretation
        else:
            file.PhotometricInterpretation = meaning
    with pytest.raises(CohortError, match=rf"{NAME}:.*PhotometricInterpretation is '{meaning or ''}', and only MONO"):
        one(sax(tmp_path, files))


def test_undecodable_pixels_name_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ukb_zips.short_axis(cine(), AFFINE)
    files[4].PixelData = encapsulate([b"\xff\x4f\xff\x51, a code stream"])
    files[4]["PixelData"].is_undefined_length = True
    packed = ukb_zips.encode(files[4], JPEG2000Lossless)
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(CohortError, match=r"pixels in JPEG 2000 .* install morphojax\[dicom-compressed\]"):
        one(sax(tmp_path, [*files[:4], packed, *files[5:]]))


def test_damaged_or_hostile_zips_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"{number}.dcm", bytes(2**20))
    monkeypatch.setattr(dicom, "_MAX_TOTAL_BYTES", 2**23)
    with pytest.raises(CohortError, match="would unpack to 9437184 bytes, too many for a cine"):
        one(source)
    deflated = [ukb_zips.encode(f) for f in ukb_zips.short_axis(cine(), AFFINE)]
    deflated[0] = deflated[0].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    with pytest.raises(CohortError, match=r"not a readable DICOM file .deflated"):
        one(sax(tmp_path, deflated))
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


@pytest.mark.parametrize("group", [b"\x28\0", b"\x20\0", b"\x18\0", b"\x08\0"])
def test_a_damaged_type_of_any_element_is_refused_by_name(tmp_path: Path, group: bytes) -> None:
    """pydicom interprets an element when it is first used, and raises errors of its own."""
    files = [ukb_zips.encode(f) for f in ukb_zips.short_axis(cine(), AFFINE)]
    for start in range(132, files[0].index(b"\xe0\x7f\x10\0")):
        if files[0][start : start + 2] == group and files[0][start + 4 : start + 6].isalpha():
            damaged = files[0][: start + 4] + b"XX" + files[0][start + 6 :]
            try:
                one(sax(tmp_path, [damaged, *files[1:]]))
            except CohortError as error:
                assert NAME in str(error) and str(error).isprintable()


@pytest.mark.parametrize(
    ("mark", "at", "value"),
    [
        (b"PK\1\2", 28, b"\0\0"),  # a file without a name
        (b"PK\1\2", 6, b"\xff"),  # a future version of zip
        (b"PK\1\2", 8, b"\0\x08"),  # a name that is not UTF-8
        (b"PK\1\2", 10, b"\x63\0"),  # an unknown compression
        (b"PK\1\2", 42, b"\xff\xff\xff\x7f"),  # a file that begins beyond the end
        (b"PK\5\6", 12, b"\xff\xff\xff\x7f"),  # a directory of impossible size
        (b"PK\5\6", 16, b"\xff\xff\xff\x7f"),  # and place
    ],
)
def test_a_damaged_directory_of_a_zip_is_refused_by_name(tmp_path: Path, mark: bytes, at: int, value: bytes) -> None:
    files = [ukb_zips.encode(f) for f in ukb_zips.short_axis(cine(), AFFINE)]
    path = ukb_zips.write(tmp_path / NAME, files)
    data = bytearray(path.read_bytes())
    start = data.index(mark) + at
    data[start : start + len(value)] = value
    if value == b"\0\x08":
        data[data.index(mark) + 46] = 0xFF
    path.write_bytes(data)
    with pytest.raises(CohortError, match=NAME):
        one(UkbDicom(tmp_path))


@pytest.mark.filterwarnings("error:overflow")
def test_an_orientation_or_spacing_beyond_numbers_is_refused_in_silence(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=NAME):
        one(sax(tmp_path, ukb_zips.short_axis(cine(), AFFINE, PixelSpacing=["1e200", "1e200"])))


@pytest.mark.filterwarnings("error")
def test_no_warning_quotes_a_value_of_a_header(tmp_path: Path) -> None:
    files = [ukb_zips.encode(f) for f in ukb_zips.short_axis(cine(), AFFINE)]
    damaged = [data.replace(b"1.2.826.0.1.3680043", b"Somebodys.name.here") for data in files]  # of UIDs
    result, _ = one(sax(tmp_path, damaged))
    assert result.volume.raw.shape == cine().shape

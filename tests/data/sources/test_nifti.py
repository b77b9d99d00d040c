import gzip

import nibabel as nib
import numpy as np
import pytest

from morphojax import anatomy
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.nifti import canonical_label, find, load
from tests.data.cohorts import AFFINE, image, label, save


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "sa.nii.gz", image())


def _refused(path, ndim, message):
    with pytest.raises(CohortError, match=message) as caught:
        load(path, ndim)
    assert str(path) in str(caught.value)


def test_reads_values_affine_and_scaling(tmp_path):
    stored = nib.Nifti1Image(image(), AFFINE)
    stored.header.set_slope_inter(0.5, 10)
    stored.to_filename(tmp_path / "a.nii.gz")
    volume = load(tmp_path / "a.nii.gz", 3)
    reference = nib.load(tmp_path / "a.nii.gz").get_fdata()
    np.testing.assert_allclose(volume.values(), reference, rtol=1e-6)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.values().dtype == np.float32


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [">i2", "<f4", "u1"])
def test_reads_every_format_and_data_type(tmp_path, kind, name, dtype):
    array = (image() % 200).astype(dtype)
    stored = kind(array, AFFINE)
    stored.header.set_data_dtype(array.dtype)
    stored.to_filename(tmp_path / name)
    np.testing.assert_array_equal(load(tmp_path / name, 3).values(), array)


def test_frames_of_a_cine(tmp_path):
    array = image((6, 7, 2, 5))
    volume = load(save(tmp_path / "c.nii.gz", array), 4)
    assert volume.frames == 5
    np.testing.assert_array_equal(volume.values(3), array[..., 3])


def test_a_single_slice_of_any_dimension(tmp_path):
    for shape in ((8, 9), (8, 9, 1), (8, 9, 1, 1)):
        assert load(save(tmp_path / "s.nii.gz", image(shape)), 3).values().shape == (8, 9, 1)
    for shape in ((8, 9, 5, 1), (8, 9, 5, 1, 1)):
        assert load(save(tmp_path / "s.nii.gz", image(shape)), 3).values().shape == (8, 9, 5)


@pytest.mark.parametrize("keep", [0.2, 0.9, -4])
def test_truncated_gzip_is_refused(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep > 0 else keep])
    _refused(path, 3, "truncated or corrupt gzip")


def test_corrupt_gzip_is_refused(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    _refused(path, 3, "truncated or corrupt gzip")


def test_truncated_voxels_are_refused(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    _refused(path, 3, "voxels cannot be read|not a readable NIfTI")


@pytest.mark.parametrize("data", [b"", b"ab", b"<html>not an image</html>" * 40])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "x.nii").write_bytes(data)
    _refused(tmp_path / "x.nii", 3, "NIfTI")
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(data))
    _refused(tmp_path / "x.nii.gz", 3, "NIfTI")


def test_a_file_named_gz_that_is_not_gzip_is_refused(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"PK\x03\x04 whatever")
    _refused(tmp_path / "x.nii.gz", 3, "not a gzip file")


def test_an_absent_file_is_refused(tmp_path):
    _refused(tmp_path / "x.nii.gz", 3, "cannot be read")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(tmp_path, bad):
    array = image().astype(np.float32)
    array[3, 4, 1] = bad
    _refused(save(tmp_path / "x.nii.gz", array), 3, "1 voxels are NaN or infinite")


@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf, 0.0])
def test_a_slope_that_scales_nothing_is_left_out(path, slope):
    _with_header(path, 112, [slope, 0.0])
    np.testing.assert_array_equal(load(path, 3).values(), image())


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_an_intercept_that_is_not_finite_is_refused(path, intercept):
    _with_header(path, 112, [1.0, intercept])
    _refused(path, 3, "invalid intercept")


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (1e38, 0.0), (1.0, 3e38)])
def test_values_beyond_32_bits_are_refused(tmp_path, slope, intercept):
    array = image().astype(np.float64)
    array[3, 4, 1] = 1e39 if (slope, intercept) == (1.0, 0.0) else 3e38 / slope
    array[0, 0, 0] = 10.0
    stored = nib.Nifti1Image(array, AFFINE)
    stored.header.set_slope_inter(slope, intercept)
    stored.to_filename(tmp_path / "x.nii.gz")
    _refused(tmp_path / "x.nii.gz", 3, "exceed 32-bit numbers")


def test_integers_that_scaling_makes_too_large_are_refused(tmp_path):
    stored = nib.Nifti1Image(image(), AFFINE)
    stored.header.set_slope_inter(1e37, 0)
    stored.to_filename(tmp_path / "x.nii.gz")
    _refused(tmp_path / "x.nii.gz", 3, "exceed 32-bit numbers")


def _with_header(path, offset, values):
    """Overwrites float32 fields of the header from a byte on."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[offset : offset + 4 * len(values)] = np.array(values, "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))


def _with_pixdim(path, spacing):
    _with_header(path, 76 + 4, spacing)


@pytest.mark.parametrize("bad", [0.0, -1.5, np.nan, np.inf])
def test_spacing_must_be_positive_and_finite(path, bad):
    _with_pixdim(path, (1.5, bad, 10))
    _refused(path, 3, "spacing|readable")


def test_spacing_must_agree_with_the_affine(path):
    _with_pixdim(path, (1.5, 1.5, 8))
    _refused(path, 3, "voxels of .* mm, its affine")


def test_a_singular_affine_is_refused(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 1] = affine[:3, 0]
    stored = nib.Nifti1Image(image(), None)
    stored.header.set_zooms((1.5, 1.5, 10))
    stored.set_sform(affine, code=1, update_affine=False)
    stored.to_filename(tmp_path / "x.nii.gz")
    _refused(tmp_path / "x.nii.gz", 3, "singular")


@pytest.mark.parametrize(("shape", "ndim"), [((4, 4, 2, 3), 3), ((4, 4, 2), 4), ((4, 4, 2, 3, 2), 4)])
def test_wrong_dimensions_are_refused(tmp_path, shape, ndim):
    _refused(save(tmp_path / "x.nii.gz", image(shape)), ndim, "shape")


def test_two_files_of_one_name_are_refused(path):
    save(path.with_suffix(""), image())
    with pytest.raises(CohortError, match="both exist"):
        find(path.parent, "sa")
    assert find(path.parent, "absent") is None


def test_labels_become_canonical(tmp_path, path):
    labels = load(save(tmp_path / "l.nii.gz", label()), 3)
    out = canonical_label(labels, anatomy.CONVENTIONS["acdc"], load(path, 3))
    # ACDC: 1 RV, 2 myocardium, 3 LV; canonical: 1 LV, 2 myocardium, 3 RV.
    np.testing.assert_array_equal(out, np.array([0, 3, 2, 1], np.uint8)[label()])
    floats = load(save(tmp_path / "f.nii.gz", label().astype(np.float32)), 3)
    np.testing.assert_array_equal(canonical_label(floats, anatomy.CONVENTIONS["acdc"], load(path, 3)), out)


def test_label_values_outside_the_convention_are_refused(tmp_path, path):
    for array, values in ((label(values=(1, 4, 7)), "4, 7"), (label().astype(np.float32) / 2, "0.5, 1.5")):
        labels = load(save(tmp_path / "l.nii.gz", array), 3)
        with pytest.raises(CohortError, match=rf"l.nii.gz: label values {values} are not in the convention acdc"):
            canonical_label(labels, anatomy.CONVENTIONS["acdc"], load(path, 3))


def test_labels_on_another_grid_are_refused(tmp_path, path):
    convention = anatomy.CONVENTIONS["acdc"]
    smaller = load(save(tmp_path / "l.nii.gz", label((20, 24, 3))), 3)
    with pytest.raises(CohortError, match=r"l.nii.gz: label of shape \(20, 24, 3\)"):
        canonical_label(smaller, convention, load(path, 3))
    moved = AFFINE.copy()
    moved[0, 3] += 1.5
    shifted = load(save(tmp_path / "l.nii.gz", label(), moved), 3)
    with pytest.raises(CohortError, match=r"l.nii.gz: the affine differs .* by up to 1.5"):
        canonical_label(shifted, convention, load(path, 3))

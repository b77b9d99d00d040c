import json

import numpy as np
import pytest

from morphojax.data.geometry import Grid, Placement, normalise, place, to_grid, to_native


def _affine(x, y, z, origin=(3.0, -7.0, 11.0)) -> np.ndarray:
    """Columns are the directions (with spacing) of the three array axes, in RAS+."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([x, y, z]).T
    affine[:3, 3] = origin
    return affine


def _volume(shape=(11, 14, 3), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("x", "y", "axes", "flips"),
    [
        ((-1, 0, 0), (0, -1, 0), (1, 0), (False, False)),  # X runs left, Y posterior: columns along X, as stored
        ((1, 0, 0), (0, -1, 0), (1, 0), (False, True)),  # X runs right: columns flipped
        ((1, 0, 0), (0, 1, 0), (1, 0), (True, True)),
        ((0, -1, 0), (-1, 0, 0), (0, 1), (False, False)),  # transposed
        ((0, 0, 1), (1, 0, 0), (0, 1), (True, True)),  # coronal: rows along Z, flipped to run inferior
        ((-0.8, 0.6, 0), (0.5, 0.6, -0.62), (1, 0), (False, False)),  # Y runs more inferior than anterior
    ],
)
def test_orientation_follows_the_affine(x, y, axes, flips):
    placement = place(_volume(), _affine(x, y, np.cross(x, y) * 8), Grid(1.0, 16))
    assert (placement.axes, placement.flips) == (axes, flips)


def test_rows_run_posterior_and_columns_left():
    # One bright voxel, to the right and front of the centre, must land left and top of the centre
    # of the grid.
    volume = np.zeros((9, 9, 2), np.float32)
    volume[6, 7, 1] = 1  # affine identity: X towards right, Y towards anterior
    grid = to_grid(volume, place(volume, np.diag([1, 1, 8.0, 1]), Grid(1.0, 9)), order=1)
    assert np.argwhere(grid == 1).tolist() == [[1, 1, 2]]


def test_oblique_planes_are_turned_by_their_angles_with_the_body():
    """Against the definition, by exhaustive search: of the two orders and four flips, those whose
    rows run most posterior or inferior, and whose columns run most left.
    """
    for seed in range(100):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
        left, posterior, inferior = -affine[:3, :2]  # of the two in-plane axes
        choices = {}
        for rows, columns in ((0, 1), (1, 0)):
            row = max((posterior[rows], inferior[rows]), key=abs)
            choices[abs(row) + abs(left[columns])] = (rows, columns), (row < 0, left[columns] < 0)
        found = place(np.zeros((4, 5, 1)), affine, Grid(1.0, 8))
        assert (found.axes, found.flips) == choices[max(choices)]


def test_equal_spacing_is_a_crop_or_pad_by_whole_voxels():
    volume = _volume((11, 14, 3))
    placement = place(volume, np.diag([-1.5, -1.5, 8, 1]), Grid(1.5, 12))
    expected = np.zeros((3, 12, 12), np.float32)
    # Centre 11 // 2 = 5 and 14 // 2 = 7 go to 12 // 2 = 6: one column of padding, one row cropped
    # at the start.
    expected[:, :, 1:12] = volume.transpose(2, 1, 0)[:, 1:13, :]
    np.testing.assert_array_equal(to_grid(volume, placement, 1), expected)
    np.testing.assert_array_equal(to_grid(volume, placement, 0), expected)


@pytest.mark.parametrize("signs", [(-1, -1), (1, -1), (-1, 1), (1, 1)])
@pytest.mark.parametrize("swap", [False, True])
def test_round_trip_is_exact_at_equal_spacing(signs, swap):
    x, y = (signs[0] * 1.5, 0, 0), (0, signs[1] * 1.5, 0)
    affine = _affine(*((y, x) if swap else (x, y)), (0, 0, 8))
    volume = _volume((10, 13, 3))
    placement = place(volume, affine, Grid(1.5, 16))
    np.testing.assert_array_equal(to_native(to_grid(volume, placement, 1), placement, 1), volume)
    channels = np.stack([to_grid(volume, placement, 1), 2 * to_grid(volume, placement, 1)], axis=-1)
    np.testing.assert_array_equal(to_native(channels, placement, 1), np.stack([volume, 2 * volume], -1))


def test_round_trip_keeps_a_smooth_label_at_other_spacing():
    x, y = np.meshgrid(np.arange(60) - 31, np.arange(50) - 24, indexing="ij")
    disc = ((x**2 + y**2) < 18**2).astype(np.uint8)[..., None]
    placement = place(disc, _affine((1.2, 0, 0), (0, -1.2, 0), (0, 0, -8)), Grid(1.5, 64))
    back = to_native(to_grid(disc, placement, 0).astype(np.float32), placement, 1) > 0.5
    dice = 2 * (back & (disc > 0)).sum() / (back.sum() + disc.sum())
    assert dice > 0.97
    # The centre of mass would shift if one direction were off by half a voxel.
    np.testing.assert_allclose(np.argwhere(back).mean(0), np.argwhere(disc).mean(0), atol=0.25)


def test_linear_interpolation_by_hand():
    ramp = np.arange(8, dtype=np.float32)[:, None, None] * np.ones((1, 8, 1), np.float32)
    placement = place(ramp, np.diag([-1.0, -1, 5, 1]), Grid(0.5, 6))
    # Columns i sit at (i - 3) / 2 + 4 voxels.
    np.testing.assert_allclose(to_grid(ramp, placement, 1)[0, 0], [2.5, 3, 3.5, 4, 4.5, 5])
    np.testing.assert_array_equal(to_grid(ramp, placement, 0)[0, 0], [3, 3, 4, 4, 5, 5])
    np.testing.assert_array_equal(to_grid(ramp.astype(np.uint8), placement, 1)[0, 0], [2, 3, 4, 4, 4, 5])  # rint


def test_each_axis_is_resampled_by_its_own_spacing():
    x, y = np.meshgrid(np.arange(8), np.arange(6), indexing="ij")
    volume = (x + 10 * y)[..., None].astype(np.float32)
    placement = place(volume, np.diag([-1.0, -1.5, 5, 1]), Grid(1.0, 4))
    # Columns i sit at X = i - 2 + 4 voxels, rows j at Y = (j - 2) / 1.5 + 3.
    at = np.arange(4) - 2
    on_grid = to_grid(volume, placement, 1)
    np.testing.assert_allclose(on_grid[0], (at + 4)[None, :] + 10 * (at / 1.5 + 3)[:, None], rtol=1e-5)
    np.testing.assert_allclose(to_native(on_grid, placement, 1)[2:6, 2:4], volume[2:6, 2:4], rtol=1e-5)


def test_outside_the_image_and_the_crop_is_zero():
    ones = np.ones((6, 6, 1), np.float32)
    inside = place(ones, np.diag([-1.0, -1, 5, 1]), Grid(1.0, 10))
    assert to_grid(ones, inside, 1).sum() == 36
    crop = place(ones, np.diag([-1.0, -1, 5, 1]), Grid(1.0, 4))
    back = to_native(np.ones((1, 4, 4, 2), np.float32), crop, 1)
    assert back.shape == (6, 6, 1, 2)
    assert back[..., 0].sum() == 16 and back[1:5, 1:5].all()


@pytest.mark.parametrize("native", [0.8, 1.37, 2.1])
def test_agrees_with_itk(native):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is the independent resampler")
    volume = _volume((21, 26, 1), seed=3)
    placement = place(volume, np.diag([-native, -native, 8, 1]), Grid(1.5, 20))
    reference = sitk.GetImageFromArray(volume[..., 0].T)  # SimpleITK wants [Y, X]
    reference.SetSpacing([native, native])
    origin = [(n // 2) * native - 10 * 1.5 for n in (21, 26)]
    for order, interpolator in ((0, sitk.sitkNearestNeighbor), (1, sitk.sitkLinear)):
        out = sitk.Resample(reference, [20, 20], sitk.Transform(), interpolator, origin, [1.5, 1.5], [1, 0, 0, 1], 0.0)
        actual = to_grid(volume, placement, order)[0]
        expected = sitk.GetArrayFromImage(out)
        # A position halfway between two voxels may be rounded either way.
        assert np.mean(np.abs(actual - expected) < 1e-4) > (0.95 if order == 0 else 0.9999)


def test_one_slice_and_one_voxel():
    volume = _volume((8, 8, 1))
    assert to_grid(volume, place(volume, np.eye(4), Grid(1.0, 4)), 1).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((20, 20), (1, 1, 8), "3 axes"),
        ((20, 0, 3), (1, 1, 8), "3 axes"),
        ((12, 100, 100), (8, 1.4, 1.4), "along axis 0"),
        ((100, 12, 100), (1.4, 8, 1.4), "along axis 1"),
        ((1, 100, 100), (1.4, 1.4, 1.4), "axis 0 has a single voxel"),
    ],
)
def test_other_array_layouts_are_refused(shape, spacing, message):
    with pytest.raises(ValueError, match=message):
        place(np.zeros(shape), np.diag([*spacing, 1.0]), Grid(1.5, 8))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_unusable_spacing_is_refused(bad):
    with pytest.raises(ValueError, match="spacing"):
        place(np.zeros((4, 4, 2)), np.diag([1.0, bad, 8, 1]), Grid(1.5, 8))
    with pytest.raises(ValueError, match="spacing"):
        Grid(bad, 8)


def test_volumes_of_another_shape_are_refused():
    placement = place(np.zeros((4, 5, 2)), np.eye(4), Grid(1.0, 8))
    with pytest.raises(ValueError, match="does not fit"):
        to_grid(np.zeros((5, 4, 2)), placement, 1)
    with pytest.raises(ValueError, match="does not fit"):
        to_native(np.zeros((3, 8, 8)), placement, 1)
    with pytest.raises(ValueError, match="order"):
        to_grid(np.zeros((4, 5, 2)), placement, 3)


def test_placement_survives_json_and_gives_its_spacing():
    affine = _affine((0, 1.25, 0), (-1.3, 0, 0), (0, 0, 9.5))
    placement = place(np.zeros((4, 5, 2)), affine, Grid(1.5, 8))
    assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement
    np.testing.assert_allclose(placement.native_spacing, (1.25, 1.3, 9.5))
    assert placement.shape == (4, 5, 2)


@pytest.mark.parametrize("scale", [1, 0.37])
@pytest.mark.parametrize("offset", [0, -500])
def test_percentiles_counted_or_sorted_agree_with_numpy(scale, offset):
    integers = np.random.default_rng(0).integers(0, 1000, (17, 13, 5)) ** 2 // 700 + offset
    stack = np.asfortranarray(integers.astype(np.float32) * scale)
    for low, high in ((0.5, 99.5), (0, 100), (33.3, 66.6)):
        bottom, top = np.percentile(stack.astype(np.float64), (low, high))
        expected = np.floor(np.clip((stack - bottom) / (top - bottom) * 255, 0, 255) + 0.5)
        assert np.abs(normalise(stack, low, high) - expected).max() <= (1 if scale != 1 else 0)


@pytest.mark.parametrize("last", [0.0, -1000.5, 2000.25])
@pytest.mark.parametrize("order", ["F", "C", "K"])
def test_normalising_in_parts_equals_normalising_the_whole_stack(last, order):
    # More voxels than one part; the last part alone has a value that is not a whole number.
    stack = np.random.default_rng(0).integers(-300, 1500, (190, 180, 5)).astype(np.float32)
    stack[-1, -1, -1] = last
    stack = stack.transpose(0, 2, 1)[::-1] if order == "K" else stack.copy(order=order)
    bottom, top = np.percentile(stack.astype(np.float64), (0.5, 99.5))
    scaled = (stack - np.float32(bottom)) * np.float32(255 / (top - bottom)) + np.float32(0.5)
    np.testing.assert_array_equal(normalise(stack, 0.5, 99.5), np.clip(scaled, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("spread", [1e-3, 1, 200, 1e4])
@pytest.mark.parametrize("outlier", [False, True])
def test_an_offset_gives_the_same_grey_values_or_is_refused(sign, spread, outlier):
    """Images are read as float32, which has few steps far from 0."""
    stack = np.random.default_rng(0).random((20, 20, 4)) * spread
    expected, refused = normalise(stack, 0.5, 99.5), 0
    for exponent in range(41):
        shifted = (stack + sign * 2.0**exponent).astype(np.float32)
        shifted[0, 0, 0] = 0 if outlier else shifted[0, 0, 0]  # the range is not that of the percentiles
        if len(np.unique(shifted)) <= 2:
            continue  # constant
        try:
            out = normalise(shifted, 0.5, 99.5)
        except ValueError as error:
            assert "too close together for 32-bit numbers; subtract" in str(error)
            refused += 1
        else:
            same = slice(int(outlier), None)
            assert np.abs(out[same].astype(int) - expected[same]).max() <= 2 and not refused
    assert refused > 5


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16])
def test_integers_of_16_bits_are_never_too_close_together(kind):
    limits = np.iinfo(kind)
    for first in (limits.min, -1, 0, limits.max - 1):
        stack = np.full((4, 4, 2), max(first, limits.min), kind).astype(np.float32)
        stack[:2] += 1
        assert set(np.unique(normalise(stack, 0.5, 99.5))) == {0, 255}


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("signs", [(-1, -1), (1, 1)])
def test_voxels_outside_the_crop_change_nothing(order, signs):
    volume, affine = _volume((60, 50, 2)), np.diag([1.3 * signs[0], 1.1 * signs[1], 8, 1])
    placement = place(volume, affine, Grid(1.5, 16))
    seen = to_native(np.ones((2, 16, 16), np.float32), placement, 1) > 0
    # Add a margin of one voxel: linear interpolation reads the neighbour of the outermost voxel.
    near = np.pad(seen, ((1, 1), (1, 1), (0, 0)))
    near = near[2:, 1:-1] | near[:-2, 1:-1] | seen
    near = np.pad(near, ((0, 0), (1, 1), (0, 0)))
    near = near[:, 2:] | near[:, :-2] | near[:, 1:-1]
    other = np.where(near, volume, 1e6).astype(np.float32)
    np.testing.assert_array_equal(to_grid(other, placement, order), to_grid(volume, placement, order))
    wide = to_grid(volume, place(volume, affine, Grid(1.5, 128)), order)[:, 56:72, 56:72]
    np.testing.assert_array_equal(to_grid(volume, placement, order), wide)


def test_normalise_maps_the_percentiles_to_black_and_white():
    stack = np.arange(101, dtype=np.float32).reshape(101, 1, 1)
    out = normalise(stack, 10, 60)[:, 0, 0]
    assert out.dtype == np.uint8
    assert (out[:11] == 0).all() and (out[60:] == 255).all()
    assert out[35] == 128  # 25 / 50 * 255 = 127.5, rounded up
    assert not normalise(np.full((3, 3, 2), 7.0), 1, 99).any()
    with pytest.raises(ValueError, match="percentiles"):
        normalise(stack, 60, 10)

import math

import numpy as np
import pytest
from scipy import ndimage

from morphojax.evaluation import overlap

SPACINGS = [(1.0, 1.0, 1.0), (1.56, 0.7, 10.0), (2.0, 1.25, 8.0)]


def blobs(seed, shape=(20, 18, 7)):
    """Two overlapping irregular masks, with islands and voxels at the edge of the image."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 2, 2, 1))
    smooth /= smooth.std()
    return smooth[0] + 0.8 * smooth[1] > 0.9, smooth[0] + 0.8 * smooth[2] > 1.1


def brute_force(a, b, spacing):
    """All pairs of surface voxels: (b's distances to a, a's distances to b)."""

    def surface(mask):
        voxels = []
        for index in np.argwhere(mask):
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    neighbour = index.copy()
                    neighbour[axis] += step
                    inside = 0 <= neighbour[axis] < mask.shape[axis] and mask[tuple(neighbour)]
                    if not inside:
                        voxels.append(tuple(index))
        return np.array(sorted(set(voxels))) * np.asarray(spacing)

    pa, pb = surface(a), surface(b)
    distance = np.linalg.norm(pa[:, None] - pb[None], axis=-1)
    return distance.min(0), distance.min(1)


def test_single_voxels_by_hand():
    a, b = np.zeros((2, 5, 5, 3), bool)
    a[1, 1, 0] = b[4, 1, 2] = True
    distance = math.hypot(3 * 2.0, 2 * 10.0)  # three voxels along x, two along z
    score = overlap.score(a, b, (2.0, 1.0, 10.0))
    assert score.dice == 0 and not score.missed and not score.spurious
    assert score.hd95 == score.hd95_directed == score.assd == pytest.approx(distance)


def test_dice_by_hand():
    a, b = np.zeros((2, 4, 4), bool)
    a[:2], b[1:4] = True, True  # 8 and 12 pixels, 4 shared
    assert overlap.dice(a, b) == pytest.approx(2 * 4 / 20)
    assert overlap.dice(a, a) == 1


def test_pooled_and_directed_hd95_differ_where_one_mask_has_an_island():
    a = np.zeros((60, 3), bool)
    b = a.copy()
    a[:20, 1] = b[:20, 1] = True
    b[50:52, 1] = True  # 2 of b's 22 pixels stand 31 and 32 pixels away from a; a's 20 pixels touch b
    score = overlap.score(a, b, (1.0, 1.0))
    assert score.hd95 == 0  # rank 38.95 of 0..41, and the ranks up to 39 are 0
    assert score.hd95_directed == pytest.approx(0.95 * 31)  # rank 19.95 of 0..21, interpolated
    assert score.assd == pytest.approx(63 / 42)


def test_identical_masks_are_at_distance_zero():
    a, _ = blobs(0)
    assert overlap.score(a, a, (1, 1, 10)) == overlap.Score(1.0, 1.0, 0.0, 0.0, 0.0, False, False)


def test_both_empty_is_not_counted():
    empty = np.zeros((4, 4, 2), bool)
    score = overlap.score(empty, empty, (1, 1, 1))
    assert all(math.isnan(x) for x in (score.dice, score.surface_dice, score.hd95, score.hd95_directed, score.assd))
    assert not score.missed and not score.spurious


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_costs_the_image_diagonal(swap):
    full, empty = np.ones((3, 4, 2), bool), np.zeros((3, 4, 2), bool)
    pair = (empty, full) if swap else (full, empty)
    score = overlap.score(*pair, (2.0, 1.0, 10.0))
    diagonal = math.sqrt(6**2 + 4**2 + 20**2)
    assert (score.dice, score.surface_dice, score.missed, score.spurious) == (0.0, 0.0, not swap, swap)
    assert score.hd95 == score.hd95_directed == score.assd == pytest.approx(diagonal)


def test_one_slice_is_measured_in_two_dimensions():
    a, b = (mask[..., 3] for mask in blobs(1))
    flat = overlap.score(a, b, (1.5, 1.2))
    assert overlap.score(a[..., None], b[..., None], (1.5, 1.2, 8.0)) == flat
    missed = overlap.score(a[..., None], b[..., None] & False, (1.5, 1.2, 8.0))
    assert missed.hd95 == pytest.approx(
        math.hypot(20 * 1.5, 18 * 1.2)
    )  # the diagonal is 2-D, without the slice thickness


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_distances_equal_brute_force(spacing):
    a, b = blobs(2, (12, 11, 5))
    got = overlap.surface_distances(a, b, spacing)
    for mine, slow in zip(got, brute_force(a, b, spacing), strict=True):
        np.testing.assert_allclose(np.sort(mine), np.sort(slow), rtol=0, atol=1e-9)


def box(start, shape, image=(14, 14, 8)):
    mask = np.zeros(image[: len(shape)], bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))] = True
    return mask


def test_surface_dice_of_shifted_squares():
    """Of the outlines of two squares of n x n pixels, shifted by one pixel, half is common."""
    for n in (2, 3, 7):
        a, b = box((2, 2), (n, n)), box((3, 2), (n, n))
        assert overlap.surface_dice(a, b, (1.5, 1.5), 1.4) == pytest.approx(0.5)
        assert overlap.surface_dice(a, b, (1.5, 1.5), 1.5) == 1.0
        assert overlap.surface_dice(a, b, (2.1, 2.1)) == pytest.approx(0.5)  # 2 mm is the default


def test_surface_dice_of_shifted_cubes():
    n = 5
    surface, ring = n**3 - (n - 2) ** 3, 4 * n - 4
    along_x = box((1, 2, 1), (n, n, n)), box((2, 2, 1), (n, n, n))
    assert overlap.surface_dice(*along_x, (1.0, 1.0, 8.0), 0.0) == pytest.approx(ring * (n - 1) / surface)
    # Shifted by a slice, the outer slice of each is 8 mm away. In the slice before it, where one
    # cube has all pixels and the other its outline, the centre is 2 pixels from the outline.
    along_z = box((2, 2, 1), (n, n, n)), box((2, 2, 2), (n, n, n))
    for tolerance, missing in ((2.0, n * n), (1.9, n * n + 1), (0.0, n * n + (n - 2) ** 2), (8.0, 0)):
        got = overlap.surface_dice(*along_z, (1.0, 1.0, 8.0), tolerance)
        assert got == pytest.approx((surface - missing) / surface), tolerance


def test_the_tolerance_includes_itself_in_spite_of_rounding():
    a, b = box((2, 2), (3, 3)), box((5, 2), (3, 3))
    for pixel in (0.1, 0.7, 1.1, float(np.float32(0.1))):  # 3 x 0.1 is above 0.3 in binary
        assert overlap.surface_dice(a, b, (pixel, pixel), 3 * round(pixel, 3)) == 1.0
        assert overlap.surface_dice(a, b, (pixel, pixel), 2.99 * pixel) < 1.0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_dice_equals_brute_force(spacing):
    a, b = blobs(2, (12, 11, 5))
    distances = np.concatenate(brute_force(a, b, spacing))
    for tolerance in (0.0, 1.3, 2.0, 3.7, 9.0, 100.0):
        expected = sum(d <= tolerance + 1e-4 for d in distances) / len(distances)
        assert overlap.surface_dice(a, b, spacing, tolerance) == pytest.approx(expected, abs=1e-12)
        assert overlap.surface_dice(b, a, spacing, tolerance) == pytest.approx(expected, abs=1e-12)
    flat = overlap.surface_dice(a[..., 2], b[..., 2], spacing[:2])
    assert overlap.surface_dice(a[..., 2:3], b[..., 2:3], spacing) == flat  # one slice: in 2-D


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_medpy_agrees(seed, spacing):
    binary = pytest.importorskip("medpy.metric.binary", reason="medpy is an optional oracle")
    a, b = blobs(seed)
    score = overlap.score(a, b, spacing)
    assert score.dice == pytest.approx(binary.dc(b, a), abs=1e-12)
    assert score.hd95 == pytest.approx(binary.hd95(b, a, spacing), abs=1e-9)
    assert score.assd == pytest.approx(binary.assd(b, a, spacing), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("planar", [False, True])
def test_monai_agrees(seed, spacing, planar):
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is an optional oracle")
    torch = pytest.importorskip("torch", reason="MONAI needs torch")
    a, b = blobs(seed)
    if planar:
        a, b, spacing = a[..., 3], b[..., 3], spacing[:2]
    ta, tb = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (a, b))
    score = overlap.score(a, b, spacing)
    shared = {"include_background": True, "spacing": spacing}
    directed = metrics.compute_hausdorff_distance(tb, ta, percentile=95, **shared).item()
    symmetric = metrics.compute_average_surface_distance(tb, ta, symmetric=True, **shared).item()
    assert score.hd95_directed == pytest.approx(directed, rel=1e-6)  # MONAI returns float32
    assert score.assd == pytest.approx(symmetric, rel=1e-5)
    assert score.dice == pytest.approx(metrics.compute_dice(tb, ta).item(), rel=1e-6)
    # With MONAI's subvoxels, surfaces lie between voxels and are weighted by area: not comparable.
    for tolerance in (0.5, 2.0, 4.0):
        theirs = metrics.compute_surface_dice(tb, ta, class_thresholds=[tolerance], use_subvoxels=False, **shared)
        assert overlap.surface_dice(a, b, spacing, tolerance) == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.filterwarnings("ignore:the (ground truth|prediction):UserWarning")
def test_monai_agrees_on_empty_masks():
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is an optional oracle")
    torch = pytest.importorskip("torch", reason="MONAI needs torch")
    full, empty = box((2, 2, 1), (3, 3, 3)), box((0, 0, 0), (0, 0, 0))
    for a, b in ((full, empty), (empty, full), (empty, empty)):
        ta, tb = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (a, b))
        theirs = metrics.compute_surface_dice(tb, ta, [2.0], include_background=True, spacing=(1.0, 1.0, 8.0)).item()
        assert overlap.surface_dice(a, b, (1.0, 1.0, 8.0)) == pytest.approx(theirs, nan_ok=True)


def test_counts():
    full, empty = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    pairs = [(full, full), (full, empty), (full, empty), (empty, full), (empty, empty)]
    assert overlap.counts([overlap.score(a, b, (1, 1, 1)) for a, b in pairs]) == overlap.Counts(4, 2, 1)


def test_bad_input_is_refused():
    a = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="same shape"):
        overlap.score(a, a[:2], (1, 1, 1))
    for spacing in ((1, 1), (1, 1, 0), (1, 1, -2), (1, 1, float("nan"))):
        with pytest.raises(ValueError, match="spacing"):
            overlap.score(a, a, spacing)
    for tolerance in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance"):
            overlap.score(a, a, (1, 1, 1), tolerance)
    with pytest.raises(ValueError, match="empty"):
        overlap.surface_distances(a, a & False, (1, 1, 1))

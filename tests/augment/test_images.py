import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from morphojax import anatomy
from morphojax.augment import (
    FLIPS_ALLOWED,
    Augmentation,
    augment,
    check,
    draw,
    warp_linear,
    warp_matrix,
    warp_nearest,
)

KEY = jax.random.key(0)
EVERYTHING = Augmentation(
    rotation_degrees=40,
    scale=(0.8, 1.3),
    translation_fraction=0.1,
    crop=(0.4, 1.0),
    crop_aspect=(0.75, 4 / 3),
    flip_horizontal=0.5,
    flip_vertical=0.5,
    gamma=(0.5, 2.0),
    brightness=0.2,
    contrast=0.3,
    noise_sd=0.05,
    bias_field=0.3,
)


def images(batch=4, inner=(), height=17, width=21, channels=2, seed=0):
    return np.random.default_rng(seed).random((batch, *inner, height, width, channels), np.float32)


def pixel_affine(matrix, height, width):
    """Centred (y, x, 1) matrix -> the matrix and offset that scipy takes, from pixel index to pixel
    index.
    """
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    linear, shift = matrix[:2, :2].astype(np.float64), matrix[:2, 2].astype(np.float64)
    return linear, shift + middle - linear @ middle


def test_warp_equals_scipy():
    image = images()
    label = np.random.default_rng(1).integers(0, 6, image.shape[:-1]).astype(np.uint8)
    matrix = warp_matrix(draw(KEY, 4), EVERYTHING, 17, 21)
    warped, warped_label = warp_linear(image, matrix), warp_nearest(label, matrix)
    for b in range(4):
        linear, offset = pixel_affine(np.asarray(matrix[b]), 17, 21)
        for c in range(2):
            expected = scipy.ndimage.affine_transform(
                image[b, ..., c].astype(np.float64), linear, offset, order=1, mode="grid-constant"
            )
            np.testing.assert_allclose(warped[b, ..., c], expected, atol=1e-5)
        expected = scipy.ndimage.affine_transform(label[b], linear, offset, order=0, mode="grid-constant")
        assert np.mean(expected != 0) > 0.3  # the warped label is not empty
        np.testing.assert_array_equal(warped_label[b], expected)


def test_off_is_bit_equal():
    image = images(inner=(3,))
    label = np.random.default_rng(1).integers(0, 6, image.shape[:-1])
    for params in (Augmentation(), Augmentation(crop=(1, 1)), Augmentation(**{**vars(EVERYTHING), "probability": 0})):
        out, out_label = augment(KEY, image, label, params)
        np.testing.assert_array_equal(out, image)
        np.testing.assert_array_equal(out_label, label)
    # The same through the gather, with the identity matrix.
    eye = jnp.broadcast_to(jnp.eye(3), (4, 3, 3))
    np.testing.assert_array_equal(warp_linear(image, eye), image)
    np.testing.assert_array_equal(warp_nearest(label, eye), label)


@pytest.mark.parametrize(("name", "axis"), [("flip_vertical", 1), ("flip_horizontal", 2)])
def test_flips_are_exact(name, axis):
    image = images()
    label = np.random.default_rng(1).integers(0, 6, image.shape[:-1])
    out, out_label = augment(KEY, image, label, Augmentation(**{name: 1.0}))
    np.testing.assert_array_equal(out, np.flip(image, axis))
    np.testing.assert_array_equal(out_label, np.flip(label, axis))


def disc(height=64, width=64, centre=(31.5, 31.5), radius=10.0):
    y, x = np.mgrid[:height, :width]
    return ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2).astype(np.float32)


def test_scale_is_magnification():
    image = np.tile(disc()[None, ..., None], (2, 1, 1, 1))
    out, _ = augment(KEY, image, None, Augmentation(scale=(1.5, 1.5)))
    assert np.asarray(out)[0].sum() / image[0].sum() == pytest.approx(1.5**2, rel=0.03)


def test_crop_keeps_a_fraction_of_the_area_inside_the_image():
    matrix = np.asarray(warp_matrix(draw(KEY, 500), Augmentation(crop=(0.2, 0.5), crop_aspect=(0.75, 4 / 3)), 40, 40))
    sides = matrix[:, [0, 1], [0, 1]]
    area, aspect = sides.prod(1), sides[:, 1] / sides[:, 0]
    assert 0.2 <= area.min() < 0.21 and 0.49 < area.max() <= 0.5 + 1e-6
    assert 0.75 - 1e-5 <= aspect.min() < 0.77 and 1.3 < aspect.max() <= 4 / 3 + 1e-5
    border = (
        np.abs(matrix[:, :2, 2]) + sides * 20
    )  # distance of the crop's border from the image centre; 20 is the image's border
    assert border.max() <= 20 + 1e-4 and border.max() > 19.9


def test_ranges_of_rotation_scale_and_translation():
    params = Augmentation(rotation_degrees=30, scale=(0.5, 2.0))
    matrix = np.asarray(warp_matrix(draw(KEY, 2000), params, 40, 60))
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert scipy.stats.kstest(angle, scipy.stats.uniform(-30, 60).cdf).pvalue > 1e-3
    log_scale = -np.log2(np.linalg.det(matrix[:, :2, :2])) / 2
    assert scipy.stats.kstest(log_scale, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    shift = np.asarray(warp_matrix(draw(KEY, 2000), Augmentation(translation_fraction=0.1), 40, 60))[:, :2, 2]
    for axis, size in enumerate((40, 60)):
        assert scipy.stats.kstest(shift[:, axis], scipy.stats.uniform(-0.1 * size, 0.2 * size).cdf).pvalue > 1e-3


def test_label_follows_image():
    label = disc(centre=(25, 38), radius=12)
    params = Augmentation(
        **{**vars(EVERYTHING), "gamma": (1, 1), "noise_sd": 0, "bias_field": 0, "brightness": 0, "contrast": 0}
    )
    image, out = augment(KEY, np.tile(label[None, ..., None], (8, 1, 1, 1)), np.tile(label[None], (8, 1, 1)), params)
    disagree = (np.asarray(image)[..., 0] > 0.5) != (np.asarray(out) > 0.5)
    assert disagree.mean() < 0.01 < np.asarray(out).mean()


def test_slices_of_a_subject_share_a_draw_and_subjects_do_not():
    one = images(batch=1, height=32, width=32, channels=1)
    image = np.tile(one[:, None], (3, 4, 1, 1, 1))
    out = np.asarray(augment(KEY, image, None, Augmentation(**{**vars(EVERYTHING), "noise_sd": 0}))[0])
    assert np.all(out == out[:, :1])
    assert np.abs(out[0] - out[1]).max() > 0.1
    noisy = np.asarray(augment(KEY, 0 * image + 0.5, None, Augmentation(noise_sd=0.05))[0])
    assert np.all(np.any(noisy[:, 0] != noisy[:, 1], axis=(1, 2, 3)))


def test_gamma_brightness_and_contrast_by_hand():
    image = images(batch=2)
    out, _ = augment(KEY, image, None, Augmentation(gamma=(0.7, 0.7)))
    np.testing.assert_allclose(out, image**0.7, rtol=1e-5)
    zero, _ = augment(KEY, 0 * image, None, Augmentation(gamma=(0.3, 3.0)))
    assert np.all(np.asarray(zero) == 0)
    bright = np.asarray(augment(KEY, image / 2, None, Augmentation(brightness=0.3))[0]) / (image / 2)
    assert np.ptp(bright[0]) < 1e-5 and 0.7 < bright[0].mean() < 1.3 and abs(bright[0].mean() - bright[1].mean()) > 1e-3
    middle = 0.4 + 0.2 * image
    contrast = np.asarray(augment(KEY, middle, None, Augmentation(contrast=0.5))[0])
    np.testing.assert_allclose(contrast.mean((1, 2, 3)), middle.mean((1, 2, 3)), rtol=1e-5)
    ratio = contrast.std((1, 2, 3)) / middle.std((1, 2, 3))
    assert np.all((ratio > 0.5) & (ratio < 1.5)) and np.all(np.abs(ratio - 1) > 1e-3)


def test_noise_has_its_standard_deviation():
    image = np.full((200, 32, 32, 1), 0.5, np.float32)
    sd = (np.asarray(augment(KEY, image, None, Augmentation(noise_sd=0.1))[0]) - image).std((1, 2, 3))
    assert scipy.stats.kstest(sd, scipy.stats.uniform(0, 0.1).cdf).pvalue > 1e-3


def test_bias_field_is_smooth_and_bounded():
    image = np.full((50, 33, 33, 1), 0.25, np.float32)
    gain = np.log(np.asarray(augment(KEY, image, None, Augmentation(bias_field=0.6))[0])[..., 0] / 0.25)
    assert 0.3 < np.abs(gain).max() <= 0.6
    assert np.abs(np.diff(gain, axis=1)).max() < 0.06
    third = np.diff(gain, n=3, axis=1)  # zero for a quadratic
    assert np.abs(third).max() < 1e-5


def test_output_stays_in_range_and_type():
    image = images(inner=(2,)).astype(jnp.bfloat16)
    out, label = augment(KEY, image, None, EVERYTHING)
    assert label is None and out.dtype == jnp.bfloat16 and out.shape == image.shape
    assert np.all((np.asarray(out) >= 0) & (np.asarray(out) <= 1))


def test_probability_is_per_example():
    image = images(batch=400, height=8, width=8)
    out, _ = augment(KEY, image, None, Augmentation(**{**vars(EVERYTHING), "probability": 0.3}))
    touched = np.any(np.asarray(out) != image, axis=(1, 2, 3))
    assert 0.22 < touched.mean() < 0.38


def test_same_key_same_result_and_other_key_other_result():
    image = images()
    a, b, c = (np.asarray(augment(k, image, None, EVERYTHING)[0]) for k in (KEY, jax.random.key(0), jax.random.key(1)))
    np.testing.assert_array_equal(a, b)
    assert np.all(np.any(a != c, axis=(1, 2, 3)))


def test_turning_one_transform_off_does_not_change_the_other_draws():
    both = np.asarray(warp_matrix(draw(KEY, 8), Augmentation(rotation_degrees=30, scale=(0.5, 2)), 20, 20))
    alone = np.asarray(warp_matrix(draw(KEY, 8), Augmentation(rotation_degrees=30), 20, 20))
    angle = lambda m: np.arctan2(m[:, 1, 0], m[:, 0, 0])  # noqa: E731
    np.testing.assert_allclose(angle(both), angle(alone), atol=1e-5)


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_photometric_after_geometric_is_the_full_augmentation(probability):
    """Not compiled: the compiler may fuse, and so round, the full augmentation differently."""
    image = images(batch=8, inner=(2,))
    params = Augmentation(**{**vars(EVERYTHING), "probability": probability})
    with jax.disable_jit():
        full, _ = augment(KEY, image, None, params)
        warped, _ = augment(KEY, image, None, params.geometric)
        both, _ = augment(KEY, warped, None, params.photometric)
    np.testing.assert_allclose(both, full, atol=1e-7)
    changed = [np.any(np.asarray(x) != image, axis=(1, 2, 3, 4)) for x in (full, warped)]
    np.testing.assert_array_equal(*changed)
    assert probability == 1 or 0 < changed[0].sum() < 8


def test_views_share_geometry_and_differ_in_intensity():
    image = images()
    warped, _ = augment(KEY, image, None, EVERYTHING.geometric)
    views = [augment(jax.random.key(i), warped, None, EVERYTHING.photometric)[0] for i in (1, 2)]
    assert np.abs(views[0] - views[1]).max() > 0.1
    linear = Augmentation(
        **{**vars(EVERYTHING), "gamma": (1, 1), "contrast": 0, "noise_sd": 0, "bias_field": 0}
    ).photometric
    views = [augment(jax.random.key(i), warped / 2, None, linear)[0] for i in (1, 2)]
    ratio = np.where(warped > 0.1, views[0] / np.maximum(views[1], 1e-3), np.nan)
    assert np.nanmax(np.nanstd(ratio, axis=(1, 2, 3))) < 1e-5  # a constant factor: each pixel shows the same tissue


def test_geometric_and_photometric_fields():
    params = Augmentation(**{**vars(EVERYTHING), "probability": 0.4})
    geometric, photometric = params.geometric, params.photometric
    assert geometric.warps and not geometric.recolours and photometric.recolours and not photometric.warps
    assert geometric.probability == photometric.probability == 0.4
    for name, value in vars(params).items():  # each field is on in one and off in the other
        kept = [getattr(part, name) == value for part in (geometric, photometric)]
        assert kept == [True, True] if name == "probability" else sum(kept) == 1
    assert geometric.geometric == geometric and geometric.photometric == Augmentation(probability=0.4)


def test_sharding_does_not_change_the_result():
    program = """
        import jax, numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from morphojax.augment import augment, corrupt
        from tests.augment.test_images import EVERYTHING, KEY, images
        assert jax.device_count() == 4
        mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
        put = lambda x: jax.device_put(x, NamedSharding(mesh, P("data")))
        image = images(batch=8, inner=(2,))
        label = (image[..., 0] > 0.5).astype(np.uint8)
        full = augment(KEY, image, label, EVERYTHING)
        sharded = augment(KEY, put(image), put(label), EVERYTHING)
        assert len(sharded[0].sharding.device_set) == 4, sharded[0].sharding
        np.testing.assert_allclose(full[0], sharded[0], atol=1e-6)
        np.testing.assert_array_equal(full[1], sharded[1])
        values, marginal = np.random.default_rng(0).normal(size=(2, 8, 10)).astype(np.float32)
        table = (values, values > 1, marginal, marginal > 1)
        for a, b in zip(corrupt(KEY, *table, 0.3), corrupt(KEY, put(table[0]), put(table[1]), *table[2:], 0.3)):
            np.testing.assert_array_equal(a, b)
    """
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=env, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_unanatomical_flips_need_permission():
    assert set(FLIPS_ALLOWED) == set(anatomy.PLANES)
    check(("sax",), EVERYTHING, allow_unanatomical=True)
    check(("la_2ch",), EVERYTHING)
    check(("sax",), Augmentation(rotation_degrees=45))
    with pytest.raises(ValueError, match=r"flip_horizontal=0.5 .*sax.*allow_unanatomical"):
        check(("sax",), Augmentation(flip_horizontal=0.5))
    with pytest.raises(ValueError, match="flip_vertical"):
        check(("la_4ch",), Augmentation(flip_vertical=0.1))
    with pytest.raises(ValueError, match="la_3ch"):
        check(("la_3ch",), Augmentation())


@pytest.mark.parametrize(
    "field",
    [
        {"rotation_degrees": -1},
        {"scale": (1.2, 0.8)},
        {"scale": (0, 1)},
        {"crop": (0.5, 1.5)},
        {"gamma": (-1, 1)},
        {"probability": 1.5},
        {"noise_sd": float("nan")},
        {"brightness": 2},
    ],
)
def test_bad_fields_are_named(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        Augmentation(**field)


def test_bad_arguments():
    with pytest.raises(TypeError, match="rotaton"):
        Augmentation(rotaton=3)  # pyrefly: ignore
    assert Augmentation(scale=[0.9, 1.1]) == Augmentation(scale=(0.9, 1.1))
    with pytest.raises(TypeError, match="uint8"):
        augment(KEY, np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="label"):
        augment(KEY, images(), np.zeros((4, 8, 8), np.uint8))

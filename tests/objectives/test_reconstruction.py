import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import reconstruction as objectives
from tests.objectives import checks
from tests.objectives.checks import gradient_of, value_and_gradient_of

masked_patches = checks.compiled(objectives.masked_patches)
patches = checks.compiled(objectives.patches)
unpatch = checks.compiled(objectives.unpatch)

VALID = np.array([True, True, False, True, True, True, False, True])
PATCH, SIZE = 2, (4, 6)


def batch(n=8, channels=3, seed=0):
    """prediction [n,6,4C], image [n,4,6,C], masked [n,6]."""
    rng = np.random.default_rng(seed)
    image = (0.3 + 0.2 * rng.normal(size=(n, *SIZE, channels))).astype(np.float32)
    prediction = rng.normal(size=(n, 6, PATCH**2 * channels)).astype(np.float32)
    return prediction, image, rng.random((n, 6)) < 0.6


def reference_masked_patches(prediction, image, masked, valid=None, normalise=True):
    """(loss, fraction of variance explained), pixel by pixel."""
    n, h, w, channels = image.shape
    errors, targets = [], []
    for i in range(n):
        for row in range(h // PATCH):
            for column in range(w // PATCH):
                p = row * (w // PATCH) + column
                if not masked[i, p] or (valid is not None and not valid[i]):
                    continue
                pixels = []
                for y in range(PATCH):
                    for x in range(PATCH):
                        pixels += [image[i, row * PATCH + y, column * PATCH + x, c] for c in range(channels)]
                if normalise:
                    mean = sum(pixels) / len(pixels)
                    variance = sum((v - mean) ** 2 for v in pixels) / len(pixels)
                    pixels = [(v - mean) / math.sqrt(variance + 1e-6) for v in pixels]
                targets += pixels
                errors += [(prediction[i, p, d] - v) ** 2 for d, v in enumerate(pixels)]
    centre = sum(targets) / len(targets)
    return sum(errors) / len(errors), 1 - sum(errors) / sum((v - centre) ** 2 for v in targets)


def case(name, normalise=True, valid=None, channels=3):
    prediction, image, masked = batch(channels=channels)
    fixed = {"image": image, "masked": masked}
    if valid is not None:
        prediction[~valid] = image[~valid] = np.nan
        fixed["valid"] = valid
    return checks.Case(
        name,
        jax.jit(lambda **arrays: masked_patches(**arrays, patch=PATCH, normalise=normalise)[0]),
        lambda **arrays: reference_masked_patches(**arrays, normalise=normalise)[0],
        learned={"prediction": prediction},
        fixed=fixed,
    )


CASES = [
    case("reconstruction: normalised"),
    case("reconstruction: pixels", normalise=False, channels=1),
    case("reconstruction: padding", valid=VALID),
]


def test_patches_by_hand_and_back():
    image = jnp.arange(2 * 4 * 6 * 2).reshape(2, 4, 6, 2)
    cut = patches(image, 2)
    assert cut.shape == (2, 6, 8)
    np.testing.assert_array_equal(cut[1, 4], np.asarray(image)[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(unpatch(cut, (4, 6), 2), image)
    np.testing.assert_array_equal(patches(unpatch(cut, (4, 6), 2), 2), cut)
    np.testing.assert_array_equal(patches(image, 1)[0, 7], np.asarray(image)[0, 1, 1])


@pytest.mark.parametrize("normalise", [True, False])
def test_variance_explained_equals_the_reference(normalise):
    prediction, image, masked = batch()
    target = np.asarray(patches(image, PATCH))
    prediction = (0.1 * prediction + (target - target.mean()) / target.std() * (1 if normalise else 0.2)).astype(
        np.float32
    )
    expected = reference_masked_patches(prediction, image, masked, normalise=normalise)[1]
    _, metrics = masked_patches(prediction, image, masked, PATCH, normalise)
    assert metrics["variance_explained"] == pytest.approx(expected, rel=1e-4)
    assert metrics["variance_explained"].dtype == jnp.float32 and metrics["variance_explained"].shape == ()


def test_variance_explained_of_perfect_and_constant_predictions():
    _, image, masked = batch()
    target = np.asarray(patches(image, PATCH))
    _, metrics = masked_patches(target, image, masked, PATCH, normalise=False)
    assert metrics["variance_explained"] == 1
    constant = np.full_like(target, target[masked].mean())
    _, metrics = masked_patches(constant, image, masked, PATCH, normalise=False)
    assert metrics["variance_explained"] == pytest.approx(0, abs=1e-5)


def test_one_patch_by_hand():
    # Pixels 0, 2, 4, 6: mean 3, variance 5. The prediction is correct except for one pixel, which
    # is off by 2.
    image = jnp.array([0.0, 2, 4, 6]).reshape(1, 2, 2, 1)
    target = (np.array([0, 2, 4, 6]) - 3) / math.sqrt(5)
    prediction = jnp.asarray(target + np.array([0, 0, 2, 0]), jnp.float32).reshape(1, 1, 4)
    loss, _ = masked_patches(prediction, image, jnp.ones((1, 1), bool), 2)
    assert loss == pytest.approx(1, rel=1e-5)
    grad = gradient_of(lambda p: masked_patches(p, image, jnp.ones((1, 1), bool), 2)[0])(prediction)
    np.testing.assert_allclose(grad[0, 0], [0, 0, 1, 0], atol=1e-5)  # 2 * 2 / 4, towards the target


def test_normalised_targets_ignore_brightness_and_contrast():
    prediction, image, masked = batch()
    expected = float(masked_patches(prediction, image, masked, PATCH)[0])
    assert masked_patches(prediction, 5 * image + 3, masked, PATCH)[0] == pytest.approx(expected, rel=1e-3)


def test_visible_patches_have_no_influence():
    prediction, image, masked = batch()
    program = value_and_gradient_of(lambda p, image: masked_patches(p, image, masked, PATCH), has_aux=True)
    expected, _ = program(prediction, image)
    visible = ~masked
    prediction[visible] = np.nan
    cut = np.array(patches(image, PATCH))
    cut[visible] = np.nan
    with_nan = np.asarray(unpatch(jnp.asarray(cut), SIZE, PATCH))
    (loss, metrics), grad = program(prediction, with_nan)
    assert loss == expected[0] and metrics == expected[1]
    assert np.all(np.asarray(grad)[visible] == 0) and np.all(np.asarray(grad)[masked] != 0)


def test_the_image_gets_no_gradient():
    prediction, image, masked = batch()
    grad = gradient_of(lambda x: masked_patches(prediction, x, masked, PATCH)[0])(jnp.asarray(image))
    assert np.all(np.asarray(grad) == 0)


def test_flat_patches_are_finite_and_their_target_is_zero():
    prediction, image, masked = batch()
    loss, metrics = masked_patches(prediction, np.full_like(image, 0.1), masked, PATCH)
    assert loss == pytest.approx(np.mean(np.square(prediction[masked])), rel=1e-4)
    loss, metrics = masked_patches(prediction, 0 * image, masked, PATCH)
    assert metrics["variance_explained"] == 0


@pytest.mark.parametrize("nothing", ["masked", "valid"])
def test_nothing_to_predict_is_zero_with_zero_gradient(nothing):
    prediction, image, masked = batch()
    arrays = {"masked": masked, "valid": np.ones(8, bool)} | {
        nothing: np.zeros_like(masked if nothing == "masked" else VALID)
    }
    (loss, metrics), grad = value_and_gradient_of(
        lambda p: masked_patches(p, image, patch=PATCH, **arrays), has_aux=True
    )(jnp.asarray(prediction))
    assert loss == 0 and metrics["variance_explained"] == 0 and np.all(np.asarray(grad) == 0)


def test_low_precision_one_image_and_integers_are_computed_in_float32():
    prediction, image, masked = batch(n=1)
    image = np.round(100 * image).astype(np.uint8)
    prediction = jnp.asarray(prediction, jnp.bfloat16)
    loss, _ = masked_patches(prediction, image, masked, PATCH)
    expected, _ = masked_patches(prediction.astype(jnp.float32), image.astype(np.float32), masked, PATCH)
    assert loss.dtype == jnp.float32 and loss == expected


def test_bad_arguments():
    prediction, image, masked = batch()
    good = dict(prediction=prediction, image=image, masked=masked, patch=PATCH)
    for message, arguments in (
        ("does not divide", dict(patch=4)),
        ("does not divide", dict(patch=0)),
        ("prediction", dict(prediction=prediction[:, 1:])),
        ("prediction", dict(masked=masked[:, 1:])),
        ("valid", dict(valid=jnp.ones(7, bool))),
        ("image", dict(image=image[..., 0])),
    ):
        with pytest.raises(ValueError, match=message):
            masked_patches(**good | arguments)
    for size, patch, message in (((4, 5), 2, "does not divide"), ((4, 8), 2, "4 x 8"), ((0, 6), 2, "does not divide")):
        with pytest.raises(ValueError, match=message):
            unpatch(jnp.zeros((2, 6, 4)), size, patch)
    with pytest.raises(ValueError, match="in patches"):
        unpatch(jnp.zeros((2, 6, 5)), (4, 6), 2)

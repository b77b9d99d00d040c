"""Occlusion of functions that are known, and its weight inside a structure."""

import numpy as np
import pytest

from analysis.attribution import image
from morphojax.inference.similarity import SimilarityError

GREY = np.array([0.25], np.float32)


def test_only_the_patch_of_the_one_pixel_that_a_function_reads_has_an_effect():
    images = np.random.default_rng(0).uniform(size=(3, 8, 12, 1)).astype(np.float32)
    changes = image.occlusion(lambda x: 2 * x[:, 1, 5, 10, 0], images, np.ones(3, bool), 4, GREY)
    expected = np.zeros((3, 2, 3))
    expected[1, 1, 2] = 2 * (images[1, 5, 10, 0] - GREY[0])
    np.testing.assert_allclose(changes, expected, rtol=1e-5)
    inside = np.zeros((3, 8, 12), bool)
    inside[1, 4:6, 8:12] = True  # half of the patch
    effect, area = image.preference(changes, inside, np.ones(3, bool))
    assert (effect, area) == pytest.approx((0.5, 8 / (3 * 96)))


def test_images_that_do_not_exist_have_no_effect():
    images = np.ones((2, 4, 4, 1), np.float32)
    changes = image.occlusion(lambda x: x.sum((1, 2, 3, 4)), images, np.array([True, False]), 2, GREY)
    np.testing.assert_allclose(changes, [[[3, 3], [3, 3]], [[0, 0], [0, 0]]])


def test_an_even_effect_prefers_nothing():
    inside = np.random.default_rng(0).uniform(size=(2, 8, 8)) < 0.3
    effect, area = image.preference(np.full((2, 4, 4), -0.5), inside, np.ones(2, bool))
    assert effect == pytest.approx(area) == pytest.approx(inside.mean())


def test_images_without_annotation_do_not_count():
    changes, inside = np.ones((2, 2, 2)), np.zeros((2, 4, 4), bool)
    changes[1] = 100
    inside[0, :2] = True
    assert image.preference(changes, inside, np.array([True, False])) == pytest.approx((0.5, 0.5))
    assert np.isnan(image.preference(changes, inside, np.zeros(2, bool))).all()
    assert np.isnan(image.preference(0 * changes, inside, np.ones(2, bool))).all()


def test_patches_must_divide_the_images():
    image.check_patch(8, 32)
    with pytest.raises(SimilarityError, match=r"--patch=5 does not divide images of 32 pixels: give one of \[2, 4"):
        image.check_patch(5, 32)

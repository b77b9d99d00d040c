"""Connected components on the device against scipy."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from morphojax.objectives.components import largest_component, largest_components

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("filled", [0.2, 0.5, 0.9])
def test_equals_scipy(filled: float) -> None:
    """Random masks: many components; about half filled, they are winding."""
    mask = RNG.random((4, 3, 24, 20)) < filled
    kept = np.asarray(jax.jit(largest_component)(mask))
    for one, own in zip(mask, kept, strict=True):
        components, _ = ndimage.label(one)
        sizes = np.bincount(components.ravel())[1:]
        assert own.sum() == sizes.max()
        assert set(np.unique(components[own])) == {components[own][0]} != {0}


def test_a_spiral_is_one_component() -> None:
    spiral = np.zeros((15, 15), bool)
    for ring in range(0, 7, 2):
        spiral[ring, ring : 15 - ring] = spiral[ring : 15 - ring, 14 - ring] = True
        spiral[14 - ring, ring : 15 - ring] = spiral[ring + 2 : 15 - ring, ring] = True
        spiral[ring + 2, ring : ring + 2] = True
    assert ndimage.label(spiral)[1] == 1
    np.testing.assert_array_equal(largest_component(spiral[None, None])[0, 0], spiral)


def test_every_class_and_stack_has_its_own() -> None:
    labels = np.zeros((2, 1, 6, 6), np.int32)
    labels[0, 0, 0, :2], labels[0, 0, 3, 3] = 1, 1
    labels[0, 0, 5, :3], labels[1, 0, 2, 2] = 2, 2
    kept = np.asarray(largest_components(labels, 3))
    labels[0, 0, 3, 3] = 0
    np.testing.assert_array_equal(kept, labels)

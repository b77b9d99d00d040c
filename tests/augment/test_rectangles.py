"""Random rectangles: sides, place, independence."""

import jax
import numpy as np
import pytest

from morphojax.augment.rectangles import rectangles


@pytest.mark.parametrize("shape", [(200, 20, 30), (100, 33, 17)])
def test_sides_and_place(shape: tuple[int, int, int]) -> None:
    inside = np.asarray(rectangles(jax.random.key(0), shape, (0.3, 0.8)))
    assert inside.shape == shape
    for axis, size in ((1, shape[1]), (2, shape[2])):
        line = inside.any(axis=3 - axis)
        sides = line.sum(1)
        assert round(0.3 * size) <= sides.min() < sides.max() <= round(0.8 * size)
        starts, ends = line.argmax(1), size - line[:, ::-1].argmax(1)
        assert ((ends - starts) == sides).all()  # in one piece
        assert starts.min() == 0 and ends.max() == size  # anywhere
    assert (inside.sum((1, 2)) == inside.any(1).sum(1) * inside.any(2).sum(1)).all()
    assert len(np.unique(inside.reshape(len(inside), -1), axis=0)) > 0.9 * len(inside)

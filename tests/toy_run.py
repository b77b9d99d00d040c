"""A segmentation run without training: the grey value of a toy heart determines the structure."""

import numpy as np

from morphojax import anatomy
from morphojax.data.geometry import Grid
from morphojax.inference.segmenter import Run

GREY = (0, 60, 120, 180, 240)  # uint8, by class


def toy_run(plane="sax", structures=anatomy.PLANE_STRUCTURES["sax"], size=48, spacing=2.0, batch_size=4):
    def apply(image):
        grey = np.array(GREY[: 1 + len(structures)], np.float32) / 255
        assert image.shape == (batch_size, size, size, 1) and image.dtype == np.float32
        logits = -1e3 * (image - grey) ** 2
        logits[..., 0] = -1e3 * np.minimum(image, 1 - image)[..., 0] ** 2  # the white corner is background too
        return logits

    sizes = {plane: {s: {"min": 1.0, "max": 500.0, "subjects": 100} for s in structures}}
    grid, percentiles = Grid(spacing, size), (0.0, 100.0)
    return Run((plane,), grid, percentiles, tuple(structures), apply, batch_size=batch_size, sizes=sizes)


def toy_label(shape=(40, 36, 5), radius=6.0, structures=anatomy.PLANE_STRUCTURES["sax"]):
    """A disc in a ring beside a disc, canonical ids; the first and last slice of a stack
    are empty.
    """
    x, y = np.meshgrid(*(np.arange(n) - n // 2 for n in shape[:2]), indexing="ij")
    distance = np.hypot(x, y)
    first, second, third = (anatomy.LABEL_ID[s] for s in (*structures, *structures, *structures)[:3])
    section = np.where(distance < radius, first, np.where(distance < radius + 4, second, 0))
    section = np.where((np.hypot(x + radius + 7, y) < 5) & (section == 0), third, section)
    label = np.repeat(section[..., None], shape[2], axis=2).astype(np.uint8)
    if shape[2] > 2:
        label[..., [0, -1]] = 0
    return label


def toy_image(label, structures=anatomy.PLANE_STRUCTURES["sax"]):
    """float32, from 0 to one white corner voxel of 255, so that normalising keeps the grey
    values.
    """
    grey = np.zeros(256, np.float32)
    for i, structure in enumerate(structures, start=1):
        grey[anatomy.LABEL_ID[structure]] = GREY[i]
    image = grey[label]
    image[0, 0, 0] = 255
    return image

"""A segmentation run without training: the grey value of a toy heart determines the structure."""

import json

import numpy as np

from morphojax import anatomy
from morphojax.data.geometry import Grid
from morphojax.inference.segmenter import Run
from morphojax.tasks import config_files

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


def write_run(
    folder, dataset, fingerprint="toy", planes=("sax",), structures=anatomy.PLANE_STRUCTURES["sax"], **config
):
    """The files that describe a run, of the shipped config `segment_sax` with other values by
    dotted key, and a log of four steps.
    """
    changes = {"data.dataset": str(dataset), "data.plane": ",".join(planes), "workdir": str(folder), "steps": 4}
    made = config_files.load("segment_sax")
    made.update_from_flattened_dict(changes | config)
    files = {
        "config.json": made.to_dict(),
        "environment.json": {"python": "3.11.7", "packages": {"jax": "0.10.2", "grain": None}, "devices": ["cpu"]},
        "preprocessing.json": {
            "planes": list(planes),
            "structures": list(structures),
            "channels": "frame",
            "grid": {"spacing_mm": 2.0, "size": 48},
            "percentiles": [0.0, 100.0],
            "measures": [],
            "dataset_fingerprint": fingerprint,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    rows = [{"step": step, "train/loss": 1 / step} for step in range(1, 5)] + [{"step": 4, "val/dice": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

"""A dataset whose pixels say where they come from: every slice holds (subject, phase, z) as its
first three values.
"""

import numpy as np
import pandas as pd

from morphojax.anatomy import PHASES
from morphojax.data.geometry import Grid, place
from morphojax.data.store.dataset import Dataset, Manifest, encode_native
from morphojax.data.store.records import ShardWriter, encode
from morphojax.data.tables.schema import Schema
from tests.data.input.streams import pretraining, segmentation, stacks

SIZE = 8
# subject -> phase -> slices. 3: no short axis at all; 5: no mid; 6: ED alone; 7: ES shorter than
# ED, one mid slice
STACKS = {
    0: {"ED": 9, "mid": 9, "ES": 9},
    1: {"ED": 4, "mid": 4, "ES": 4},
    2: {"ED": 1, "mid": 1, "ES": 1},
    3: {},
    4: {"ED": 7, "mid": 7, "ES": 7},
    5: {"ED": 5, "ES": 5},
    6: {"ED": 6},
    7: {"ED": 8, "mid": 1, "ES": 3},
    8: {"ED": 6, "mid": 6, "ES": 6},
}
UNLABELLED = {4, 8}
STRUCTURES = ("lv_cavity", "lv_myocardium", "rv_cavity")
VALUES = np.arange(18, dtype=np.float32).reshape(9, 2)
MISSING = np.arange(18).reshape(9, 2) % 5 == 0
# subject, phase (ED, ES), structure; of 1 nothing is known, and of 4 one volume. One of 8 is larger
# than its image.
VOLUMES = (np.arange(36, dtype=np.float32).reshape(9, 2, 2) + 10) / 100
VOLUMES[1], VOLUMES[4], VOLUMES[4, 1, 0], VOLUMES[8, 0, 1] = np.nan, np.nan, 0.07, 100
ALL = range(9)


def make_dataset(root):
    rows, first = [], 0
    writer, native = ShardWriter(root, "sax/slices", per_shard=50), ShardWriter(root, "sax/native", per_shard=5)
    for subject, phases in STACKS.items():
        for phase, n in phases.items():
            labelled = phase != "mid" and subject not in UNLABELLED
            rows.append((subject, phase, first, n, "lv_cavity rv_cavity" if labelled else "", labelled))
            first += n
            affine = np.diag([2.0, 2.0, slice_distance(subject, phase), 1.0])
            placement = place(np.zeros((20, 20, n)), affine, Grid(1.5, SIZE))
            native.write(encode(encode_native(np.ones((20, 20, n), np.uint8) if labelled else None, placement)))
            for z in range(n):
                image = np.zeros((SIZE, SIZE), np.uint8)
                image[0, :3] = subject, PHASES.index(phase), z
                label = np.full((SIZE, SIZE), z % 4 if labelled else 0, np.uint8)
                writer.write(encode({"image": image, "label": label}))
    shards, natives = {"sax": writer.close()}, {"sax": native.close()}
    assert len(shards["sax"]) == 3
    manifest = Manifest(
        "test", Grid(1.5, SIZE), (1.0, 99.0), ("sax",), {}, Schema(()), {}, {}, files=(), slices=shards, native=natives
    )
    table = pd.DataFrame(rows, columns=["subject", "phase", "first", "slices", "structures", "labelled"])
    splits = np.array(["train"] * 6 + ["val", "val", "test"])
    return Dataset(root, manifest, tuple("abcdefghi"), splits, pd.DataFrame(index=range(9)), {"sax": table})


def slice_distance(subject, phase):
    return 5.0 + subject + 10 * PHASES.index(phase)


def pretrain(dataset, **options):
    defaults = {"planes": ("sax",), "values": VALUES, "missing": MISSING, "batch_size": 4, "seed": 3, "train": True}
    return pretraining(dataset, **defaults | {"subjects": ALL} | options)


def segment(dataset, **options):
    defaults = {
        "planes": ("sax",),
        "structures": STRUCTURES,
        "subjects": ALL,
        "batch_size": 6,
        "seed": 3,
        "train": True,
    }
    return segmentation(dataset, **defaults | options)


def whole_stacks(dataset, **options):
    defaults = {"plane": "sax", "subjects": ALL, "volumes": VOLUMES, "batch_size": 4, "seed": 3, "train": True}
    return stacks(dataset, **defaults | options)


def take(stream, n):
    batches = [next(stream) for _ in range(n)]
    stream.close()
    return batches


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def origin(image):
    """[..., H, W, C] -> [..., C, (subject, phase, z)]"""
    return np.moveaxis(image[..., 0, :3, :], -1, -2)

"""Streams of whole stacks, on a dataset whose pixels say where they come from."""

import numpy as np
import pytest

from morphojax.anatomy import PHASES
from morphojax.data.input.stream import StreamError
from tests.data.input.origins import SIZE, STACKS, VOLUMES, assert_same, origin, slice_distance, take, whole_stacks


def test_stacks_without_volumes(dataset, caplog):
    with caplog.at_level("INFO"):
        without, known = (take(whole_stacks(dataset, volumes=v), 3) for v in (None, VOLUMES))
    assert caplog.text.count("the table has a volume") == 1  # of the second stream
    assert [batch.pop("volume").shape for batch in without] == [(4, 0)] * 3
    assert_same(without, [{name: x for name, x in batch.items() if name != "volume"} for batch in known])


def test_stacks_batch(dataset, caplog):
    with caplog.at_level("INFO"):
        (batch,) = take(whole_stacks(dataset), 1)
    assert "1 of 9 subjects" in caplog.text  # 3 has no stack
    assert "a volume of 7 of 8 subjects" in caplog.text
    shapes = {k: (v.shape, v.dtype) for k, v in batch.items()}
    assert shapes == {
        "image": ((4, 9, SIZE, SIZE, 1), np.uint8),
        "slice_mask": ((4, 9), bool),
        "position": ((4, 9), np.float32),
        "volume": ((4, 2), np.float32),
        "voxel_size": ((4,), np.float32),
        "subject": ((4,), np.int32),
        "valid": ((4,), bool),
    }


def check_stack(batch, i):
    """All of one stack, in order, with what belongs to that subject at that frame; returns
    (subject, phase).
    """
    origins, mask = origin(batch["image"][i])[:, 0], batch["slice_mask"][i]
    subject, phase = int(batch["subject"][i]), PHASES[origins[0, 1]]
    count = STACKS[subject][phase]
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < count)
    assert (origins[mask] == [(subject, PHASES.index(phase), z) for z in range(count)]).all()
    assert (batch["image"][i][~mask] == 0).all() and (batch["position"][i][~mask] == 0).all()
    expected = np.arange(count) / (count - 1) if count > 1 else [0.5]
    np.testing.assert_allclose(batch["position"][i][mask], expected, atol=1e-6)
    known = VOLUMES[subject, ("ED", "ES").index(phase)].copy()
    known[(known > 50) | (count == 1)] = np.nan  # larger than the image; one slice is no heart
    np.testing.assert_array_equal(batch["volume"][i], known)
    assert batch["voxel_size"][i] == pytest.approx(1.5**2 * slice_distance(subject, phase) / 1000)
    return subject, phase


def test_stacks_in_training(dataset):
    seen = {check_stack(batch, i) for batch in take(whole_stacks(dataset), 30) for i in range(4)}
    assert seen == {(s, p) for s in (0, 1, 2, 4, 5, 7, 8) for p in ("ED", "ES")} | {(6, "ED")}


def test_stacks_in_evaluation(dataset):
    stream = whole_stacks(dataset, train=False, frames=("ES", "ED"), volumes=VOLUMES[:, ::-1], batch_size=5)
    batches = list(stream)
    stream.close()
    assert [b["valid"].tolist() for b in batches] == [[True] * 5, [True] * 3 + [False] * 2]
    seen = [check_stack(b, i) for b in batches for i in range(5) if b["valid"][i]]
    assert seen == [(s, "ES" if s != 6 else "ED") for s in (0, 1, 2, 4, 5, 6, 7, 8)]


def test_stacks_are_as_long_as_asked(dataset):
    assert next(whole_stacks(dataset, subjects=[1, 5], batch_size=2))["image"].shape[1] == 5
    assert next(whole_stacks(dataset, subjects=[1, 5], batch_size=2, slices=7))["image"].shape[1] == 7
    with pytest.raises(StreamError, match=r"slices=8: the largest sax stack has 9; set slices=9"):
        whole_stacks(dataset, slices=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"volumes": VOLUMES[:8]}, "9 subjects, 2 frames"),
        ({"frames": ("ED",)}, "9 subjects, 1 frames"),
        ({"subjects": [3]}, "no subject of the 1"),
        ({"slices": -1}, "slices=-1"),
        ({"frames": ("ed", "es")}, "frames="),
    ],
)
def test_bad_stacks_requests(dataset, options, message):
    with pytest.raises(StreamError, match=message):
        whole_stacks(dataset, **options)

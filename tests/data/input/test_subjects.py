"""Streams of subjects, on a dataset whose pixels say where they come from."""

import numpy as np
import pytest

from morphojax.anatomy import PHASES
from morphojax.data.input.stream import StreamError
from tests.data.input.origins import MISSING, SIZE, STACKS, VALUES, assert_same, origin, pretrain, segment, take


def test_pretraining_batch(dataset):
    (batch,) = take(pretrain(dataset, slices=5), 1)
    shapes = {k: (v.shape, v.dtype) for k, v in batch.items()}
    assert shapes == {
        "image": ((4, 5, SIZE, SIZE, 1), np.uint8),
        "slice_mask": ((4, 5), bool),
        "position": ((4, 5), np.float32),
        "values": ((4, 2), np.float32),
        "missing": ((4, 2), bool),
        "subject": ((4,), np.int32),
        "valid": ((4,), bool),
    }


def test_the_numbers_of_the_images(dataset):
    """Where asked for: the records whose pixels a batch shows, slices or frames of a cycle."""
    slices = dataset.slices("sax")
    for settings in ({"slices": 5}, {"channels": "cycle"}):
        (batch,) = take(pretrain(dataset, records=True, **settings), 1)
        assert batch["record"].shape == (4, *batch["image"].shape[1:2], batch["image"].shape[-1])
        np.testing.assert_array_equal((batch["record"] >= 0).all(-1), batch["slice_mask"])
        for i, k, c in np.argwhere(batch["record"] >= 0):
            np.testing.assert_array_equal(slices[batch["record"][i, k, c]]["image"], batch["image"][i, k, :, :, c])


def test_training_slices(dataset):
    """Of every example: distinct slices of one frame of that subject, all of a short stack, the
    rest masked.
    """
    frames_seen, choices_seen = set(), set()
    for batch in take(pretrain(dataset, slices=5), 20):
        assert batch["valid"].all()
        np.testing.assert_array_equal(batch["values"], VALUES[batch["subject"]])
        np.testing.assert_array_equal(batch["missing"], MISSING[batch["subject"]])
        for i, subject in enumerate(batch["subject"]):
            mask = batch["slice_mask"][i]
            origins = origin(batch["image"][i])[:, 0]
            assert (batch["image"][i][~mask] == 0).all()
            assert (batch["position"][i][~mask] == 0).all()
            assert (origins[mask, 0] == subject).all()
            assert len(set(origins[mask, 1])) == 1
            phase, z = PHASES[origins[0, 1]], origins[mask, 2]
            count = STACKS[int(subject)][phase]
            assert len(set(z)) == mask.sum() == min(5, count)
            expected = z / (count - 1) if count > 1 else [0.5]
            np.testing.assert_allclose(batch["position"][i][mask], expected, atol=1e-6)
            frames_seen.add((int(subject), phase))
            choices_seen.add((int(subject), tuple(z)))
    assert {s for s, _ in frames_seen} == {0, 1, 2, 4, 5, 6, 7, 8}  # 3 has no stack
    assert {p for s, p in frames_seen if s == 0} == {"ED", "ES"}  # drawn among the frames; mid was not asked for
    assert len({z for s, z in choices_seen if s == 0}) > 3


def test_left_out_are_counted(dataset, caplog):
    with caplog.at_level("INFO"):
        assert pretrain(dataset).examples == 8
        assert "1 of 9 subjects" in caplog.text
        caplog.clear()
        assert pretrain(dataset, channels="cycle").examples == 7  # nor 6, which has no ES
        assert "2 of 9 subjects" in caplog.text
        assert "1 subjects have no mid" in caplog.text
        caplog.clear()
        assert segment(dataset).examples == 2 * (9 + 4 + 1 + 5) + 6 + 8 + 3
        assert "3 of 9 subjects" in caplog.text  # 3, 4, 8


def test_splits_and_subjects(dataset):
    assert pretrain(dataset, subjects=None, batch_size=2).examples == 5  # 0, 1, 2, 4, 5
    stream = pretrain(dataset, subjects=None, splits=("val", "test"), train=False)
    assert next(stream)["subject"].tolist() == [6, 7, 8, 6]
    stream.close()
    assert next(iter(pretrain(dataset, subjects=[8, 0], train=False, batch_size=2)))["subject"].tolist() == [0, 8]


def test_draws_differ_between_epochs_and_seeds(dataset):
    one = take(pretrain(dataset, subjects=[0], batch_size=1, slices=4), 8)
    other = take(pretrain(dataset, subjects=[0], batch_size=1, slices=4, seed=4), 8)
    draws = [tuple(origin(b["image"])[0, :, 0, 1:].ravel()) for b in one + other]
    assert len(set(draws[:8])) > 4
    assert draws[:8] != draws[8:]


def test_evaluation_slices(dataset):
    stream = pretrain(dataset, train=False, slices=3, batch_size=5)
    assert stream.steps_per_epoch == 2
    batches = list(stream)
    assert_same(batches, list(stream))  # iterating again is another pass
    stream.close()
    assert [b["valid"].tolist() for b in batches] == [[True] * 5, [True] * 3 + [False] * 2]
    subject = np.concatenate([b["subject"] for b in batches])
    assert subject[:8].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    origins = np.concatenate([origin(b["image"]) for b in batches])[:, :, 0]
    mask = np.concatenate([b["slice_mask"] for b in batches])
    z = {int(s): origins[i, mask[i], 2].tolist() for i, s in enumerate(subject[:8])}
    # middles of three equal parts, e.g. of 9: 1.5, 4.5, 7.5, rounded down
    assert z == {
        0: [1, 4, 7],
        1: [0, 2, 3],
        2: [0],
        4: [1, 3, 5],
        5: [0, 2, 4],
        6: [1, 3, 5],
        7: [1, 4, 6],
        8: [1, 3, 5],
    }
    assert (origins[mask][:, 1] == PHASES.index("ED")).all()


def test_evaluation_takes_the_first_frame_there_is(dataset):
    (batch,) = list(pretrain(dataset, train=False, frames=("ES", "ED"), subjects=[0, 6], slices=1, batch_size=2))
    assert origin(batch["image"])[:, 0, 0].tolist() == [[0, PHASES.index("ES"), 4], [6, PHASES.index("ED"), 3]]


def test_cycle(dataset):
    (batch,) = list(pretrain(dataset, train=False, channels="cycle", batch_size=7))
    assert batch["image"].shape == (7, 1, SIZE, SIZE, 3)
    assert batch["slice_mask"].all()
    origins = {int(s): origin(batch["image"][i, 0]) for i, s in enumerate(batch["subject"])}
    assert origins[0].tolist() == [[0, 0, 4], [0, 1, 4], [0, 2, 4]]
    assert origins[1].tolist() == [[1, 0, 2], [1, 1, 2], [1, 2, 2]]
    assert origins[2].tolist() == [[2, 0, 0], [2, 1, 0], [2, 2, 0]]
    assert origins[5].tolist() == [[5, 0, 2], [5, 0, 2], [5, 2, 2]]  # no mid frame: ED replaces it
    assert origins[7].tolist() == [[7, 0, 4], [7, 1, 0], [7, 2, 1]]  # each stack has its own middle
    np.testing.assert_allclose(batch["position"][:, 0][:3], [4 / 8, 2 / 3, 0.5])
    assert_same(
        [
            {k: v[np.argsort(b["subject"])] for k, v in b.items()}
            for b in take(pretrain(dataset, channels="cycle", batch_size=7), 1)
        ],
        [batch],
    )


def test_no_batch_shares_memory_with_the_table(dataset):
    (batch,) = take(pretrain(dataset), 1)
    batch["values"][:] = -1
    assert VALUES.min() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": "frames"}, "channels='frames'"),
        ({"frames": ("ed",)}, "frames="),
        ({"frames": "ED"}, "frames="),
        ({"slices": 0}, "slices=0"),
        ({"subjects": [0, 0]}, "different indices"),
        ({"subjects": [9]}, r"0\.\.8"),
        ({"subjects": []}, "at least one"),
        ({"subjects": [3]}, "no subject of the 1"),
        ({"values": VALUES[:8]}, "9 subjects"),
        ({"batch_size": 9}, "exceeds the 8"),
        ({"batch_size": 3, "process_count": 2}, "multiple of the 2"),
        ({"process_count": 2, "process_index": 2}, "process_index=2"),
        ({"seed": -1}, "seed=-1"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_bad_requests(dataset, options, message):
    with pytest.raises(StreamError, match=message):
        pretrain(dataset, **options)

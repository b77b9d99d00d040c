"""A dataset whose pixels say where they come from: every slice holds (subject, phase, z) as its first three values."""

import json
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from absl import flags

from morphojax.anatomy import PHASES
from morphojax.data.geometry import Grid, place
from morphojax.data.input.stream import StreamError
from morphojax.data.store.dataset import Dataset, Manifest, encode_native
from morphojax.data.store.records import ShardWriter, encode
from morphojax.data.tables.schema import Schema
from tests.data.input.streams import pretraining, segmentation, stacks

SIZE = 8
# subject -> phase -> slices. 3: no short axis at all; 5: no mid; 6: ED alone; 7: ES shorter than ED, one mid slice
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
# subject, phase (ED, ES), structure; of 1 nothing is known, and of 4 one volume
VOLUMES = np.arange(36, dtype=np.float32).reshape(9, 2, 2) + 10
VOLUMES[1], VOLUMES[4], VOLUMES[4, 1, 0] = np.nan, np.nan, 7
ALL = range(9)


def make_dataset(root):
    rows, first = [], 0
    writer, native = ShardWriter(root, "sax/slices", per_shard=50), ShardWriter(root, "sax/native", per_shard=5)
    for subject, phases in STACKS.items():
        for phase, n in phases.items():
            labelled = phase != "mid" and subject not in UNLABELLED
            rows.append((subject, phase, first, n, "lv_cavity rv_cavity" if labelled else "", labelled))
            first += n
            affine = np.diag([2.0, 2.0, _slice_distance(subject, phase), 1.0])
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


def _slice_distance(subject, phase):
    return 5.0 + subject + 10 * PHASES.index(phase)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("dataset"))


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


def whole(dataset, **options):
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


def test_training_slices(dataset):
    """Of every example: distinct slices of one frame of that subject, all of a short stack, the rest masked."""
    frames_seen, choices_seen = set(), set()
    for batch in take(pretrain(dataset, slices=5), 20):
        assert batch["valid"].all()
        np.testing.assert_array_equal(batch["values"], VALUES[batch["subject"]])
        np.testing.assert_array_equal(batch["missing"], MISSING[batch["subject"]])
        for i, subject in enumerate(batch["subject"]):
            mask = batch["slice_mask"][i]
            came = origin(batch["image"][i])[:, 0]
            assert (batch["image"][i][~mask] == 0).all()
            assert (batch["position"][i][~mask] == 0).all()
            assert (came[mask, 0] == subject).all()
            assert len(set(came[mask, 1])) == 1
            phase, z = PHASES[came[0, 1]], came[mask, 2]
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


def test_epochs(dataset):
    """Each epoch has every example at most once, in another order, and drops its remainder."""
    stream = pretrain(dataset, batch_size=3)
    assert stream.steps_per_epoch == 2
    epochs = [np.concatenate([b["subject"] for b in take(stream, 2)]).tolist() for _ in range(8)]
    # `take` closes the stream, which goes on from where it was
    assert all(len(set(e)) == 6 for e in epochs)
    assert len({tuple(e) for e in epochs}) == 8
    assert {s for e in epochs for s in e} == {0, 1, 2, 4, 5, 6, 7, 8}


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
    came = np.concatenate([origin(b["image"]) for b in batches])[:, :, 0]
    mask = np.concatenate([b["slice_mask"] for b in batches])
    z = {int(s): came[i, mask[i], 2].tolist() for i, s in enumerate(subject[:8])}
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
    assert (came[mask][:, 1] == PHASES.index("ED")).all()


def test_evaluation_takes_the_first_frame_there_is(dataset):
    (batch,) = list(pretrain(dataset, train=False, frames=("ES", "ED"), subjects=[0, 6], slices=1, batch_size=2))
    assert origin(batch["image"])[:, 0, 0].tolist() == [[0, PHASES.index("ES"), 4], [6, PHASES.index("ED"), 3]]


def test_cycle(dataset):
    (batch,) = list(pretrain(dataset, train=False, channels="cycle", batch_size=7))
    assert batch["image"].shape == (7, 1, SIZE, SIZE, 3)
    assert batch["slice_mask"].all()
    came = {int(s): origin(batch["image"][i, 0]) for i, s in enumerate(batch["subject"])}
    assert came[0].tolist() == [[0, 0, 4], [0, 1, 4], [0, 2, 4]]
    assert came[1].tolist() == [[1, 0, 2], [1, 1, 2], [1, 2, 2]]
    assert came[2].tolist() == [[2, 0, 0], [2, 1, 0], [2, 2, 0]]
    assert came[5].tolist() == [[5, 0, 2], [5, 0, 2], [5, 2, 2]]  # no mid: ED stands in
    assert came[7].tolist() == [[7, 0, 4], [7, 1, 0], [7, 2, 1]]  # each stack has its own middle
    np.testing.assert_allclose(batch["position"][:, 0][:3], [4 / 8, 2 / 3, 0.5])
    assert_same(
        [
            {k: v[np.argsort(b["subject"])] for k, v in b.items()}
            for b in take(pretrain(dataset, channels="cycle", batch_size=7), 1)
        ],
        [batch],
    )


def test_segmentation(dataset):
    stream = segment(dataset, subjects=[0, 1, 4, 7], batch_size=10, train=False)
    batches = list(stream)
    assert stream.examples == 2 * (9 + 4) + 8 + 3 == 37
    assert [b["valid"].sum() for b in batches] == [10, 10, 10, 7]
    batch = {k: np.concatenate([b[k] for b in batches])[:37] for k in batches[0]}
    assert batch["image"].shape == (37, SIZE, SIZE, 1)
    assert batch["image"].dtype == batch["label"].dtype == np.uint8
    came = origin(batch["image"])[:, 0]
    expected = [(s, PHASES.index(p), z) for s in (0, 1, 7) for p in ("ED", "ES") for z in range(STACKS[s][p])]
    assert came.tolist() == [list(e) for e in expected]
    np.testing.assert_array_equal(batch["label"], np.broadcast_to((came[:, 2] % 4)[:, None, None], (37, SIZE, SIZE)))
    np.testing.assert_array_equal(batch["subject"], came[:, 0])
    np.testing.assert_allclose(batch["position"], [z / (STACKS[s][PHASES[p]] - 1) for s, p, z in expected], atol=1e-6)
    only_es = list(segment(dataset, subjects=[7], frames=("ES",), train=False))
    assert origin(only_es[0]["image"])[:3, 0].tolist() == [[7, 2, 0], [7, 2, 1], [7, 2, 2]]


def test_unlabelled_slices_are_those_of_every_stack_and_hide_its_label(dataset, caplog):
    with caplog.at_level("INFO"):
        stream = segment(dataset, labelled=False, batch_size=10, train=False)
    assert "sax: 1 of 9 subjects have no stack" in caplog.text  # 3
    batches = list(stream)
    stream.close()
    batch = {k: np.concatenate([b[k] for b in batches])[: stream.examples] for k in batches[0]}
    expected = {(s, PHASES.index(p), z) for s, n in STACKS.items() for p in ("ED", "ES") for z in range(n.get(p, 0))}
    assert {tuple(o) for o in origin(batch["image"])[:, 0].tolist()} == expected
    assert stream.examples == len(expected)
    assert batch["label"].shape == (len(expected), SIZE, SIZE) and not batch["label"].any()
    assert batch["annotated"].shape == (len(expected), len(STRUCTURES)) and not batch["annotated"].any()


def test_a_structure_that_the_plane_never_shows_is_not_annotated_in_unlabelled_slices(dataset):
    (batch,) = take(segment(dataset, structures=("lv_cavity", "la_cavity"), labelled=False), 1)
    assert not batch["annotated"].any()
    (batch,) = take(segment(dataset, structures=("lv_cavity", "la_cavity")), 1)
    assert batch["annotated"].all()  # the atrium is background in every short-axis slice


def test_unlabelled_slices_need_a_stack(dataset):
    with pytest.raises(StreamError, match=r"no subject of the 1 .* has any sax stack at ED, ES"):
        segment(dataset, subjects=[3], labelled=False)


def test_stacks_without_volumes(dataset, caplog):
    with caplog.at_level("INFO"):
        without, known = (take(whole(dataset, volumes=v), 3) for v in (None, VOLUMES))
    assert caplog.text.count("the table has a volume") == 1  # of the second stream
    assert [batch.pop("volume").shape for batch in without] == [(4, 0)] * 3
    assert_same(without, [{name: x for name, x in batch.items() if name != "volume"} for batch in known])


def test_stacks_batch(dataset, caplog):
    with caplog.at_level("INFO"):
        (batch,) = take(whole(dataset), 1)
    assert "1 of 9 subjects" in caplog.text  # 3 has no stack
    assert "a volume of 7 of 8 subjects" in caplog.text
    shapes = {k: (v.shape, v.dtype) for k, v in batch.items()}
    assert shapes == {
        "image": ((4, 9, SIZE, SIZE, 1), np.uint8),
        "slice_mask": ((4, 9), bool),
        "position": ((4, 9), np.float32),
        "volume": ((4, 2), np.float32),
        "voxel_ml": ((4,), np.float32),
        "subject": ((4,), np.int32),
        "valid": ((4,), bool),
    }


def check_stack(batch, i):
    """All of one stack, in order, with what belongs to that subject at that frame; returns (subject, phase)."""
    came, mask = origin(batch["image"][i])[:, 0], batch["slice_mask"][i]
    subject, phase = int(batch["subject"][i]), PHASES[came[0, 1]]
    count = STACKS[subject][phase]
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < count)
    assert (came[mask] == [(subject, PHASES.index(phase), z) for z in range(count)]).all()
    assert (batch["image"][i][~mask] == 0).all() and (batch["position"][i][~mask] == 0).all()
    expected = np.arange(count) / (count - 1) if count > 1 else [0.5]
    np.testing.assert_allclose(batch["position"][i][mask], expected, atol=1e-6)
    np.testing.assert_array_equal(batch["volume"][i], VOLUMES[subject, ("ED", "ES").index(phase)])
    assert batch["voxel_ml"][i] == pytest.approx(1.5**2 * _slice_distance(subject, phase) / 1000)
    return subject, phase


def test_stacks_in_training(dataset):
    seen = {check_stack(batch, i) for batch in take(whole(dataset), 30) for i in range(4)}
    assert seen == {(s, p) for s in (0, 1, 2, 4, 5, 7, 8) for p in ("ED", "ES")} | {(6, "ED")}


def test_stacks_in_evaluation(dataset):
    stream = whole(dataset, train=False, frames=("ES", "ED"), volumes=VOLUMES[:, ::-1], batch_size=5)
    batches = list(stream)
    stream.close()
    assert [b["valid"].tolist() for b in batches] == [[True] * 5, [True] * 3 + [False] * 2]
    seen = [check_stack(b, i) for b in batches for i in range(5) if b["valid"][i]]
    assert seen == [(s, "ES" if s != 6 else "ED") for s in (0, 1, 2, 4, 5, 6, 7, 8)]


def test_stacks_are_as_long_as_asked(dataset):
    assert next(whole(dataset, subjects=[1, 5], batch_size=2))["image"].shape[1] == 5
    assert next(whole(dataset, subjects=[1, 5], batch_size=2, slices=7))["image"].shape[1] == 7
    with pytest.raises(StreamError, match=r"slices=8: the largest sax stack has 9; set slices=9"):
        whole(dataset, slices=8)


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
        whole(dataset, **options)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("build", [pretrain, segment, whole])
def test_global_batch_does_not_depend_on_the_processes(dataset, build, train):
    n = 9 if train else 2  # several epochs
    together = take(build(dataset, train=train, batch_size=4), n)
    for count in (2, 4):
        parts = [
            take(build(dataset, train=train, batch_size=4, process_index=i, process_count=count), n)
            for i in range(count)
        ]
        joined = [{k: np.concatenate([p[step][k] for p in parts]) for k in together[0]} for step in range(n)]
        assert_same(joined, together)


@pytest.mark.parametrize("build", [pretrain, segment, whole])
def test_resume(dataset, build):
    stream = build(dataset, batch_size=3)
    take(stream, 5)  # in the middle of an epoch
    state = json.loads(json.dumps(stream.get_state()))
    expected = take(stream, 9)
    resumed = build(dataset, batch_size=3, prefetch=1)
    next(resumed)  # what was read before does not matter
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert_same(take(resumed, 9), expected)


def test_resume_within_an_evaluation(dataset):
    stream = segment(dataset, train=False)
    batches = list(stream)
    stream.set_state({**stream.get_state(), "next_batch": len(batches) - 2})
    assert_same([next(stream), next(stream)], batches[-2:])
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("other", [{"seed": 4}, {"batch_size": 2}, {"subjects": [0, 1, 2, 4, 5]}])
def test_resume_on_another_stream(dataset, other):
    with pytest.raises(StreamError, match="not one of this stream"):
        pretrain(dataset, **other).set_state(pretrain(dataset).get_state())


def test_no_batch_shares_memory_with_the_table(dataset):
    (batch,) = take(pretrain(dataset), 1)
    batch["values"][:] = -1
    assert VALUES.min() == 0


SCRIPT = """
    import pathlib, pickle, sys
    from absl import app
    from tests.data.input.test_streams import make_dataset, pretrain, segment, take, whole

    def main(argv):
        root = pathlib.Path(argv[1])
        dataset = pickle.loads((root / "dataset.pickle").read_bytes())
        stream = pretrain(dataset, batch_size=3, workers=1)
        training = take(stream, 4)
        resumed = pretrain(dataset, batch_size=3, workers=2)
        resumed.set_state(stream.get_state())
        training += take(resumed, 3)
        stream = segment(dataset, train=False, workers=2)
        result = {"training": training, "evaluation": list(stream)}
        stream.close()
        result["stacks"] = take(whole(dataset, workers=1), 3)
        (root / "result.pickle").write_bytes(pickle.dumps(result))

    if __name__ == "__main__":
        app.run(main)
"""


def test_worker_processes(dataset, tmp_path, pytestconfig):
    """In a program of its own, since worker processes import __main__ anew."""
    (tmp_path / "dataset.pickle").write_bytes(pickle.dumps(dataset))
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, tmp_path / "script.py", tmp_path]
    environment = {"PYTHONPATH": str(pytestconfig.rootpath), "PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = pickle.loads((tmp_path / "result.pickle").read_bytes())
    assert_same(result["training"], take(pretrain(dataset, batch_size=3), 7))
    assert all(type(array) is np.ndarray for array in result["training"][0].values())
    assert_same(result["evaluation"], list(segment(dataset, train=False)))
    assert_same(result["stacks"], take(whole(dataset), 3))


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


def test_bad_segmentation_requests(dataset):
    with pytest.raises(StreamError, match=r"no subject of the 2 .* labelled"):
        segment(dataset, subjects=[4, 8])
    with pytest.raises(StreamError, match="frames="):
        segment(dataset, frames=("es",))


def test_read_errors_come_through(tmp_path):
    dataset = make_dataset(tmp_path)
    shard = tmp_path / dataset.manifest.slices["sax"][0].path
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=shard.name):
        take(pretrain(dataset, subjects=[0], batch_size=1), 1)


def test_workers_need_parsed_flags(dataset, monkeypatch):
    monkeypatch.setattr(type(flags.FLAGS), "is_parsed", lambda self: False)
    with pytest.raises(StreamError, match=r"absl\.app\.run"):
        next(pretrain(dataset, workers=1))

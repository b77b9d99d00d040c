"""Frames of a cine as examples and as channels. The first four pixels of a slice are (subject,
frame, z, plane).
"""

import numpy as np
import pandas as pd
import pytest

from morphojax.anatomy import CINE, PHASES, cine_phase, is_cine_phase
from morphojax.data.geometry import Grid
from morphojax.data.input.stream import StreamError
from morphojax.data.input.subjects import ImageSpec
from morphojax.data.store.dataset import Dataset, Manifest
from morphojax.data.store.records import ShardWriter, encode
from morphojax.data.tables.schema import Schema
from tests.data.input.streams import pretraining, segmentation, stacks

SIZE = 4
PLANES = ("sax", "la_2ch")
NAMED = 100  # the pixel of a phase with a name is this and its place in PHASES; of the others, the number of the frame
# subject -> numbers of the frames kept of the cine, of the short axis and of the 2-chamber view;
# all have ED and ES of both
KEPT = {
    0: (tuple(range(0, 50, 6)), tuple(range(0, 30, 4))),
    1: (tuple(range(12)), (0, 3, 6, 9)),
    2: ((0, 5, 10), (0, 5, 10)),
    3: ((), ()),
    4: (tuple(range(8)), ()),
}
SLICES = {"sax": 5, "la_2ch": 1}
LABELLED = {(0, 6), (0, 12), (1, 3)}  # subject and frame, in the short axis; the ED of every subject is labelled too


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("cine")
    tables, shards = {}, {}
    for p, plane in enumerate(PLANES):
        writer, rows = ShardWriter(root, f"{plane}/slices"), []
        for subject, kept in KEPT.items():
            frames = [("ED", NAMED), ("ES", NAMED + 2), *((cine_phase(t), t) for t in reversed(kept[p]))]
            for phase, pixel in frames:
                labelled = plane == "sax" and (phase == "ED" or (subject, pixel) in LABELLED)
                rows.append(
                    (subject, phase, len(rows) * SLICES[plane], SLICES[plane], "lv_cavity" * labelled, labelled)
                )
                for z in range(SLICES[plane]):
                    image = np.zeros((SIZE, SIZE), np.uint8)
                    image[0] = subject, pixel, z, p
                    writer.write(encode({"image": image, "label": np.full_like(image, labelled)}))
        tables[plane] = pd.DataFrame(rows, columns=["subject", "phase", "first", "slices", "structures", "labelled"])
        shards[plane] = writer.close()
    manifest = Manifest(
        "test", Grid(1.5, SIZE), (1.0, 99.0), PLANES, {}, Schema(()), {}, {}, files=(), slices=shards, native={}
    )
    return Dataset(root, manifest, tuple("abcde"), np.full(5, "train"), pd.DataFrame(index=range(5)), tables)


def pretrain(dataset, **options):
    n = len(dataset.subjects)
    rows = {"values": np.zeros((n, 0), np.float32), "missing": np.zeros((n, 0), bool), "subjects": range(n)}
    defaults = {"planes": ("sax",), "batch_size": 2, "seed": 0, "train": False, "slices": 2}
    return pretraining(dataset, **rows | defaults | options)


def examples(stream, epochs=1):
    """[(subject, its images [K, C, (subject, frame, z, plane)], the mask [K])]"""
    shown = []
    for _ in range(epochs * stream.steps_per_epoch):
        batch = next(stream)
        origins = np.moveaxis(batch["image"][..., 0, :4, :], -1, -2)
        shown += [x[1:] for x in zip(batch["valid"], batch["subject"].tolist(), origins, batch["slice_mask"]) if x[0]]  # noqa: B905
    stream.close()
    return shown


def test_numbers_of_frames_are_phases():
    assert (cine_phase(0), cine_phase(7), cine_phase(999)) == ("t000", "t007", "t999")
    assert is_cine_phase("t042")
    assert not any(map(is_cine_phase, (*PHASES, CINE, "t42", "t0042", "x042")))
    for wrong in (-1, 1000):
        with pytest.raises(ValueError, match=f"frame {wrong} of a cine"):
            cine_phase(wrong)


def test_the_frame_is_drawn_among_all_of_the_cine(dataset):
    seen = {subject: set() for subject in KEPT}
    for subject, origins, mask in examples(pretrain(dataset, frames=(CINE,), train=True, batch_size=4), epochs=120):
        assert mask.all() and (origins[..., 0] == subject).all() and len(set(origins[:, 0, 1])) == 1
        assert origins[0, 0, 2] < origins[1, 0, 2]
        seen[subject].add(int(origins[0, 0, 1]))
    assert seen == {subject: set(kept[0]) for subject, kept in KEPT.items()}


def test_the_cine_is_one_choice_among_others(dataset):
    frames = [c[0, 0, 1] for s, c, _ in examples(pretrain(dataset, frames=("ES", CINE), train=True), 60) if s == 2]
    assert set(frames) == {NAMED + 2, 0, 5, 10}


def test_evaluation_takes_the_first(dataset, caplog):
    with caplog.at_level("INFO"):
        shown = examples(pretrain(dataset, frames=(CINE,)))
    assert [(s, c[0, 0, 1]) for s, c, _ in shown] == [(0, 0), (1, 0), (2, 0), (4, 0)]
    assert "1 of 5 subjects lack the frames cine" in caplog.text
    shown = examples(pretrain(dataset, frames=(CINE, "ES")))
    assert [(s, c[0, 0, 1]) for s, c, _ in shown] == [(0, 0), (1, 0), (2, 0), (3, NAMED + 2), (4, 0)]
    shown = examples(pretrain(dataset, frames=("ED", CINE)))
    assert {c[0, 0, 1] for _, c, _ in shown} == {NAMED}


def test_planes_are_shown_at_the_same_fraction_of_the_cycle(dataset):
    pairs = {subject: set() for subject in KEPT}
    for subject, origins, mask in examples(pretrain(dataset, planes=PLANES, frames=(CINE,), train=True), epochs=150):
        assert (origins[mask][:, 0, 3] == np.array([0, 0, 1])[mask]).all()
        pairs[subject].add((int(origins[0, 0, 1]), int(origins[2, 0, 1]) if mask[2] else None))
    longer, shorter = KEPT[0]  # nine frames and eight
    assert pairs[0] == {(t, shorter[i * 8 // 9]) for i, t in enumerate(longer)}
    assert pairs[1] == {(t, 3 * (t // 3)) for t in range(12)}
    assert pairs[2] == {(t, t) for t in (0, 5, 10)}
    assert pairs[4] == {(t, None) for t in range(8)} and not pairs[3]


@pytest.mark.parametrize("n", [2, 4, 7])
def test_frames_as_channels(dataset, n, caplog):
    with caplog.at_level("INFO"):
        shown = examples(pretrain(dataset, planes=PLANES, channels="cycle", cycle_frames=n))
    assert "1 of 5 subjects" in caplog.text
    assert [subject for subject, *_ in shown] == [0, 1, 2, 4]
    for subject, origins, mask in shown:
        for p, kept in enumerate(KEPT[subject]):
            if not kept:
                assert not mask[p] and not origins[p].any()
                continue
            expected = [kept[int(np.floor(i / n * len(kept) + 1e-9))] for i in range(n)]
            assert origins[p, :, 1].tolist() == expected and mask[p]
            assert (origins[p, :, 2] == SLICES[PLANES[p]] // 2).all() and (origins[p, :, 3] == p).all()


def test_four_channels_of_a_few_frames(dataset):
    shown = {s: c[0, :, 1].tolist() for s, c, _ in examples(pretrain(dataset, channels="cycle", cycle_frames=4))}
    assert shown[1] == [0, 3, 6, 9] and shown[4] == [0, 2, 4, 6] and shown[2] == [0, 0, 5, 10]


def test_the_number_of_channels():
    choices = (("slices", 0), ("cycle", 0), ("cycle", 2), ("cycle", 8))
    counts = [ImageSpec(("sax",), channels, cycle_frames=n).channel_count for channels, n in choices]
    assert counts == [1, 3, 2, 8]


def segment(dataset, frames):
    options = {"planes": ("sax",), "structures": ("lv_cavity",), "subjects": range(5), "batch_size": 5}
    stream = segmentation(dataset, frames=frames, seed=0, train=False, **options)
    shown = [tuple(image[0, :2, 0].tolist()) for batch in stream for image in batch["image"][batch["valid"]]]
    stream.close()
    return shown


def test_segmentation_takes_the_labelled_frames_of_the_cine(dataset):
    shown = segment(dataset, (CINE,))
    assert set(shown) == LABELLED and len(shown) == 5 * len(LABELLED)
    assert set(segment(dataset, ("ED", CINE))) == LABELLED | {(s, NAMED) for s in KEPT}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": ("t000",)}, "frames=.* must be a list of some of ED, mid, ES, cine"),
        ({"channels": "cycle", "cycle_frames": 1}, "cycle_frames=1: give 0"),
        ({"channels": "cycle", "cycle_frames": -2}, "cycle_frames=-2: give 0"),
        ({"cycle_frames": 4}, "cycle_frames=4 needs channels=cycle, not 'slices'"),
        ({"subjects": [3], "frames": (CINE,)}, "no subject .* sax stacks at cine; prepare .* --frames=all"),
        ({"subjects": [3], "channels": "cycle", "cycle_frames": 4}, "no subject .* at cine; prepare .* --frames=all"),
    ],
)
def test_bad_requests(dataset, options, message):
    with pytest.raises(StreamError, match=message):
        pretrain(dataset, **options)


def test_stacks_with_volumes_need_named_phases(dataset):
    options = {"subjects": range(5), "volumes": np.zeros((5, 1, 1)), "batch_size": 2, "seed": 0, "train": True}
    with pytest.raises(StreamError, match=r"must be a list of some of ED, mid, ES$"):
        stacks(dataset, plane="sax", frames=(CINE,), **options)


def test_a_dataset_without_cine_frames_says_how_to_prepare_them(without_cine):
    for options in ({"frames": (CINE,)}, {"channels": "cycle", "cycle_frames": 4}):
        with pytest.raises(StreamError, match="prepare the dataset with --frames=all, or a number"):
            pretrain(without_cine, **options)

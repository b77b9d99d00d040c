"""Streams of slices, on a dataset whose pixels say where they come from."""

import numpy as np
import pytest

from morphojax.anatomy import PHASES
from morphojax.data.input.stream import StreamError
from tests.data.input.origins import SIZE, STACKS, STRUCTURES, origin, segment, take


def test_segmentation(dataset):
    stream = segment(dataset, subjects=[0, 1, 4, 7], batch_size=10, train=False)
    batches = list(stream)
    assert stream.examples == 2 * (9 + 4) + 8 + 3 == 37
    assert [b["valid"].sum() for b in batches] == [10, 10, 10, 7]
    batch = {k: np.concatenate([b[k] for b in batches])[:37] for k in batches[0]}
    assert batch["image"].shape == (37, SIZE, SIZE, 1)
    assert batch["image"].dtype == batch["label"].dtype == np.uint8
    origins = origin(batch["image"])[:, 0]
    expected = [(s, PHASES.index(p), z) for s in (0, 1, 7) for p in ("ED", "ES") for z in range(STACKS[s][p])]
    assert origins.tolist() == [list(e) for e in expected]
    np.testing.assert_array_equal(batch["label"], np.broadcast_to((origins[:, 2] % 4)[:, None, None], (37, SIZE, SIZE)))
    np.testing.assert_array_equal(batch["subject"], origins[:, 0])
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


def test_bad_segmentation_requests(dataset):
    with pytest.raises(StreamError, match=r"no subject of the 2 .* labelled"):
        segment(dataset, subjects=[4, 8])
    with pytest.raises(StreamError, match="frames="):
        segment(dataset, frames=("es",))

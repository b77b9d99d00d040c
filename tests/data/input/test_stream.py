"""Streams in general: epochs, processes, resumption, workers; and several streams joined to one."""

import json
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from absl import flags

from morphojax.data.input.stream import Joined, Stream, StreamError, StreamSpec
from tests.data.input.origins import assert_same, make_dataset, pretrain, segment, take, whole_stacks


def test_epochs(dataset):
    """Each epoch has every example at most once, in another order, and drops its remainder."""
    stream = pretrain(dataset, batch_size=3)
    assert stream.steps_per_epoch == 2
    epochs = [np.concatenate([b["subject"] for b in take(stream, 2)]).tolist() for _ in range(8)]
    # `take` closes the stream, which then continues from the same position
    assert all(len(set(e)) == 6 for e in epochs)
    assert len({tuple(e) for e in epochs}) == 8
    assert {s for e in epochs for s in e} == {0, 1, 2, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("build", [pretrain, segment, whole_stacks])
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


@pytest.mark.parametrize("build", [pretrain, segment, whole_stacks])
def test_resume(dataset, build):
    stream = build(dataset, batch_size=3)
    take(stream, 5)  # in the middle of an epoch
    state = json.loads(json.dumps(stream.get_state()))
    expected = take(stream, 9)
    resumed = build(dataset, batch_size=3, prefetch=1)
    next(resumed)  # earlier reads have no influence
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


SCRIPT = """
    import pathlib, pickle, sys
    from absl import app
    from tests.data.input.origins import pretrain, segment, take, whole_stacks

    def main(argv):
        root = pathlib.Path(argv[1])
        dataset = pickle.loads((root / "dataset.pickle").read_bytes())
        stream = pretrain(dataset, batch_size=3, workers=1)
        training = take(stream, 4)
        stream.close()
        resumed = pretrain(dataset, batch_size=3, workers=2)
        resumed.set_state(stream.get_state())
        training += take(resumed, 3)
        resumed.close()
        stream = segment(dataset, train=False, workers=1)
        result = {"training": training, "evaluation": list(stream)}
        stream.close()
        result["stacks"] = take(whole_stacks(dataset, workers=1), 3)
        (root / "result.pickle").write_bytes(pickle.dumps(result))

    if __name__ == "__main__":
        app.run(main)
"""


def test_worker_processes(dataset, tmp_path, pytestconfig):
    """In a separate program, because worker processes import __main__ again."""
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
    assert_same(result["stacks"], take(whole_stacks(dataset), 3))


def test_read_errors_are_raised(tmp_path):
    dataset = make_dataset(tmp_path)
    shard = tmp_path / dataset.manifest.slices["sax"][0].path
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=shard.name):
        take(pretrain(dataset, subjects=[0], batch_size=1), 1)


def test_workers_need_parsed_flags(dataset, monkeypatch):
    monkeypatch.setattr(type(flags.FLAGS), "is_parsed", lambda self: False)
    with pytest.raises(StreamError, match=r"absl\.app\.run"):
        next(pretrain(dataset, workers=1))


# joined streams


class Read:
    """Rows that say which example they are."""

    def __init__(self, key):
        self.key = key

    def __call__(self, step, rows, numbers):
        return {self.key: numbers, "subject": numbers + 100}


def stream(key, examples, **options):
    return Stream(Read(key), examples, StreamSpec(**options))


def labelled(**options):
    return stream("label", **{"examples": 5, "batch_size": 2, "seed": 1} | options)


def unlabelled(**options):
    return stream("volume", **{"examples": 11, "batch_size": 4, "seed": 2} | options)


def joined():
    return Joined({"labelled": labelled(), "unlabelled": unlabelled()})


def test_a_joined_batch_is_that_of_the_first_stream_with_the_others_under_their_names():
    first, second = take(labelled(), 7), take(unlabelled(), 7)  # over the ends of both epochs
    for batch, a, b in zip(take(joined(), 7), first, second, strict=True):
        assert batch.keys() == {"label", "subject", "valid", "unlabelled"}
        for key in a:
            np.testing.assert_array_equal(batch[key], a[key])
        assert batch["unlabelled"].keys() == b.keys() == {"volume", "subject", "valid"}
        for key in b:
            np.testing.assert_array_equal(batch["unlabelled"][key], b[key])


def test_sizes_of_joined_streams_are_those_of_the_first():
    stream = joined()
    assert (stream.examples, stream.batch_size, stream.steps_per_epoch) == (5, 2, 2)
    assert iter(stream) is stream


def test_joined_streams_resume():
    stream = joined()
    take(stream, 3)
    state = json.loads(json.dumps(stream.get_state()))
    assert state["labelled"]["next_batch"] == state["unlabelled"]["next_batch"] == 3
    expected = take(stream, 4)
    resumed = joined()
    next(resumed)  # earlier reads have no influence
    resumed.set_state(state)
    assert resumed.get_state() == state
    for batch, other in zip(take(resumed, 4), expected, strict=True):
        np.testing.assert_array_equal(batch["label"], other["label"])
        np.testing.assert_array_equal(batch["unlabelled"]["volume"], other["unlabelled"]["volume"])


def test_joined_streams_do_not_resume_other_streams():
    state = joined().get_state()
    with pytest.raises(StreamError, match=r"streams \['labelled', 'unlabelled'\], not \['labelled'\]"):
        Joined({"labelled": labelled()}).set_state(state)
    with pytest.raises(StreamError, match="not one of this stream"):
        Joined({"labelled": labelled(), "unlabelled": unlabelled(seed=3)}).set_state(state)
    with pytest.raises(StreamError, match="streams"):
        joined().set_state(labelled().get_state())


def test_what_cannot_be_joined():
    with pytest.raises(StreamError, match="at least one"):
        Joined({})
    with pytest.raises(StreamError, match=r"not \['unlabelled'\]"):
        Joined({"labelled": labelled(), "unlabelled": unlabelled(train=False)})
    stream = Joined({"labelled": labelled(), "label": unlabelled()})
    with pytest.raises(StreamError, match="'label'"):
        next(stream)
    stream.close()


def test_close_closes_every_stream():
    streams = {"labelled": labelled(), "unlabelled": unlabelled()}
    stream = Joined(streams)
    next(stream)
    stream.close()
    assert all(s._iterator is None for s in streams.values())
    assert stream.get_state()["unlabelled"]["next_batch"] == 1

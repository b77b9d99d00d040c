import json

import numpy as np
import pytest

from morphojax.data.input.stream import Joined, Stream, StreamError, StreamSpec


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


def take(stream, n):
    batches = [next(stream) for _ in range(n)]
    stream.close()
    return batches


def test_a_batch_is_that_of_the_first_and_the_others_under_their_names():
    first, second = take(labelled(), 7), take(unlabelled(), 7)  # over the ends of both epochs
    for batch, a, b in zip(take(joined(), 7), first, second, strict=True):
        assert batch.keys() == {"label", "subject", "valid", "unlabelled"}
        for key in a:
            np.testing.assert_array_equal(batch[key], a[key])
        assert batch["unlabelled"].keys() == b.keys() == {"volume", "subject", "valid"}
        for key in b:
            np.testing.assert_array_equal(batch["unlabelled"][key], b[key])


def test_sizes_are_those_of_the_first():
    stream = joined()
    assert (stream.examples, stream.batch_size, stream.steps_per_epoch) == (5, 2, 2)
    assert iter(stream) is stream


def test_resume():
    stream = joined()
    take(stream, 3)
    state = json.loads(json.dumps(stream.get_state()))
    assert state["labelled"]["next_batch"] == state["unlabelled"]["next_batch"] == 3
    expected = take(stream, 4)
    resumed = joined()
    next(resumed)  # what was read before does not matter
    resumed.set_state(state)
    assert resumed.get_state() == state
    for batch, other in zip(take(resumed, 4), expected, strict=True):
        np.testing.assert_array_equal(batch["label"], other["label"])
        np.testing.assert_array_equal(batch["unlabelled"]["volume"], other["unlabelled"]["volume"])


def test_resume_on_other_streams():
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

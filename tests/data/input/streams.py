"""The three streams by flat keywords, so that a test names only what it is about."""

import dataclasses

import numpy as np

from morphojax.data.input.slices import slice_stream
from morphojax.data.input.stacks import stack_stream
from morphojax.data.input.stream import Stream, StreamSpec
from morphojax.data.input.subjects import ImageSpec, subject_stream
from morphojax.data.store.dataset import Dataset


def pretraining(dataset: Dataset, *, splits=("train",), subjects=None, **options) -> Stream:
    subjects = np.flatnonzero(np.isin(dataset.splits, list(splits))) if subjects is None else subjects
    spec, images = _taken(StreamSpec, options), _taken(ImageSpec, options)
    return subject_stream(dataset, subjects=subjects, spec=spec, images=images, **options)


def segmentation(dataset: Dataset, **options) -> Stream:
    return slice_stream(dataset, spec=_taken(StreamSpec, options), **options)


def stacks(dataset: Dataset, **options) -> Stream:
    return stack_stream(dataset, spec=_taken(StreamSpec, options), **options)


def _taken(kind, options: dict):
    """The dataclass made of those options that are its fields, which leave the options."""
    names = {field.name for field in dataclasses.fields(kind)} & options.keys()
    return kind(**{name: options.pop(name) for name in names})

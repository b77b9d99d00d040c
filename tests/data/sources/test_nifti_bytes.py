"""Memory and lengths: a file takes no more memory than its header says, within a limit."""

import gzip
import struct
import tracemalloc

import pytest

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.nifti import load
from morphojax.data.sources.nifti_bytes import MAX_BYTES
from tests.data.cohorts import image, save


def _changed(path, first, last, data, end=b""):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[first:last] = data
    path.write_bytes(gzip.compress(bytes(content) + end, 1))
    return path


def _refused(path, message):
    tracemalloc.start()
    with pytest.raises(CohortError, match=message) as caught:
        load(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value) and peak < 64 * 2**20


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "sa.nii.gz", image((4, 4, 4)))


def test_more_data_than_the_header_says_is_refused_unread(path):
    _refused(_changed(path, 0, 0, b"", bytes(2**27)), "holds much more than the .* bytes that its header says")


def test_a_small_rest_after_the_voxels_is_allowed(path):
    assert load(_changed(path, 0, 0, b"", bytes(1000)), 3).values().shape == (4, 4, 4)


def test_an_image_too_large_for_a_heart_is_refused_before_memory_is_taken(path):
    _refused(_changed(path, 40, 48, struct.pack("<4h", 3, 2000, 2000, 2000)), "14.9 GiB of voxels .*, more than 0.5")
    assert MAX_BYTES == 2**29


@pytest.mark.parametrize("offset", [1e30, -352.0, float("nan"), float("inf")])
def test_an_impossible_place_of_the_voxels_is_refused(path, offset):
    _refused(_changed(path, 108, 112, struct.pack("<f", offset)), "impossible|not a readable NIfTI")


def test_negative_lengths_are_refused(path):
    _refused(_changed(path, 40, 48, struct.pack("<4h", 3, 4, -4, 4)), "impossible|not a readable NIfTI")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("axes", [0, -1, 8, 2**15 - 1])
def test_an_impossible_number_of_axes_is_refused(path, axes):
    _refused(_changed(path, 40, 42, struct.pack("<h", axes)), "not a readable NIfTI file .*axes")


def test_an_error_of_nibabel_becomes_one_line(path):
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-2]))
    with pytest.raises(CohortError, match=r"the voxels cannot be read .*; copy the file again") as caught:
        load(path, 3)
    assert str(caught.value).isprintable()

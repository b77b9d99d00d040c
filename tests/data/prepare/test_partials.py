"""Partial results are kept when a run is killed; a label of a wrong structure is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.data.geometry import Grid, to_grid
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import Frame, Subject, View
from morphojax.data.store.dataset import Dataset, DatasetError
from tests.data import cohorts
from tests.data.preparing import file_hashes, prepare, prepare_acdc

KILLED = """
import sys, time
from pathlib import Path
from morphojax.data.prepare.partials import PartialResults
from tests.data.preparing import prepare_acdc
write = PartialResults.write
def slow_write(self, subject):
    time.sleep(0.05)
    return write(self, subject)
PartialResults.write = slow_write
prepare_acdc(*map(Path, sys.argv[1:]))
"""


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_run_continues_and_gives_the_same_bytes(tmp_path, after):
    root = cohorts.acdc(tmp_path / "cohort", subjects=6)
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(root), str(output)], env=os.environ)
    deadline = time.monotonic() + 120
    while len(list(output.glob(".partial/*.msgpack"))) < after and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert after <= len(list(output.glob(".partial/*.msgpack"))) < 6
    with pytest.raises(DatasetError, match="not a prepared dataset"):
        Dataset.open(output)
    with pytest.raises(PrepareError, match="other settings"):
        prepare_acdc(root, output, grid=Grid(2.0, 16))
    prepare_acdc(root, output)
    prepare_acdc(root, tmp_path / "uninterrupted")
    assert file_hashes(output) == file_hashes(tmp_path / "uninterrupted")


@pytest.mark.parametrize("kind", cohorts.BLACK)
@pytest.mark.parametrize("frame", ["01", "09"])
def test_a_black_image_is_reported_by_the_name_of_its_subject(tmp_path, kind, frame):
    root, pseudonym = cohorts.acdc(tmp_path / "cohort", subjects=3), Pseudonyms(b"k" * 32)
    settings = {"grid": Grid(1.5, 16), "pseudonym": pseudonym}
    before = prepare_acdc(root, tmp_path / "before", **settings)
    assert not before.manifest.warnings and before.report.empty
    path = root / f"training/patient002/patient002_frame{frame}.nii.gz"
    cohorts.save(path, cohorts.BLACK[kind]((20, 24, 4)))
    after = prepare_acdc(root, tmp_path / "after", **settings)
    message = "sax: a black image: nearly all of its voxels are equal, or those inside the crop are black"
    assert after.manifest.warnings == {message: 1}
    assert after.report.to_numpy().tolist() == [[pseudonym("patient002"), "warning", message]]


def test_labels_are_resampled_to_the_nearest_voxel(tmp_path):
    root, output = cohorts.acdc(tmp_path / "cohort", subjects=1), tmp_path / "out"
    prepare_acdc(root, output, grid=Grid(1.1, 16))
    dataset = Dataset.open(output)
    native, placement = dataset.native("sax", 0)
    labels = [dataset.slices("sax")[z]["label"] for z in range(4)]
    np.testing.assert_array_equal(labels, to_grid(native, placement, 0))
    assert not np.array_equal(labels, to_grid(native, placement, 1))  # which puts a third class between two


class _OneLabel:
    """A source of one 2-chamber image, whose label holds one structure."""

    root = Path("wrong")
    frames = "phases"

    def __init__(self, structure: str):
        self.structure = structure

    def subjects(self):
        return ["a"]

    def read(self, subject, planes):
        label = np.zeros((8, 8, 1), np.uint8)
        label[2:5, 2:5] = anatomy.LABEL_ID[self.structure]
        image = np.arange(64, dtype=np.float32).reshape(8, 8, 1)
        frame = Frame("ED", image, label, np.diag([2.0, 2, 8, 1]))
        return Subject(subject, {"la_2ch": View("la_2ch", (frame,), anatomy.STRUCTURES)})

    def table(self):
        return None


@pytest.mark.parametrize(
    "error", [OverflowError("cannot convert"), NotImplementedError(), KeyError("x"), MemoryError()]
)
def test_whatever_a_subject_raises_is_its_failure_alone(tmp_path, monkeypatch, error):
    read = Acdc.read

    def spoiled(self, subject, planes):
        if subject == "patient002":
            raise error
        return read(self, subject, planes)

    monkeypatch.setattr(Acdc, "read", spoiled)
    root = cohorts.acdc(tmp_path / "cohort", subjects=3)
    summary = prepare_acdc(root, tmp_path / "out")
    failed = summary.report[summary.report["status"] == "failed"]
    assert failed["subject"].tolist() == ["patient002"]
    assert failed["message"].iloc[0].startswith(type(error).__name__)


def test_a_label_of_a_structure_that_the_plane_does_not_show_is_refused(tmp_path):
    settings = {"name": "x", "planes": ("la_2ch",), "grid": Grid(2.0, 8), "workers": 1, "progress": False}
    with pytest.raises(PrepareError, match="la_2ch ED: the label holds ra_cavity"):
        prepare(_OneLabel("ra_cavity"), tmp_path / "a", strict=True, **settings)
    prepare(_OneLabel("la_cavity"), tmp_path / "b", strict=True, **settings)

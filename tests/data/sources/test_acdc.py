import os
from pathlib import Path

import numpy as np
import pytest

from morphojax.data.sources.acdc import Acdc
from morphojax.data.sources.base import CohortError
from tests.data import cohorts

SHARED = Path(os.environ.get("MORPHOJAX_SHARED", Path(__file__).parents[4] / "shared"))


@pytest.fixture
def root(tmp_path):
    return cohorts.acdc(tmp_path, subjects=2)


def test_reads_phases_labels_and_table(root):
    source = Acdc(root)
    assert source.subjects() == ["patient001", "patient002"]
    view = source.read("patient002", ("sax",)).views["sax"]
    assert [f.phase for f in view.frames] == ["ED", "ES"]
    np.testing.assert_array_equal(view.frames[1].image, cohorts.image(seed=209))
    np.testing.assert_array_equal(view.frames[0].label, np.array([0, 3, 2, 1])[cohorts.label(radius=7)])
    frame, schema = source.table()
    assert frame.loc["patient002", "lv_edv_ml"] == 2.0 and frame.loc["patient001", "group"] == "NOR"
    assert schema.groups == ("cardiac_morphometric", "medical_history")
    assert source.read("patient002", ("la_2ch",)).views == {}


def test_the_root_may_be_the_folder_of_patients(root):
    inner = Acdc(root / "training")
    assert inner.subjects() == ["patient001", "patient002"]
    assert len(inner.table()[0]) == 2  # found one level up
    assert Acdc(root, table=root / "morphometrics.csv").table() is not None


def test_a_cine_gives_the_mid_frame_and_absent_phases(root):
    cine = cohorts.image((20, 24, 4, 12), seed=5)
    folder = root / "training" / "patient001"
    cohorts.save(folder / "patient001_4d.nii.gz", cine)
    (folder / "patient001_frame09.nii.gz").unlink()
    frames = Acdc(root).read("patient001", ("sax",)).views["sax"].frames
    assert [f.phase for f in frames] == ["ED", "mid", "ES"]
    assert [f.phase_from for f in frames] == ["metadata", "halfway", "metadata"]
    np.testing.assert_array_equal(frames[1].image, cine[..., 4])  # frame 5, counting from 1: halfway from 1 to 9
    np.testing.assert_array_equal(frames[2].image, cine[..., 8])
    assert frames[1].label is None and frames[2].label is not None
    (folder / "Info.cfg").write_text("ED: 1\nES: 2\n")
    frames = Acdc(root).read("patient001", ("sax",)).views["sax"].frames
    assert [f.phase for f in frames] == ["ED", "ES"]  # no frame lies between
    (folder / "Info.cfg").write_text("ED: 1\nES: 13\n")
    with pytest.raises(CohortError, match="ES is frame 13 of a cine of 12"):
        Acdc(root).read("patient001", ("sax",))


def test_other_frames_of_the_cine_are_kept_without_labels(root):
    cine = cohorts.image((20, 24, 4, 12), seed=5)
    cohorts.save(root / "training/patient001/patient001_4d.nii.gz", cine)
    view = Acdc(root, frames="5").read("patient001", ("sax",)).views["sax"]
    assert [f.phase for f in view.frames] == ["ED", "mid", "ES"]
    assert [f.phase for f in view.cine] == ["t000", "t002", "t004", "t007", "t009"]
    np.testing.assert_array_equal([f.image for f in view.cine], np.moveaxis(cine, 3, 0)[[0, 2, 4, 7, 9]])
    assert all(f.label is None for f in view.cine)
    without_cine = Acdc(root, frames="5").read("patient002", ("sax",))
    assert without_cine.warnings == ("sax: no cine",) and len(without_cine.views["sax"].cine) == 0


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("ED: 1\n", "no ES"),
        ("ES: 9\n", "no ED"),
        ("ED: 0\nES: 9\n", "ED is '0'"),
        ("ED: 1\nES: nine\n", "ES is 'nine'"),
        ("ED: 1\nES: 40\nNbFrame: 30\n", "ES is frame 40 of 30"),
        ("ED: 1\nES: 10\n", "frame10.nii.gz is absent"),
        ("ED = 1\n", "must have the form"),
    ],
)
def test_bad_phases_in_info_are_refused(root, info, message):
    (root / "training/patient001/Info.cfg").write_text(info)
    with pytest.raises(CohortError, match=message) as caught:
        Acdc(root).read("patient001", ("sax",))
    assert "patient001" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("ED: 1\nES: 1\n", "ED and ES are both frame 1"), ("ED: 1\nES: 9\nES: 5\n", "ES appears twice")],
)
def test_phases_that_contradict_are_refused(root, text, message):
    (root / "training/patient001/Info.cfg").write_text(text)
    with pytest.raises(CohortError, match=message):
        Acdc(root).read("patient001", ("sax",))


def test_info_with_a_byte_order_mark_is_read(root):
    path = root / "training/patient001/Info.cfg"
    expected = cohorts.frames_of(Acdc(root).read("patient001", ("sax",)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert cohorts.frames_of(Acdc(root).read("patient001", ("sax",))).keys() == expected.keys()


def test_an_absent_info_is_refused(root):
    (root / "training/patient001/Info.cfg").unlink()
    with pytest.raises(CohortError, match=r"Info.cfg: cannot be read"):
        Acdc(root).read("patient001", ("sax",))


def test_a_subject_in_two_folders_is_refused(root):
    cohorts.save(root / "testing/patient001/patient001_frame01.nii.gz", cohorts.image())
    with pytest.raises(CohortError, match="found twice"):
        Acdc(root).subjects()


@pytest.mark.skipif(not (SHARED / "data/acdc").is_dir(), reason="the ACDC images are not on this machine")
def test_real_volumes_agree_with_the_published_table():
    source = Acdc(SHARED / "data/acdc")
    frame, _ = source.table()
    subject = source.subjects()[0]
    for phase, f in zip(("ed", "es"), source.read(subject, ("sax",)).views["sax"].frames, strict=True):
        voxel = abs(np.linalg.det(f.affine[:3, :3])) / 1000
        for number, column in ((1, f"lv_{phase}v_ml"), (3, f"rv_{phase}v_ml")):
            assert (f.label == number).sum() * voxel == pytest.approx(frame.loc[subject, column], rel=0.01)

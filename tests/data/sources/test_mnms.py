import nibabel as nib
import numpy as np
import pytest

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.mnms import Mnms
from tests.data import cohorts
from tests.data.sources.challenge_files import MNMS_CSV, MNMS_HEADER, SHAPE, mnms, sheared


def _read(root):
    return Mnms(root).read("A1", ("sax",))


def test_frames_table_and_splits(tmp_path):
    mnms(tmp_path)
    subject = Mnms(tmp_path, frames="all").read("A1", ("sax",))
    view = subject.views["sax"]
    assert [(f.phase, f.label is not None) for f in view.frames] == [("ED", True), ("mid", False), ("ES", True)]
    assert [f.phase_from for f in view.frames] == ["metadata", "halfway", "metadata"]
    for frame, t in zip(view.frames, (0, 1, 3), strict=True):
        np.testing.assert_array_equal(frame.image, cohorts.image(SHAPE)[..., t])
    np.testing.assert_array_equal(view.frames[2].label, cohorts.label(SHAPE)[..., 3])  # 1 LV, 2 myocardium, 3 RV
    assert [f.label is not None for f in view.cine] == [True, False, False, True, False, False]
    assert subject.warnings == ()
    frame, schema = Mnms(tmp_path).table()
    assert frame.loc["A1", "height_cm"] == 180 and np.isnan(frame.loc["A1", "weight_kg"])
    assert frame.loc["A1", "centre"] == "1" and schema.select("acquisition").names == ("vendor", "centre")
    assert schema.without_leaks("diagnosis").names == tuple(n for n in schema.names if n != "pathology")
    assert Mnms(tmp_path).splits() == {"A1": "train"}


def test_other_csv_names_headers_and_roots(tmp_path):
    mnms(tmp_path, part="Testing")
    (tmp_path / MNMS_CSV).rename(tmp_path / "201014_M&Ms_Dataset_Information_-_opendataset.csv")
    (tmp_path / "201014_M&Ms_Dataset_Information_-_opendataset.csv").write_text(
        "﻿External code,Vendor,Centre,ED,ES\nA1,B,2,0.0,3.0\n,,,,\n", encoding="utf-8"
    )
    assert Mnms(tmp_path).table()[1].names == ("vendor", "centre")
    inner = Mnms(tmp_path / "Testing")
    assert inner.subjects() == ["A1"] and list(_read(tmp_path / "Testing").views) == ["sax"]
    with pytest.raises(CohortError, match="which define the official split"):
        inner.splits()


def test_label_files_of_unlabelled_subjects_are_not_read(tmp_path):
    folder = mnms(tmp_path, part="Training/Unlabeled")
    (folder / "A1_sa_gt.nii.gz").write_bytes(b"no label at all")
    for root in (tmp_path, tmp_path / "Training/Unlabeled"):
        assert all(f.label is None for f in _read(root).views["sax"].frames)


def test_subjects_in_folders_of_other_names_are_found(tmp_path):
    mnms(tmp_path, part="Training/Labelled")
    mnms(tmp_path, part="Training/Unlabelled", code="B2", row="0,A1,,A,1,0,3,,,,,\n1,B2,,A,1,0,3,,,,,")
    (tmp_path / "Testing").mkdir()
    cohorts.save(tmp_path / "junk/._C3_sa.nii.gz", cohorts.image())
    source = Mnms(tmp_path)
    assert source.subjects() == ["A1", "B2"] and source.splits() == {"A1": "train", "B2": "train"}
    labelled = [source.read(s, ("sax",)).views["sax"].frames[0].label is not None for s in source.subjects()]
    assert labelled == [True, False]
    (tmp_path / "Testing").rmdir()
    (tmp_path / "Training/Unlabelled").rename(tmp_path / "elsewhere")
    (tmp_path / "Testing").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CohortError, match="found twice"):
        Mnms(tmp_path).subjects()
    with pytest.raises(CohortError, match="no subfolder holds"):
        Mnms(tmp_path / "junk").subjects()


def _write_labels(values, dtype=np.uint8, shape=SHAPE):
    def write(folder):
        array = np.zeros(shape, dtype)
        array[8:12, 8:12, :, [0, 3]] = values
        cohorts.save(folder / "A1_sa_gt.nii.gz", array)

    return write


def _write_rows(*rows, header=MNMS_HEADER):
    return lambda folder: (folder.parents[2] / MNMS_CSV).write_text(header + "\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_write_labels(7), "label values 7 are not in the convention mnms"),
        (_write_labels(1.5, np.float32), "label values 1.5 are not"),
        (_write_labels(1, shape=(20, 24, 3, 6)), "label of shape"),
        (_write_labels(1, shape=(20, 24, 4, 5)), "5 frames for a cine of 6"),
        (_write_rows("0,A1,,A,1,0,2,,,,,"), "labels at frame 3, counting from 0, while .* gives ED 0 and ES 2"),
        (_write_rows("0,A1,,A,1,0,6,,,,,"), "labels at frame 3|ES is frame 6"),
        (_write_rows("0,A1,,A,1,,3,,,,,"), "ED of subject A1 is ''"),
        (_write_rows("0,A1,,A,1,-1,3,,,,,"), "ED of subject A1 is '-1'"),
        (_write_rows(f"0,A1,,A,1,{'9' * 5000},3,,,,,"), "ED of subject A1 is '999"),
        (_write_rows("0,A1,,A,1,0,2.5,,,,,"), "ES of subject A1 is '2.5'"),
        (_write_rows("0,B7,,A,1,0,3,,,,,"), "no row of subject A1"),
        (_write_rows("0,A1,,A,1,0,3,,,,,", "1,A1,,A,1,0,3,,,,,"), "line 3: this external code already has a row"),
        (_write_rows("0,,,A,1,0,3,,,,,"), "line 2: no external code"),
        (_write_rows("0,A1,A,1,0,3,,,,,"), "line 2: 11 cells under a header of 12"),
        (_write_rows("0;A1", header="x;External code;ED;ES\n"), "line 2: 2 cells under a header of 4"),
        (_write_rows("A1,0,3", header="External code,ED,EX\n"), "no column es"),
        (_write_rows("A1,0,3,3", header="External code,ED,ES,ED\n"), "column ED appears twice"),
        (lambda folder: (folder.parents[2] / MNMS_CSV).unlink(), "no CSV named"),
        (lambda folder: (folder.parents[2] / MNMS_CSV).write_bytes(b"\xff\xfe\x00"), "cannot be read as a table"),
        (lambda folder: (folder.parents[2] / f"2{MNMS_CSV}").write_text(MNMS_HEADER), "both give the frames"),
        (lambda folder: (folder / "A1_sa.nii.gz").unlink(), "A1_sa.nii.gz is absent"),
    ],
)
def test_bad_input_is_refused(tmp_path, damage, message):
    damage(mnms(tmp_path))
    assert Mnms(tmp_path).subjects() == ["A1"]
    with pytest.raises(CohortError, match=message) as caught:
        _read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_impossible_phases_and_unlabelled_frames(tmp_path):
    folder = mnms(tmp_path, row="0,A1,,A,1,0,6,,,,,")
    (folder / "A1_sa_gt.nii.gz").unlink()
    with pytest.raises(CohortError, match="ES is frame 6, counting from 0, of a cine of 6 frames"):
        _read(tmp_path)
    (tmp_path / MNMS_CSV).write_text(MNMS_HEADER + "0,A1,,A,1,3,3,,,,,\n")
    with pytest.raises(CohortError, match="ED and ES are both frame 3"):
        _read(tmp_path)
    (tmp_path / MNMS_CSV).write_text(MNMS_HEADER + "0,A1,,A,1,0,3,,,,,\n")
    labels = cohorts.label(SHAPE)
    labels[..., 1:] = 0
    cohorts.save(folder / "A1_sa_gt.nii.gz", labels)
    subject = _read(tmp_path)
    assert subject.warnings == ("sax: nothing drawn at ES, taken as not labelled",)
    assert [f.label is not None for f in subject.views["sax"].frames] == [True, False, False]


def test_text_in_a_numeric_column_is_refused(tmp_path):
    mnms(tmp_path, row="0,A1,,A,1,0,3,old,,,,")
    with pytest.raises(CohortError, match=r"M&Ms.*'age_years'.*not a number"):
        Mnms(tmp_path).table()


def test_a_subject_in_two_folders_is_refused(tmp_path):
    mnms(tmp_path)
    mnms(tmp_path, part="Testing")
    with pytest.raises(CohortError, match="found twice"):
        Mnms(tmp_path).subjects()


def test_nearly_orthonormal_direction_cosines_are_corrected(tmp_path):
    mnms(tmp_path, affine=sheared(0.004))
    subject = _read(tmp_path)
    assert subject.warnings == ("sax: direction cosines not quite orthonormal, made so",)
    affine = subject.views["sax"].frames[0].affine
    np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.diag([2.25, 2.25, 100]), atol=1e-5)
    centre = [9.5, 11.5, 1.5, 1]
    np.testing.assert_allclose(affine @ centre, sheared(0.004) @ centre, atol=1e-5)
    corner = [0, 0, 0, 1]
    assert 1e-3 < np.abs((affine - sheared(0.004)) @ corner).max() < 0.1
    mnms(tmp_path, affine=sheared(0.05))
    with pytest.raises(CohortError, match=r"A1_sa.nii.gz: two axes .* cosine of 0.05"):
        _read(tmp_path)
    mnms(tmp_path, affine=nib.affines.from_matvec(np.diag([-1.5, -1.5, 10]), [0.3, 0.1, 7]))
    assert _read(tmp_path).warnings == ()

import numpy as np
import pytest

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.ukb_nifti import UkbNifti
from tests.data.cohorts import image, label, save

SHAPE, FRAMES = (20, 24, 3), 9


def _beating(plane_values=(1, 2, 3), smallest=4) -> np.ndarray:
    """[X, Y, Z, T]: the disc shrinks until the frame `smallest`, then grows."""
    radii = [8 - (4 - abs(t - smallest)) for t in range(FRAMES)]
    return np.stack([label(SHAPE, plane_values, r) for r in radii], axis=-1)


def _cine(labels: np.ndarray) -> np.ndarray:
    return (labels > 0).astype(np.int16) * 500 + image((*SHAPE, FRAMES)) // 50


def _read(root, planes=("sax",)):
    (subject,) = UkbNifti(root).subjects()
    return UkbNifti(root).read(subject, planes)


def test_phase_files(tmp_path):
    for phase in ("ED", "ES"):
        save(tmp_path / f"s1/sa_{phase}.nii.gz", image(SHAPE))
        save(tmp_path / f"s1/label_sa_{phase}.nii.gz", label(SHAPE))
    view = _read(tmp_path).views["sax"]
    assert [f.phase for f in view.frames] == ["ED", "ES"]
    assert view.labelled == ("lv_cavity", "lv_myocardium", "rv_cavity")
    np.testing.assert_array_equal(view.frames[0].label, label(SHAPE))  # on disk, this plane has canonical ids
    np.testing.assert_array_equal(view.frames[1].image, image(SHAPE))


def test_end_systole_is_the_smallest_cavity_of_labelled_frames(tmp_path):
    labels = _beating(smallest=6)
    labels[..., 2] = 0  # not annotated, so not the smallest cavity
    save(tmp_path / "s1/sa.nii.gz", _cine(_beating(smallest=6)))
    save(tmp_path / "s1/seg_sa.nii.gz", labels)
    subject = _read(tmp_path)
    frames = {f.phase: f for f in subject.views["sax"].frames}
    assert list(frames) == ["ED", "mid", "ES"] and subject.warnings == ()
    assert [f.phase_from for f in frames.values()] == ["first frame", "halfway", "segmentation"]
    cine = _cine(_beating(smallest=6))
    for phase, t in (("ED", 0), ("mid", 3), ("ES", 6)):
        np.testing.assert_array_equal(frames[phase].image, cine[..., t])
        np.testing.assert_array_equal(frames[phase].label, labels[..., t])


def test_end_systole_of_a_long_axis_is_the_largest_atrium(tmp_path):
    labels = np.stack([label((20, 24, 1), (1,), 4 + t if t < 5 else 12 - t) for t in range(FRAMES)], axis=-1)
    save(tmp_path / "s1/la_2ch.nii.gz", image(labels.shape))
    save(tmp_path / "s1/label_la_2ch.nii.gz", labels)
    view = _read(tmp_path, ("la_2ch",)).views["la_2ch"]
    assert view.labelled == ("la_cavity",)
    np.testing.assert_array_equal(view.frames[2].image, image(labels.shape)[..., 4])
    assert set(np.unique(view.frames[2].label)) == {0, 4}  # the canonical id of the left atrium


def test_end_systole_from_images_alone_gives_a_warning(tmp_path):
    cine = _cine(_beating(smallest=4))
    save(tmp_path / "s1/sa.nii.gz", cine)
    subject = _read(tmp_path)
    np.testing.assert_array_equal(subject.views["sax"].frames[2].image, cine[..., 4])
    assert subject.warnings == ("sax: ES assumed to be the frame that differs most from frame 0",)
    assert subject.views["sax"].frames[2].phase_from == "motion"
    assert all(f.label is None for f in subject.views["sax"].frames)


def test_a_phase_file_wins_over_the_cine_and_defines_the_mid_frame(tmp_path):
    cine = _cine(_beating(smallest=4))
    save(tmp_path / "s1/sa.nii.gz", cine)
    save(tmp_path / "s1/sa_ES.nii.gz", cine[..., 6])
    frames = _read(tmp_path).views["sax"].frames
    np.testing.assert_array_equal(frames[1].image, cine[..., 3])
    np.testing.assert_array_equal(frames[2].image, cine[..., 6])
    assert [f.phase_from for f in frames] == ["first frame", "halfway", "file"]


def test_other_frames_of_the_cine_are_kept_beside_the_phases(tmp_path):
    labels = _beating()
    labels[..., [3, 5]] = 0
    save(tmp_path / "s1/sa.nii.gz", _cine(_beating()))
    save(tmp_path / "s1/seg_sa.nii.gz", labels)
    phases = UkbNifti(tmp_path).read("s1", ("sax",)).views["sax"]
    assert len(phases.cine) == 0
    for choice, numbers in (("all", range(9)), ("4", (0, 2, 4, 6)), ("1", (0,)), ("20", range(9))):
        view = UkbNifti(tmp_path, frames=choice).read("s1", ("sax",)).views["sax"]
        assert [f.phase for f in view.frames] == ["ED", "mid", "ES"]
        assert [f.phase for f in view.cine] == [f"t{t:03d}" for t in numbers]
        for frame, t in zip(view.cine, numbers, strict=True):
            np.testing.assert_array_equal(frame.image, _cine(_beating())[..., t])
            np.testing.assert_array_equal(frame.affine, view.frames[0].affine)
            if t in (3, 5):  # not annotated
                assert frame.label is None
            else:
                np.testing.assert_array_equal(frame.label, labels[..., t])


def test_an_absent_cine_and_a_bad_choice_of_frames(tmp_path):
    save(tmp_path / "s1/sa_ED.nii.gz", image(SHAPE))
    subject = UkbNifti(tmp_path, frames="all").read("s1", ("sax",))
    assert subject.warnings == ("sax: no ES image", "sax: no cine") and len(subject.views["sax"].cine) == 0
    for wrong in ("some", "0", "-3", "2.5", ""):
        with pytest.raises(CohortError, match=f"frames={wrong!r}: choose phases, all, or a number"):
            UkbNifti(tmp_path, frames=wrong)


def test_manual_labels_come_before_automatic_ones(tmp_path):
    save(tmp_path / "s1/la_4ch_ED.nii.gz", image((20, 24, 1)))
    save(tmp_path / "s1/la_4ch_ES.nii.gz", image((20, 24, 1)))
    save(tmp_path / "s1/seg4_la_4ch_ED.nii.gz", label((20, 24, 1), (1, 2, 3, 4, 5)))
    view = _read(tmp_path, ("la_4ch",)).views["la_4ch"]
    assert len(view.labelled) == 5 and set(np.unique(view.frames[0].label)) == {0, 1, 2, 3, 4, 5}
    assert view.frames[1].label is None
    save(tmp_path / "s1/label_la_4ch_ED.nii.gz", label((20, 24, 1), (1, 2)))
    view = _read(tmp_path, ("la_4ch",)).views["la_4ch"]
    assert view.labelled == ("la_cavity", "ra_cavity") and set(np.unique(view.frames[0].label)) == {0, 4, 5}


def test_a_cine_without_end_systole(tmp_path):
    save(tmp_path / "s1/sa.nii.gz", image((*SHAPE, 1)))
    assert _read(tmp_path).warnings == ("sax: a cine of one frame, so no ES",)
    still = np.repeat(image(SHAPE)[..., None], 4, axis=-1)
    save(tmp_path / "s1/sa.nii.gz", still)
    subject = _read(tmp_path)
    assert [f.phase for f in subject.views["sax"].frames] == ["ED"]
    assert any("no frame but ED looks like ES" in w for w in subject.warnings)


def test_absent_phases_and_planes(tmp_path):
    save(tmp_path / "s1/sa_ED.nii.gz", image(SHAPE))
    subject = _read(tmp_path, ("sax", "la_2ch"))
    assert list(subject.views) == ["sax"]
    assert subject.warnings == ("sax: no ES image", "la_2ch: no images")
    (tmp_path / "s1/sa_ED.nii.gz").rename(tmp_path / "s1/sa_ES.nii.gz")
    with pytest.raises(CohortError, match="needs ED"):
        _read(tmp_path)


def test_labels_without_their_image_or_frames_are_refused(tmp_path):
    save(tmp_path / "s1/sa.nii.gz", _cine(_beating()))
    save(tmp_path / "s1/label_sa.nii.gz", _beating()[..., :5])
    with pytest.raises(CohortError, match="5 frames for a cine of 9"):
        _read(tmp_path)
    save(tmp_path / "s1/la_4ch_ED.nii.gz", image((20, 24, 1)))
    (tmp_path / "s1/sa.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"label_sa\* has no image"):
        _read(tmp_path)


def test_empty_and_absent_roots_are_refused(tmp_path):
    with pytest.raises(CohortError, match="no subfolder holds"):
        UkbNifti(tmp_path).subjects()
    with pytest.raises(CohortError, match="no such folder"):
        UkbNifti(tmp_path / "x").subjects()


DICTIONARY = "name,kind,group,unit\nage,continuous,demographic,years\ncode,categorical,lifestyle,\n"


def _table(tmp_path, text, dictionary=DICTIONARY):
    (tmp_path / "table.csv").write_text(text)
    (tmp_path / "dictionary.csv").write_text(dictionary)
    return UkbNifti(tmp_path).table()


def test_table(tmp_path):
    assert UkbNifti(tmp_path).table() is None
    frame, schema = _table(tmp_path, "subject,age,code,unused\n001,50.5,01,x\n2,,02,y\n")
    assert frame.index.tolist() == ["001", "2"]  # ids are texts, so leading zeros stay
    assert frame["code"].tolist() == ["01", "02"] and np.isnan(frame["age"].iloc[1])
    assert schema.names == ("age", "code") and list(frame.columns) == ["age", "code"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,age,code\n1,5,a\n1,6,b\n", r"rows 0 and 1 \(counting from 0\) have the same subject"),
        ("person,age,code\n1,5,a\n", "no key column 'subject'"),
        ("subject,age,code\n1,old,a\n", "not a number"),
        ("subject,age\n1,5\n", "no column 'code'"),
        ("subject,age,code\n,5,a\n", "row 0 .* has no subject"),
        ("", "cannot be read"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(CohortError, match=message) as caught:
        _table(tmp_path, text)
    assert "table.csv" in str(caught.value)


def test_a_dictionary_that_describes_the_key_column_is_refused(tmp_path):
    dictionary = "name,kind,group\nsubject,categorical,demographic\nage,continuous,demographic\n"
    with pytest.raises(CohortError, match=r"the dictionary describes the key column 'subject'; remove it there"):
        _table(tmp_path, "subject,age\n1,5\n", dictionary)


def test_a_table_needs_a_dictionary(tmp_path):
    (tmp_path / "table.csv").write_text("subject,age\n1,5\n")
    with pytest.raises(CohortError, match="dictionary"):
        UkbNifti(tmp_path).table()
    with pytest.raises(CohortError, match="no such file"):
        UkbNifti(tmp_path, table=tmp_path / "absent.csv").table()

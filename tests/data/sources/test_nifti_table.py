import numpy as np
import pytest

from morphojax.data.sources.base import CohortError
from tests.data import cohorts
from tests.data.sources.challenge_files import ED, ES, LABELS, MAPPING_HEADER, SHAPE, mapped


def test_an_image_of_a_phase_wins_over_the_cine(tmp_path):
    source = mapped(
        tmp_path,
        f"p 1,sax,ed,ed.nii.gz,ed_m.nii.gz,{LABELS},,",
        "p 1,sax,cine,cine.nii.gz,,,0,4",
        header=MAPPING_HEADER.upper(),
    )
    assert source.subjects() == ["p 1"] and source.splits() is None
    frames = cohorts.frames_of(source.read("p 1", ("sax",)))
    np.testing.assert_array_equal(frames["ED"].image, cohorts.image(seed=1))
    np.testing.assert_array_equal(frames["mid"].image, cohorts.image(SHAPE)[..., 2])
    assert frames["ED"].label is not None and frames["ES"].label is None


def test_the_required_columns_are_enough(tmp_path):
    source = mapped(tmp_path, "1,sax,ED,ed.nii.gz", "2,sax,ED,es.nii.gz", header="subject,plane,phase,image\n")
    subject = source.read("2", ("sax", "la_4ch"))
    assert subject.warnings == ("sax: no ES image", "la_4ch: no images")
    assert subject.views["sax"].labelled == ()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((ED.replace("sax", "sagittal"),), "line 2: plane 'sagittal' is not one of"),
        ((ED, ES.replace("ES,", "end,", 1)), "line 3: phase 'end' is not one of"),
        ((ED, ES.replace("ES,", "ED,", 1)), "line 3: this subject, plane and phase already appears in line 2"),
        ((ED, ES.replace("es.nii", "ed.nii")), "line 3: this image already appears in line 2"),
        ((ED, ES.replace("es.nii", "./ed.nii")), "line 3: this image already appears in line 2"),
        ((ED, ES.replace("es_m", "ed_m")), "line 3: this label already appears in line 2"),
        ((ED.replace("p,", ",", 1),), "line 2: no subject"),
        ((ED.replace("ed.nii.gz", ""),), "line 2: no image"),
        ((ED.replace("ed.nii.gz", "../ed.nii.gz"),), "must be a path relative to the folder"),
        ((ED.replace("ed.nii.gz", "/ed.nii.gz"),), "must be a path relative to the folder"),
        ((ED.replace("ed.nii.gz", "C:\\ed.nii.gz"),), "must be a path relative to the folder"),
        ((ED.replace("ed_m.nii.gz", "x/../../m.nii.gz"),), "must be a path relative to the folder"),
        ((ED.replace(LABELS, ""),), "fill both label and labels"),
        ((ED.replace("ed_m.nii.gz", ""),), "fill both label and labels"),
        ((ED.replace("rv_cavity", "liver"),), "labels: 'liver' is not one of"),
        ((ED.replace(":3", ":2"),), "the number 2 appears twice"),
        ((ED.replace("rv_cavity:3", "lv_cavity:3"),), "appears twice"),
        ((ED.replace(":3", ":0"),), "rv_cavity has the number '0'"),
        ((ED.replace(":3", ""),), "rv_cavity has the number ''"),
        ((ED.replace(LABELS, ";"),), "names no structure"),
        ((ED[:-1] + "3,",), "ed_frame is|cells under a header"),
        (("p,sax,,cine.nii.gz,,,one,2",), "ed_frame is 'one'"),
        (("p,sax,ED,ed.nii.gz,,,0,",), "ed_frame is '0'; .* of a 4-D file"),
        ((), "no rows"),
    ],
)
def test_a_mapping_with_a_bad_row_is_refused(tmp_path, rows, message):
    source = mapped(tmp_path, *rows)
    with pytest.raises(CohortError, match=message) as caught:
        source.subjects()
    assert str(tmp_path / "mapping.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((ED.replace("ed.nii", "gone.nii"),), "line 2: image gone.nii.gz: no such file"),
        ((ED.replace("ed.nii", "e" * 999 + ".nii"),), "line 2: image eee.*: no such file"),
        ((ED.replace("ed_m", "gone"),), "line 2: label gone.nii.gz: no such file"),
        ((ED, ES.replace(":3", ":4")), "lines 2, 3: the same plane of a subject with different labels"),
        ((ED.replace(";rv_cavity:3", ""),), "label values 3 are not in the convention lv_cavity:1;lv_myocardium:2 "),
        ((ES,), "no ED of the plane sax"),
        (("p,sax,,cine.nii.gz,,,,3",), "no ED of the plane sax"),
        (("p,sax,,cine.nii.gz,,,0,6",), "ES is frame 6, counting from 0, of a cine of 6"),
        (("p,sax,,ed.nii.gz,,,0,1",), "no time axis"),
        (("p,sax,ED,cine.nii.gz,,,,",), "must have 3 axes"),
        ((f"p,sax,,cine.nii.gz,ed_m.nii.gz,{LABELS},0,1",), "no time axis"),
    ],
)
def test_bad_files_of_a_subject_are_refused(tmp_path, rows, message):
    source = mapped(tmp_path, *rows)
    assert source.subjects() == ["p"]
    with pytest.raises(CohortError, match=message):
        source.read("p", ("sax",))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    source = mapped(tmp_path / "in", ED)
    (tmp_path / "in" / "ed.nii.gz").rename(tmp_path / "ed.nii.gz")
    (tmp_path / "in" / "ed.nii.gz").symlink_to(tmp_path / "ed.nii.gz")
    with pytest.raises(CohortError, match=r"line 2: image ed.nii.gz: a link that leads out of"):
        source.read("p", ("sax",))
    (tmp_path / "in" / "elsewhere.nii.gz").write_bytes((tmp_path / "ed.nii.gz").read_bytes())
    (tmp_path / "in" / "ed.nii.gz").unlink()
    (tmp_path / "in" / "ed.nii.gz").symlink_to("elsewhere.nii.gz")
    assert source.read("p", ("sax",)).views


def test_an_absent_changed_or_misspelt_mapping(tmp_path):
    source = mapped(tmp_path, ED)
    assert source.subjects() == ["p"]
    (tmp_path / "mapping.csv").write_text(MAPPING_HEADER + ED.replace("p,", "q,", 1) + "\n" + "\n")
    assert source.subjects() == ["q"]
    (tmp_path / "mapping.csv").write_text(MAPPING_HEADER.replace("labels", "lables") + ED + "\n")
    with pytest.raises(CohortError, match="unknown column 'lables'"):
        source.subjects()
    (tmp_path / "mapping.csv").unlink()
    with pytest.raises(CohortError, match=r"mapping.csv: cannot be read .* columns subject, plane, phase, image"):
        source.subjects()

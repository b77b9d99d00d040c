"""M&Ms, M&Ms-2 and mapped folders, made of the synthetic cohort: what comes out must be what went in."""

import nibabel as nib
import numpy as np
import pytest

from morphojax.data.geometry import Grid
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.mnms import Mnms
from morphojax.data.sources.mnms2 import Mnms2
from morphojax.data.sources.nifti_table import NiftiTable
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.store.dataset import Dataset
from tests.data import cohorts
from tests.data.preparing import prepare

GRID = Grid(2.5, 48)
CSV = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
HEADER = ",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n"
SHAPE = (20, 24, 4, 6)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Synthetic(generate(tmp_path_factory.mktemp("synthetic"), 4, seed=0, workers=1, progress=False))


def _prepared(source, output, planes, name, **options):
    prepare(source, output, name=name, planes=planes, grid=GRID, workers=1, progress=False, **options)
    return Dataset.open(output)


@pytest.mark.parametrize(
    ("name", "planes"), [("mnms", ("sax",)), ("mnms2", ("sax", "la_4ch")), ("nifti_table", ("sax", "la_4ch"))]
)
def test_records_are_those_of_the_cohort_it_was_made_of(source, tmp_path, name, planes):
    make = {"mnms": cohorts.mnms, "mnms2": cohorts.mnms2, "nifti_table": cohorts.nifti_table}[name]
    found = _prepared(SOURCES[name](make(source, tmp_path / "in")), tmp_path / "out", planes, name)
    wanted = _prepared(source, tmp_path / "synthetic", planes, "synthetic")
    assert len(found.subjects) == 4 and found.manifest.counts["failed"] == 0
    for plane in planes:
        ours, theirs = found.stacks(plane), wanted.stacks(plane)
        keys = ["subject", "phase", "slices"]
        if name == "nifti_table" and plane == "la_4ch":
            theirs = theirs[theirs["phase"] != "mid"]  # no cine of that plane was kept
        assert ours[keys].values.tolist() == theirs[keys].values.tolist()
        drawn = np.array([0, 1, 2, 3, 0, 0], np.uint8)  # the ventricles alone
        for a, b in zip(ours.to_dict("records"), theirs.to_dict("records"), strict=True):
            unlabelled = name == "mnms" and a["subject"] == 1  # of Training/Unlabeled
            assert a["labelled"] == (b["labelled"] and not unlabelled)
            for z in range(a["slices"]):
                one, other = found.slices(plane)[a["first"] + z], wanted.slices(plane)[b["first"] + z]
                np.testing.assert_array_equal(one["image"], other["image"])
                np.testing.assert_array_equal(one["label"], drawn[other["label"]] * (not unlabelled))
        row = int(np.flatnonzero(ours["labelled"])[-1])
        label, placement = found.native(plane, row)
        other, expected = wanted.native(plane, int(theirs.index[row]))
        np.testing.assert_array_equal(label, drawn[other])
        np.testing.assert_allclose(placement.affine, expected.affine, atol=1e-4)


# M&Ms


def _mnms(root, code="A1", part="Training/Labeled", row="0,A1,Siemens,A,1,0,3,45,HCM,M,180,", affine=cohorts.AFFINE):
    labels = cohorts.label(SHAPE)
    labels[..., [1, 2, 4, 5]] = 0
    cohorts.save(root / part / code / f"{code}_sa.nii.gz", cohorts.image(SHAPE), affine)
    cohorts.save(root / part / code / f"{code}_sa_gt.nii.gz", labels, affine)
    (root / CSV).write_text(HEADER + row + "\n")
    return root / part / code


def _read(root):
    return Mnms(root).read("A1", ("sax",))


def test_mnms_frames_table_and_splits(tmp_path):
    _mnms(tmp_path)
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


def test_mnms_other_headers_and_roots(tmp_path):
    _mnms(tmp_path, part="Testing")
    (tmp_path / CSV).rename(tmp_path / "201014_M&Ms_Dataset_Information_-_opendataset.csv")
    (tmp_path / "201014_M&Ms_Dataset_Information_-_opendataset.csv").write_text(
        "﻿External code,Vendor,Centre,ED,ES\nA1,B,2,0.0,3.0\n,,,,\n", encoding="utf-8"
    )
    assert Mnms(tmp_path).table()[1].names == ("vendor", "centre")
    inner = Mnms(tmp_path / "Testing")
    assert inner.subjects() == ["A1"] and list(_read(tmp_path / "Testing").views) == ["sax"]
    with pytest.raises(CohortError, match="which are the official split"):
        inner.splits()


def test_files_called_labels_of_unlabelled_subjects_are_not_read(tmp_path):
    folder = _mnms(tmp_path, part="Training/Unlabeled")
    (folder / "A1_sa_gt.nii.gz").write_bytes(b"no label at all")
    for root in (tmp_path, tmp_path / "Training/Unlabeled"):
        assert all(f.label is None for f in _read(root).views["sax"].frames)


def test_mnms_folders_of_other_names_are_no_reason_to_skip_their_subjects(tmp_path):
    _mnms(tmp_path, part="Training/Labelled")
    _mnms(tmp_path, part="Training/Unlabelled", code="B2", row="0,A1,,A,1,0,3,,,,,\n1,B2,,A,1,0,3,,,,,")
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


def _gt(values, dtype=np.uint8, shape=SHAPE):
    def write(folder):
        array = np.zeros(shape, dtype)
        array[8:12, 8:12, :, [0, 3]] = values
        cohorts.save(folder / "A1_sa_gt.nii.gz", array)

    return write


def _rows(*rows, header=HEADER):
    return lambda folder: (folder.parents[2] / CSV).write_text(header + "\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_gt(7), "label values 7 are not in the convention mnms"),
        (_gt(1.5, np.float32), "label values 1.5 are not"),
        (_gt(1, shape=(20, 24, 3, 6)), "label of shape"),
        (_gt(1, shape=(20, 24, 4, 5)), "5 frames for a cine of 6"),
        (_rows("0,A1,,A,1,0,2,,,,,"), "labels at frame 3, counting from 0, while ED is 0 and ES 2"),
        (_rows("0,A1,,A,1,0,6,,,,,"), "labels at frame 3|ES is frame 6"),
        (_rows("0,A1,,A,1,,3,,,,,"), "ED of subject A1 is ''"),
        (_rows("0,A1,,A,1,-1,3,,,,,"), "ED of subject A1 is '-1'"),
        (_rows(f"0,A1,,A,1,{'9' * 5000},3,,,,,"), "ED of subject A1 is '999"),
        (_rows("0,A1,,A,1,0,2.5,,,,,"), "ES of subject A1 is '2.5'"),
        (_rows("0,B7,,A,1,0,3,,,,,"), "no row of subject A1"),
        (_rows("0,A1,,A,1,0,3,,,,,", "1,A1,,A,1,0,3,,,,,"), "line 3: the external code has a row already"),
        (_rows("0,,,A,1,0,3,,,,,"), "line 2: no external code"),
        (_rows("0,A1,A,1,0,3,,,,,"), "line 2: 11 cells under a header of 12"),
        (_rows("0;A1", header="x;External code;ED;ES\n"), "save it with commas"),
        (_rows("A1,0,3", header="External code,ED,ED\n"), "no column es"),
        (_rows("A1,0,3,3", header="External code,ED,ES,ED\n"), "column ed is there twice"),
        (lambda folder: (folder.parents[2] / CSV).unlink(), "no CSV named"),
        (lambda folder: (folder.parents[2] / CSV).write_bytes(b"\xff\xfe\x00"), "cannot be read as a CSV"),
        (lambda folder: (folder.parents[2] / f"2{CSV}").write_text(HEADER), "both say which frames"),
        (lambda folder: (folder / "A1_sa.nii.gz").unlink(), "A1_sa.nii.gz is absent"),
    ],
)
def test_mnms_bad_input(tmp_path, spoil, message):
    spoil(_mnms(tmp_path))
    assert Mnms(tmp_path).subjects() == ["A1"]
    with pytest.raises(CohortError, match=message) as caught:
        _read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_end_systole_beyond_the_cine_and_frames_without_labels(tmp_path):
    folder = _mnms(tmp_path, row="0,A1,,A,1,0,6,,,,,")
    (folder / "A1_sa_gt.nii.gz").unlink()
    with pytest.raises(CohortError, match="ES is frame 6, counting from 0, of a cine of 6 frames"):
        _read(tmp_path)
    (tmp_path / CSV).write_text(HEADER + "0,A1,,A,1,3,3,,,,,\n")
    with pytest.raises(CohortError, match="ED and ES are both frame 3"):
        _read(tmp_path)
    (tmp_path / CSV).write_text(HEADER + "0,A1,,A,1,0,3,,,,,\n")
    labels = cohorts.label(SHAPE)
    labels[..., 1:] = 0
    cohorts.save(folder / "A1_sa_gt.nii.gz", labels)
    subject = _read(tmp_path)
    assert subject.warnings == ("sax: nothing drawn at ES, taken as not labelled",)
    assert [f.label is not None for f in subject.views["sax"].frames] == [True, False, False]


def test_mnms_table_with_text_for_a_number(tmp_path):
    _mnms(tmp_path, row="0,A1,,A,1,0,3,old,,,,")
    with pytest.raises(CohortError, match=r"M&Ms.*'age_years'.*not a number"):
        Mnms(tmp_path).table()


def test_a_subject_in_two_folders(tmp_path):
    _mnms(tmp_path)
    _mnms(tmp_path, part="Testing")
    with pytest.raises(CohortError, match="found twice"):
        Mnms(tmp_path).subjects()


def _sheared(cosine):
    affine = cohorts.AFFINE.copy()
    affine[:3, 1] = 1.5 * np.array([cosine, -np.sqrt(1 - cosine**2), 0])
    return affine


def test_direction_cosines(tmp_path):
    _mnms(tmp_path, affine=_sheared(0.004))
    subject = _read(tmp_path)
    assert subject.warnings == ("sax: direction cosines not quite orthonormal, made so",)
    affine = subject.views["sax"].frames[0].affine
    np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.diag([2.25, 2.25, 100]), atol=1e-5)
    centre = [9.5, 11.5, 1.5, 1]
    np.testing.assert_allclose(affine @ centre, _sheared(0.004) @ centre, atol=1e-5)
    corner = [0, 0, 0, 1]
    assert 1e-3 < np.abs((affine - _sheared(0.004)) @ corner).max() < 0.1
    _mnms(tmp_path, affine=_sheared(0.05))
    with pytest.raises(CohortError, match=r"A1_sa.nii.gz: two axes .* cosine of 0.05"):
        _read(tmp_path)
    _mnms(tmp_path, affine=nib.affines.from_matvec(np.diag([-1.5, -1.5, 10]), [0.3, 0.1, 7]))
    assert _read(tmp_path).warnings == ()


# M&Ms-2


def test_mnms2_table_and_splits(source, tmp_path):
    root = cohorts.mnms2(source, tmp_path)
    assert Mnms2(root).splits() == dict.fromkeys(("001", "002", "003", "004"), "train")
    frame, schema = Mnms2(root).table()
    assert list(frame.index) == ["001", "002", "003", "004"] and frame.loc["002", "field_tesla"] == 1.5
    assert schema.groups == ("medical_history", "acquisition")
    subject = Mnms2(root, frames="2").read("003", ("sax", "la_2ch"))
    assert subject.warnings == ("la_2ch: no images",) and [f.phase for f in subject.views["sax"].cine] == [
        "t000",
        "t001",
    ]
    assert Mnms2(root / "dataset").table() is not None
    (root / "dataset_information.csv").unlink()
    assert Mnms2(root).table() is None
    for old, new in (("001", "160"), ("002", "161"), ("003", "200"), ("004", "201")):
        (root / "dataset" / old).rename(root / "dataset" / new)
    assert Mnms2(root).splits() == {"160": "train", "161": "val", "200": "val", "201": "test"}
    (root / "dataset/201").rename(root / "dataset/361")
    with pytest.raises(CohortError, match="subjects 001 to 360 alone"):
        Mnms2(root).splits()


def _mnms2(root, name="SA"):
    for phase, seed in (("ED", 1), ("ES", 2)):
        cohorts.save(root / f"dataset/007/007_{name}_{phase}.nii.gz", cohorts.image(seed=seed))
        cohorts.save(root / f"dataset/007/007_{name}_{phase}_gt.nii.gz", cohorts.label())
    (root / "dataset_information.csv").write_text("SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD\n007,ARR,GE,X,3\n")
    return root / "dataset/007"


def test_mnms2_without_a_cine(tmp_path):
    _mnms2(tmp_path)
    subject = Mnms2(tmp_path, frames="4").read("007", ("sax", "la_4ch"))
    assert subject.warnings == ("sax: no cine", "la_4ch: no images")
    assert [f.phase for f in subject.views["sax"].frames] == ["ED", "ES"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: cohorts.save(f / "007_SA_ED_gt.nii.gz", cohorts.label() + 4), "not in the convention mnms2"),
        (lambda f: cohorts.save(f / "007_SA_ES_gt.nii.gz", cohorts.label((20, 24, 3))), "label of shape"),
        (lambda f: cohorts.save(f / "007_SA_ES_gt.nii.gz", cohorts.label(), cohorts.AFFINE * 2), "affine differs|mm"),
        (lambda f: (f / "007_SA_ED.nii.gz").unlink(), "has no image 007_SA_ED"),
        (lambda f: [p.unlink() for p in f.glob("007_SA_ED*")], "no ED of the plane sax"),
        (lambda f: cohorts.save(f / "007_SA_CINE.nii.gz", cohorts.image((20, 24, 5, 3))), "shape .* differs"),
        (lambda f: cohorts.save(f / "007_SA_CINE.nii.gz", cohorts.image((20, 24, 4, 1))), "no time axis|are one frame"),
        (lambda f: cohorts.save(f / "007_SA_ES.nii.gz", cohorts.image(), _sheared(0.2)), "cosine of 0.2"),
    ],
)
def test_mnms2_bad_input(tmp_path, spoil, message):
    spoil(_mnms2(tmp_path))
    with pytest.raises(CohortError, match=message) as caught:
        Mnms2(tmp_path).read("007", ("sax",))
    assert "007" in str(caught.value)


def test_mnms2_rows_of_one_subject(tmp_path):
    _mnms2(tmp_path)
    with (tmp_path / "dataset_information.csv").open("a") as file:
        file.write("7,ARR,GE,X,3\n")
    with pytest.raises(CohortError, match="line 3: the subject_code has a row already"):
        Mnms2(tmp_path).table()


# A mapped folder

COLUMNS = "subject,plane,phase,image,label,labels,ed_frame,es_frame\n"
LABELS = "lv_cavity:1;lv_myocardium:2;rv_cavity:3"


def _mapped(root, *rows, header=COLUMNS):
    for name, seed in (("ed", 1), ("es", 2)):
        cohorts.save(root / f"{name}.nii.gz", cohorts.image(seed=seed))
        cohorts.save(root / f"{name}_m.nii.gz", cohorts.label())
    cohorts.save(root / "cine.nii.gz", cohorts.image(SHAPE))
    cohorts.save(root / "cine_m.nii.gz", cohorts.label(SHAPE))
    (root / "mapping.csv").write_text(header + "\n".join(rows) + "\n")
    return NiftiTable(root)


def test_phase_files_and_a_cine_beside_them(tmp_path):
    source = _mapped(
        tmp_path,
        f"p 1,sax,ed,ed.nii.gz,ed_m.nii.gz,{LABELS},,",
        "p 1,sax,cine,cine.nii.gz,,,0,4",
        header=COLUMNS.upper(),
    )
    assert source.subjects() == ["p 1"] and source.splits() is None
    frames = cohorts.frames_of(source.read("p 1", ("sax",)))
    np.testing.assert_array_equal(frames["ED"].image, cohorts.image(seed=1))  # a file of the phase comes first
    np.testing.assert_array_equal(frames["mid"].image, cohorts.image(SHAPE)[..., 2])
    assert frames["ED"].label is not None and frames["ES"].label is None


def test_only_the_four_columns(tmp_path):
    source = _mapped(tmp_path, "1,sax,ED,ed.nii.gz", "2,sax,ED,es.nii.gz", header="subject,plane,phase,image\n")
    subject = source.read("2", ("sax", "la_4ch"))
    assert subject.warnings == ("sax: no ES image", "la_4ch: no images")
    assert subject.views["sax"].labelled == ()


ED, ES = f"p,sax,ED,ed.nii.gz,ed_m.nii.gz,{LABELS},,", f"p,sax,ES,es.nii.gz,es_m.nii.gz,{LABELS},,"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((ED.replace("sax", "sagittal"),), "line 2: plane 'sagittal' is not one of"),
        ((ED, ES.replace("ES,", "end,", 1)), "line 3: phase 'end' is not one of"),
        ((ED, ES.replace("ES,", "ED,", 1)), "line 3: this subject, plane and phase already has line 2"),
        ((ED, ES.replace("es.nii", "ed.nii")), "line 3: this image already has line 2"),
        ((ED, ES.replace("es.nii", "./ed.nii")), "line 3: this image already has line 2"),
        ((ED, ES.replace("es_m", "ed_m")), "line 3: this label already has line 2"),
        ((ED.replace("p,", ",", 1),), "line 2: no subject"),
        ((ED.replace("ed.nii.gz", ""),), "line 2: no image"),
        ((ED.replace("ed.nii.gz", "../ed.nii.gz"),), "paths start at the folder"),
        ((ED.replace("ed.nii.gz", "/ed.nii.gz"),), "paths start at the folder"),
        ((ED.replace("ed.nii.gz", "C:\\ed.nii.gz"),), "paths start at the folder"),
        ((ED.replace("ed_m.nii.gz", "x/../../m.nii.gz"),), "paths start at the folder"),
        ((ED.replace(LABELS, ""),), "label and labels go together"),
        ((ED.replace("ed_m.nii.gz", ""),), "label and labels go together"),
        ((ED.replace("rv_cavity", "liver"),), "labels: 'liver' is not one of"),
        ((ED.replace(":3", ":2"),), "the number 2 is there twice"),
        ((ED.replace("rv_cavity:3", "lv_cavity:3"),), "is there twice"),
        ((ED.replace(":3", ":0"),), "rv_cavity has the number '0'"),
        ((ED.replace(":3", ""),), "rv_cavity has the number ''"),
        ((ED.replace(LABELS, ";"),), "names no structure"),
        ((ED[:-1] + "3,",), "ed_frame is|cells under a header"),
        (("p,sax,,cine.nii.gz,,,one,2",), "ed_frame is 'one'"),
        (("p,sax,ED,ed.nii.gz,,,0,",), "ed_frame is '0'; .* of a 4-D file"),
        ((), "no rows"),
    ],
)
def test_bad_mappings_are_refused_as_a_whole(tmp_path, rows, message):
    source = _mapped(tmp_path, *rows)
    with pytest.raises(CohortError, match=message) as caught:
        source.subjects()
    assert str(tmp_path / "mapping.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((ED.replace("ed.nii", "gone.nii"),), "line 2: image gone.nii.gz: no such file"),
        ((ED.replace("ed.nii", "e" * 999 + ".nii"),), "line 2: image eee.*: no such file"),
        ((ED.replace("ed_m", "gone"),), "line 2: label gone.nii.gz: no such file"),
        ((ED, ES.replace(":3", ":4")), "lines 2, 3: one plane of a subject with different labels"),
        ((ED.replace(";rv_cavity:3", ""),), "label values 3 are not in the convention lv_cavity:1;lv_myocardium:2 "),
        ((ES,), "no ED of the plane sax"),
        (("p,sax,,cine.nii.gz,,,,3",), "no ED of the plane sax"),
        (("p,sax,,cine.nii.gz,,,0,6",), "ES is frame 6, counting from 0, of a cine of 6"),
        (("p,sax,,ed.nii.gz,,,0,1",), "no time axis"),
        (("p,sax,ED,cine.nii.gz,,,,",), "3 filled axes"),
        ((f"p,sax,,cine.nii.gz,ed_m.nii.gz,{LABELS},0,1",), "no time axis"),
    ],
)
def test_bad_subjects_of_a_mapping(tmp_path, rows, message):
    source = _mapped(tmp_path, *rows)
    assert source.subjects() == ["p"]
    with pytest.raises(CohortError, match=message):
        source.read("p", ("sax",))


def test_a_mapping_that_is_absent_changed_or_of_other_columns(tmp_path):
    source = _mapped(tmp_path, ED)
    assert source.subjects() == ["p"]
    (tmp_path / "mapping.csv").write_text(COLUMNS + ED.replace("p,", "q,", 1) + "\n" + "\n")
    assert source.subjects() == ["q"]
    (tmp_path / "mapping.csv").write_text(COLUMNS.replace("labels", "lables") + ED + "\n")
    with pytest.raises(CohortError, match="unknown column 'lables'"):
        source.subjects()
    (tmp_path / "mapping.csv").unlink()
    with pytest.raises(CohortError, match=r"mapping.csv: cannot be read .* columns subject, plane, phase, image"):
        source.subjects()


# Splits


def test_the_official_split(source, tmp_path):
    root = cohorts.mnms(source, tmp_path / "in")
    found = _prepared(Mnms(root), tmp_path / "out", ("sax",), "mnms", split_file="official")
    assert found.splits.tolist() == ["train", "train", "val", "test"]
    with pytest.raises(PrepareError, match="knows no official split"):
        _prepared(source, tmp_path / "other", ("sax",), "synthetic", split_file="official")

"""The command, and what inspection and suspicions find in cohorts that were spoiled on purpose."""

import shutil

import numpy as np
import pandas as pd
import pytest

from morphojax import inspect, prepare
from morphojax.data.inspection import survey, suspicions
from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic import Synthetic, generate
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.cells import describe
from morphojax.data.tables.schema import Column, Schema
from tests.data import cohorts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return cohorts.acdc(tmp_path_factory.mktemp("acdc"), subjects=6)


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "cohort")


def _patient(root, n, frame="01", label=False):
    return root / f"training/patient{n:03d}/patient{n:03d}_frame{frame}{'_gt' * label}.nii.gz"


def _found(root, name="acdc", planes=("sax",)):
    findings = survey.of_source(SOURCES[name](root, frames="all"), name, planes, 1, False)
    return findings, {s.what: s.subjects for s in suspicions.find(findings)}


def test_measures_of_a_cohort(root):
    findings, found = _found(root)
    row = findings.stacks.iloc[1]
    assert (row["subject"], row["phase"], row["x"], row["y"], row["slices"]) == (0, "ES", 20, 24, 4)
    assert (row["spacing_x_mm"], row["slice_gap_mm"], row["orientation"]) == (1.5, 10, "LPS")
    assert (row["structures"], row["labelled_slices"]) == ("lv_cavity lv_myocardium rv_cavity", 4)
    voxels = (cohorts.label(radius=4) == 3).sum()  # in ACDC the number of the LV cavity
    assert row["lv_cavity_ml"] == pytest.approx(voxels * 1.5 * 1.5 * 10 / 1000) and np.isnan(row["la_cavity_ml"])
    assert len(findings.stacks) == 12 and not findings.failures and findings.without_row == ()
    assert found == {"columns constant: group": ()}


def test_an_oblique_orientation_names_every_direction_once(root):
    turned = np.array([[0.72, -0.1, 0.71], [-0.1, -1, 0], [0.69, 0, -0.7]])
    turned /= np.linalg.norm(turned, axis=0)
    affine = np.eye(4)
    affine[:3, :3] = turned * [1.5, 1.5, 10]
    cohorts.save(_patient(root, 1), cohorts.image(), affine)
    _patient(root, 1, "01", True).unlink()
    assert _found(root)[0].stacks["orientation"].tolist()[:2] == ["RPI", "LPS"]


def _twin(root):
    for frame in ("01", "09"):
        _patient(root, 5, frame).write_bytes(_patient(root, 2, frame).read_bytes())


def _still(root):
    _patient(root, 3, "09").write_bytes(_patient(root, 3, "01").read_bytes())


def _images(n, shape, affine=cohorts.AFFINE, values=(1, 2, 3)):
    def write(root):
        for frame, radius in (("01", 7), ("09", 4)):
            cohorts.save(_patient(root, n, frame), cohorts.image(shape, seed=n * 1000 + int(frame)), affine)
            cohorts.save(_patient(root, n, frame, True), cohorts.label(shape, values, radius), affine)

    return write


def _label(n, change, frame="01"):
    def write(root):
        array = cohorts.label(radius=7)
        change(array)
        cohorts.save(_patient(root, n, frame, True), array)

    return write


def _clear(array):
    array[:] = 0


def _skip(array):
    array[..., 1] = 0


def _table(column, row, value):
    def write(root):
        path = root / "morphometrics.csv"
        frame = pd.read_csv(path, dtype=object)
        frame.loc[row, column] = value
        frame.to_csv(path, index=False)

    return write


@pytest.mark.parametrize(
    ("spoil", "what", "subjects"),
    [
        (lambda root: _patient(root, 4).write_bytes(b"?"), "cannot be read, so prepare leaves them out", (3,)),
        (_twin, "the same image as another subject", (1, 4)),
        (_still, "the same image at two phases", (2,)),
        (lambda root: cohorts.save(_patient(root, 1), cohorts.image() * 0), "an image of one grey value", (0,)),
        (_images(2, (40, 24, 4)), "sax: pixels along X far from the others'", (1,)),
        (_images(2, (20, 24, 9)), "sax: slices far from the others'", (1,)),
        (_images(6, (20, 24, 4), np.diag([-3, -3, 10, 1.0])), "sax: mm in plane far from the others'", (5,)),
        (_images(6, (20, 24, 4), np.diag([-1.5, -1.5, 4, 1.0])), "sax: mm between slices far from the others'", (5,)),
        (_images(6, (20, 24, 4), np.diag([-1.5, -1.6, 10, 1.0])), "sax: pixels are not square", (5,)),
        (_images(3, (20, 24, 4), values=(1, 2)), "sax: lv_cavity annotated but empty", (2,)),
        (_label(1, _clear), "sax: a label with nothing drawn in it", (0,)),
        (_label(1, _skip), "sax: an undrawn slice between drawn ones", (0,)),
        (_label(6, lambda a: None, "09"), "sax: lv_cavity at ES: volume far from the others'", (5,)),
        (
            lambda root: cohorts.save(_patient(root, 2, "01", True), cohorts.label(radius=2)),
            "sax: lv_cavity larger at ES than at ED",
            (1,),
        ),
        (_table("patient", 3, "patient999"), "images but no row of the table", (3,)),
        (_table("patient", 3, "patient999"), "rows of the table without images: 1", ()),
        (_table("lv_ef_percent", slice(None), ""), "columns all missing: lv_ef_percent", ()),
        (_table("lv_ef_percent", slice(None), "50"), "columns constant: lv_ef_percent, group", ()),
        (_table("group", 2, "unheard"), "column group: 1 values outside its categories", ()),
    ],
)
def test_what_is_suspicious(root, spoil, what, subjects):
    spoil(root)
    _, found = _found(root)
    assert found.get(what, f"only {list(found)}") == subjects


def test_a_subject_is_no_twin_of_itself_nor_one_grey_image_of_another(root):
    _still(root)
    for n in (1, 2):
        cohorts.save(_patient(root, n), cohorts.image() * 0)
    _, found = _found(root)
    assert found["the same image at two phases"] == (2,) and found["an image of one grey value"] == (0, 1)
    assert "the same image as another subject" not in found


def test_a_label_that_prepare_would_refuse(tmp_path):
    cohorts.save(tmp_path / "i.nii", cohorts.image())
    cohorts.save(tmp_path / "l.nii", cohorts.label(values=(1,)))
    (tmp_path / "mapping.csv").write_text("subject,plane,phase,image,label,labels\np,sax,ED,i.nii,l.nii,la_cavity:1\n")
    findings, found = _found(tmp_path, "nifti_table")
    assert found["cannot be read, so prepare leaves them out"] == (0,)
    assert "the label holds la_cavity, which this plane does not show" in findings.failures[0]
    assert "0 of them" not in inspect.describe(findings, [])


def test_geometry_of_phases_planes_and_schemes(tmp_path):
    for n, shape in enumerate(((20, 24, 4), (20, 24, 4), (20, 24, 5))):
        cohorts.save(tmp_path / f"s{n}/sa_ED.nii.gz", cohorts.image((20, 24, 4), seed=n))
        cohorts.save(tmp_path / f"s{n}/sa_ES.nii.gz", cohorts.image(shape, seed=n + 10))
        if n:
            cohorts.save(tmp_path / f"s{n}/la_4ch_ED.nii.gz", cohorts.image((20, 24, 1), seed=n + 20))
            stem, values = ("label", (1, 2)) if n == 2 else ("seg4", (1, 2, 3, 4, 5))
            cohorts.save(tmp_path / f"s{n}/{stem}_la_4ch_ED.nii.gz", cohorts.label((20, 24, 1), values))
    findings, found = _found(tmp_path, "ukb_nifti", ("sax", "la_2ch", "la_4ch"))
    assert found["sax: phases differ in shape or spacing"] == (2,) and found["no la_4ch, which others have"] == (0,)
    assert found["la_4ch: no ES"] == (1, 2) and len(found["la_4ch: other structures annotated than in most"]) == 1
    text = inspect.describe(findings, suspicions.find(findings))
    assert "la_2ch    no images" in text and "table     none" in text and "warning" not in text


def test_columns():
    frame = pd.DataFrame({"a": [*np.zeros(99), 50.0], "b": [None] * 100, "c": [3.0] * 100, "d": ["x", "y"] * 50})
    schema = Schema(
        (
            *(Column(n, "continuous", "lifestyle") for n in "abc"),
            Column("d", "categorical", "lifestyle", categories=("x", "z")),
        )
    )
    frame.loc[:49, "c"] = np.nan
    found = describe(frame, schema).set_index("column")
    assert found["beyond"].tolist() == [1, 0, 0, 0] and found["outside"].tolist() == [0, 0, 0, 50]
    assert found["note"].tolist() == ["", "all missing", "constant", ""]
    assert (
        found["missing"].tolist() == [0, 1, 0.5, 0] and found.loc["a", "max"] == 50 and found.loc["d", "classes"] == 2
    )


def test_outliers_need_company_and_distance():
    assert not suspicions.outliers(pd.Series([1.0, 1, 1, 99])).any()
    assert suspicions.outliers(pd.Series([1.0, 1, 1, 1, 1.29, 1.31])).tolist() == [False] * 5 + [True]
    spread = pd.Series([80.0, 90, 100, 110, 120, 180, 300, np.nan])
    assert suspicions.outliers(spread).tolist() == [False] * 6 + [True, False]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return Synthetic(generate(tmp_path_factory.mktemp("synthetic"), 3, seed=0, workers=1, progress=False))


def test_every_layout_is_recognised(synthetic, tmp_path):
    assert survey.recognise(synthetic.root) == "synthetic"
    for name in ("mnms", "mnms2", "nifti_table"):
        assert survey.recognise(getattr(cohorts, name)(synthetic, tmp_path / name)) == name
    root = cohorts.acdc(tmp_path / "acdc", subjects=1)
    assert survey.recognise(root) == survey.recognise(root / "training") == "acdc"
    cohorts.save(tmp_path / "ukb/1/la_2ch.nii.gz", cohorts.image((8, 8, 1, 2)))
    assert survey.recognise(tmp_path / "ukb") == "ukb_nifti"
    for name in ("zips/1000017_20209_2_0.zip", "folders/1000017/1000017_20208_3_0.zip"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
        assert survey.recognise(tmp_path / name.split("/")[0]) == "ukb_dicom"
    (tmp_path / "ukb/participants.csv").write_text("")
    assert survey.recognise(tmp_path / "ukb") == "sunnybrook"
    with pytest.raises(CohortError, match="looks like no cohort"):
        survey.recognise(root / "training/patient001")


def test_a_dataset_and_its_cohort_are_told_alike(synthetic, tmp_path, capsys):
    flags = [f"--input={synthetic.root}", f"--output={tmp_path / 'out'}", "--size=48", "--spacing=2.5", "--workers=1"]
    assert prepare.main(["--source=synthetic", *flags, "--planes=sax,la_4ch", "--frames=4"]) == 0
    planes = ("sax", "la_4ch")
    ours, theirs = (
        survey.of_dataset(Dataset.open(tmp_path / "out"), progress=False),
        _found(synthetic.root, "synthetic", planes),
    )
    left_out = ["digest", "cine_frames", "constant"]
    pd.testing.assert_frame_equal(
        ours.stacks.drop(columns=left_out), theirs[0].stacks.drop(columns=left_out), check_dtype=False
    )
    assert set(ours.stacks["cine_frames"]) == {4} and set(theirs[0].stacks["cine_frames"]) == {6}
    pd.testing.assert_frame_equal(ours.columns, theirs[0].columns)
    assert (ours.without_row, ours.rows_without_images) == (theirs[0].without_row, theirs[0].rows_without_images)
    assert inspect.main([str(tmp_path / "out"), f"--output={tmp_path / 'report'}", "--planes=la_4ch"]) == 0
    text = capsys.readouterr().out
    assert "syn00" not in text and "la_4ch    3 subjects: 3 ED, 3 mid, 3 ES" in text
    assert "phases known from: ED file 3; mid halfway 3; ES file 3" in text
    assert (tmp_path / "report/contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert inspect.main([str(tmp_path / "out"), "--planes=la_2ch"]) == 1
    assert "no plane 'la_2ch'" in capsys.readouterr().err


def test_the_command_names_nobody_unless_asked(root, tmp_path, capsys):
    _patient(root, 4).write_bytes(b"?")
    cohorts.save(root / "training/patient002/patient002_4d.nii.gz", cohorts.image((20, 24, 4, 12)))
    assert inspect.main([str(root), "--workers=1", f"--output={tmp_path / 'report'}"]) == 0
    out, err = capsys.readouterr()
    assert "acdc: 6 subjects, 1 of them cannot be read" in out and "1 subjects, #3" in out
    assert "sax       5 subjects: 5 ED, 5 ES, 1 mid; further frames of a cine 0 to 12" in out
    assert "patient0" not in out + err
    written = {p.name: p.read_text() for p in (tmp_path / "report").iterdir()}
    assert set(written) == {"inspect.csv", "columns.csv", "suspicious.csv"} and "patient0" not in "".join(
        written.values()
    )
    listed = pd.read_csv(tmp_path / "report/inspect.csv")
    assert listed["failed"].tolist() == [i == 7 for i in range(12)] and listed["subject"].tolist()[7] == 3
    assert inspect.main([str(root), "--workers=1", "--ids"]) == 0
    assert "#3 patient004 " in (text := capsys.readouterr().out) and "gzip file" in text


@pytest.mark.parametrize(
    ("spoil", "more", "message", "named"),
    [
        (lambda root: None, ["--planes=sax,axial"], "planes 'sax,axial'", ""),
        (lambda root: None, ["--source=mnms2"], "--ids says why", "no subfolder holds"),
        (
            lambda root: cohorts.save(root / "testing/patient001/patient001_frame01.nii", cohorts.image()),
            [],
            "--ids says why",
            "found twice",
        ),
        (_table("patient", 1, "patient001"), [], "--ids says why", "have the same patient"),
        (_table("lv_ef_percent", 1, "good"), [], "--ids says why", "is not a number"),
        (lambda root: None, ["--table=absent.csv"], "--ids says why", "absent.csv: no such file"),
    ],
)
def test_errors_are_a_line_and_name_nobody_unless_asked(root, capsys, spoil, more, message, named):
    spoil(root)
    assert inspect.main([str(root), "--workers=1", *more]) == 1
    out, err = capsys.readouterr()
    assert message in err.splitlines()[-1] and "Traceback" not in err and "patient00" not in out + err
    assert inspect.main([str(root), "--workers=1", "--ids", *more]) == 1
    assert named in capsys.readouterr().err


def test_no_folder_and_a_broken_dataset(tmp_path, capsys):
    assert inspect.main([str(tmp_path / "gone")]) == 1
    assert "gone: no such folder" in capsys.readouterr().err
    (tmp_path / "dataset.json").write_text("{}")
    assert inspect.main([str(tmp_path)]) == 1
    assert "format version None" in capsys.readouterr().err

"""`morphojax.inspect`: its report, which names no subject unless asked."""

import shutil

import pandas as pd
import pytest

from morphojax import inspect
from morphojax.commands import inspect as work
from morphojax.data.geometry import Grid
from morphojax.data.inspection import suspicions
from morphojax.data.sources.synthetic import Synthetic, generate
from tests.data import cohorts
from tests.data.inspection import spoiled
from tests.data.inspection.spoiled import change_cell, image_path
from tests.data.preparing import prepare


@pytest.fixture(scope="module")
def unspoiled(tmp_path_factory):
    return cohorts.acdc(tmp_path_factory.mktemp("acdc"), subjects=6)


@pytest.fixture
def root(unspoiled, tmp_path):
    return shutil.copytree(unspoiled, tmp_path / "cohort")


def test_a_label_that_prepare_would_refuse(tmp_path):
    cohorts.save(tmp_path / "i.nii", cohorts.image())
    cohorts.save(tmp_path / "l.nii", cohorts.label(values=(1,)))
    (tmp_path / "mapping.csv").write_text("subject,plane,phase,image,label,labels\np,sax,ED,i.nii,l.nii,la_cavity:1\n")
    findings, suspicious = spoiled.inspect(tmp_path, "nifti_table")
    assert suspicious["cannot be read, so prepare leaves them out"] == (0,)
    assert "the label holds la_cavity, which this plane does not show" in findings.failures[0]
    assert "0 of them" not in work.describe(findings, [])


def test_the_report_of_differing_phases_planes_and_annotations(tmp_path):
    for n, shape in enumerate(((20, 24, 4), (20, 24, 4), (20, 24, 5))):
        cohorts.save(tmp_path / f"s{n}/sa_ED.nii.gz", cohorts.image((20, 24, 4), seed=n))
        cohorts.save(tmp_path / f"s{n}/sa_ES.nii.gz", cohorts.image(shape, seed=n + 10))
        if n:
            cohorts.save(tmp_path / f"s{n}/la_4ch_ED.nii.gz", cohorts.image((20, 24, 1), seed=n + 20))
            stem, values = ("label", (1, 2)) if n == 2 else ("seg4", (1, 2, 3, 4, 5))
            cohorts.save(tmp_path / f"s{n}/{stem}_la_4ch_ED.nii.gz", cohorts.label((20, 24, 1), values))
    findings, suspicious = spoiled.inspect(tmp_path, "ukb_nifti", ("sax", "la_2ch", "la_4ch"))
    assert suspicious["sax: phases differ in shape or spacing"] == (2,)
    assert suspicious["no la_4ch, although other subjects have it"] == (0,)
    assert suspicious["la_4ch: no ES"] == (1, 2)
    assert len(suspicious["la_4ch: other structures annotated than in most subjects"]) == 1
    text = work.describe(findings, suspicions.find(findings))
    assert "la_2ch    no images" in text and "table     none" in text and "warning" not in text


def test_the_report_of_a_dataset(tmp_path, capsys):
    source = Synthetic(generate(tmp_path / "cohort", 3, seed=0, workers=1, progress=False))
    prepare(source, tmp_path / "out", name="synthetic", grid=Grid(2.5, 48), planes=("sax", "la_4ch"))
    assert inspect.main([str(tmp_path / "out"), f"--output={tmp_path / 'report'}", "--planes=la_4ch"]) == 0
    text = capsys.readouterr().out
    assert "syn00" not in text and "la_4ch    3 subjects: 3 ED, 3 mid, 3 ES" in text
    assert "phases known from: ED file 3; mid halfway 3; ES file 3" in text
    assert (tmp_path / "report/contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert inspect.main([str(tmp_path / "out"), "--planes=la_2ch"]) == 2
    assert "no plane 'la_2ch'" in capsys.readouterr().err


def test_the_command_names_no_subject_unless_asked(root, tmp_path, capsys):
    image_path(root, 4).write_bytes(b"?")
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
    ("spoil", "more", "message", "with_ids"),
    [
        (lambda root: None, ["--planes=sax,axial"], "planes 'sax,axial'", ""),
        (lambda root: None, ["--source=mnms2"], "--ids says why", "no subfolder holds"),
        (
            lambda root: cohorts.save(root / "testing/patient001/patient001_frame01.nii", cohorts.image()),
            [],
            "--ids says why",
            "found twice",
        ),
        (change_cell("patient", 1, "patient001"), [], "--ids says why", "have the same patient"),
        (change_cell("lv_ef_percent", 1, "good"), [], "--ids says why", "is not a number"),
        (lambda root: None, ["--table=absent.csv"], "--ids says why", "absent.csv: no such file"),
    ],
)
def test_errors_are_one_line_and_name_no_subject_unless_asked(root, capsys, spoil, more, message, with_ids):
    spoil(root)
    assert inspect.main([str(root), "--workers=1", *more]) == 2
    out, err = capsys.readouterr()
    assert message in err.splitlines()[-1] and "Traceback" not in err and "patient00" not in out + err
    assert inspect.main([str(root), "--workers=1", "--ids", *more]) == 2
    assert with_ids in capsys.readouterr().err


def test_an_absent_folder_and_a_broken_dataset(tmp_path, capsys):
    assert inspect.main([str(tmp_path / "absent")]) == 2
    assert "absent: no such folder" in capsys.readouterr().err
    (tmp_path / "dataset.json").write_text("{}")
    assert inspect.main([str(tmp_path)]) == 2
    assert "format version None" in capsys.readouterr().err

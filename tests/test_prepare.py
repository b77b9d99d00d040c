import pytest

from morphojax import prepare
from morphojax.data.dataset import Dataset
from morphojax.evaluation import figures
from tests.data import cohorts


def _flags(root, output, *more):
    flags = [f"--input={root}", f"--output={output}", "--size=16", "--workers=1"]
    return ["--source=acdc", *flags, *more]


def test_command(tmp_path, capsys):
    root = cohorts.acdc(tmp_path / "cohort", subjects=3)
    (root / "training/patient002/Info.cfg").write_text("ED: 1\n")
    assert prepare.main(_flags(root, tmp_path / "out", "--split_fractions=1,0,0")) == 0
    text = capsys.readouterr().out
    assert "2 train, 0 val, 0 test" in text and "2 subjects, 4 stacks, 16 slices; 100 % of stacks labelled" in text
    assert "1 subjects could not be read" in text
    assert "patient00" not in text  # the summary may be kept in a log
    assert (tmp_path / "out/contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.manifest.grid.size == 16 and set(dataset.splits) == {"train"}


def test_frames_of_the_cine_stay_off_the_contact_sheet(tmp_path, capsys, monkeypatch):
    root = cohorts.acdc(tmp_path / "cohort", subjects=2)
    cohorts.save(root / "training/patient001/patient001_4d.nii.gz", cohorts.image((20, 24, 4, 12)))
    for path in root.rglob("*_gt.nii.gz"):
        path.unlink()  # labelled stacks would come first
    shown = []
    monkeypatch.setattr(figures, "contact_sheet", lambda path, tiles, columns: shown.extend(tiles))
    assert prepare.main(_flags(root, tmp_path / "out", "--frames=all")) == 0
    assert "17 stacks" in capsys.readouterr().out  # ED, mid, ES and 12 others; ED and ES of the one without a cine
    assert Dataset.open(tmp_path / "out").manifest.warnings == {"sax: no cine": 1}
    assert {title.split()[2] for _, _, title in shown} == {"ED", "mid", "ES"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strict"], "subject patient001"),
        (["--size=0"], "grid size"),
        (["--spacing=-1"], "grid spacing"),
        (["--percentiles=1"], "--percentiles"),
        (["--split_fractions=1"], "--split_fractions"),
        (["--planes=sax,sax"], "planes"),
        (["--frames=most"], "frames='most': choose phases, all, or a number"),
        (["--table=absent.csv"], "absent.csv"),
    ],
)
def test_errors_are_one_line_and_leave_no_dataset(tmp_path, capsys, more, message):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1)
    if more == ["--strict"]:
        (root / "training/patient001/Info.cfg").unlink()
    assert prepare.main(_flags(root, tmp_path / "out", *more)) == 1
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "out/dataset.json").exists()


def test_unknown_source_and_help(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["--source=nowhere", "--input=a", "--output=b"])
    assert "acdc" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    assert "contact_sheet.png" in capsys.readouterr().out

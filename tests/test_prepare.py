"""`morphojax.prepare`: what it prints, refuses and adds to the table."""

import numpy as np
import pytest

from morphojax import prepare
from morphojax.data.prepare import assemble
from morphojax.data.sources.synthetic import generate
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import figures
from tests.data import cohorts
from tests.data.preparing import file_hashes


def _flags(root, output, *more):
    flags = [f"--input={root}", f"--output={output}", "--size=16", "--workers=1"]
    return ["--source=acdc", *flags, *more]


def test_the_summary_counts_and_names_no_subject(tmp_path, capsys):
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


def test_the_contact_sheet_shows_only_ed_mid_and_es(tmp_path, capsys, monkeypatch):
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
        (["--strict", "--key=none"], "subject patient001"),
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
    if "--strict" in more:
        (root / "training/patient001/Info.cfg").unlink()
    assert prepare.main(_flags(root, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "out/dataset.json").exists()


def test_unknown_source_and_help(capsys):
    assert prepare.main(["--source=nowhere", "--input=a", "--output=b"]) == 2
    assert "--source=nowhere is unknown: choose one of acdc, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    assert "contact_sheet.png" in capsys.readouterr().out


def test_a_dry_run_prints_what_would_be_written_and_writes_nothing(tmp_path, capsys):
    root = cohorts.acdc(tmp_path / "cohort", subjects=3, shape=(60, 64, 4))
    (root / "training/patient002/Info.cfg").write_text("ED: 1\n")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    flags = _flags(root, tmp_path / "out", "--split_fractions=0,1,0", "--size=128")
    assert prepare.main([*flags, "--dry-run"]) == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    text, error = capsys.readouterr()
    assert "0 train, 2 val, 0 test" in text and "2 subjects, 4 stacks, 16 slices; 4 stacks labelled" in text
    assert "1 subjects cannot be read and would be left out: #1" in text and "patient00" not in text + error
    assert prepare.main([*flags, "--dry-run", "--strict"]) == 1
    capsys.readouterr()
    assert prepare.main(flags) == 0
    manifest = Dataset.open(tmp_path / "out").manifest
    size = sum(s.bytes for s in (*manifest.slices["sax"], *manifest.native["sax"]))
    assert float(text.split("about ")[1].split(" MB")[0]) == pytest.approx(size / 1e6, rel=0.25)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--planes=sax,sax"], "planes"),
        (["--splits=official"], "knows no official split"),
        (["--percentiles=9,1"], "percentiles"),
        (["--output={cohort}"], "is not empty"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(tmp_path, capsys, more, message):
    root = cohorts.acdc(tmp_path / "cohort", subjects=1)
    more = [flag.format(cohort=root) for flag in more]
    assert prepare.main(_flags(root, tmp_path / "out", *more, "--dry-run")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_makes_no_synthetic_cohort(tmp_path, capsys):
    flags = ["--source=synthetic", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--dry-run"]
    assert prepare.main(flags) == 2
    assert "holds no synthetic cohort" in capsys.readouterr().err and not (tmp_path / "in").exists()


def test_measured_columns_equal_the_volumes_of_the_labels(tmp_path, capsys):
    """The table of the synthetic cohort has the true values with noise. One subject has no label of
    the atria.
    """
    root = generate(tmp_path / "cohort", subjects=2, seed=3, workers=1, progress=False)
    first = next(p for p in sorted(root.iterdir()) if p.is_dir())
    for path in first.glob("*la_4ch_E*"):
        if path.name.startswith("seg4"):
            path.unlink()
    flags = [
        "--source=synthetic",
        f"--input={root}",
        "--planes=sax,la_2ch,la_4ch",
        "--size=64",
        "--spacing=3",
        "--workers=1",
        "--measure",
    ]
    assert prepare.main([*flags, f"--output={tmp_path / 'out'}", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert prepare.main([*flags, f"--output={tmp_path / 'out'}"]) == 0
    assert "56 columns" in plan and "56 columns" in capsys.readouterr().out
    dataset = Dataset.open(tmp_path / "out")
    table, columns = dataset.table, {c.name: c for c in dataset.schema.columns}
    stacks = dataset.stacks("sax")
    for phase, name in (("ED", "lv_edv"), ("ES", "lv_esv")):
        for row in stacks.index[stacks["phase"] == phase]:
            label, placement = dataset.native("sax", row)
            millilitres = (label == 1).sum() * np.prod(placement.native_spacing) / 1000
            assert table.loc[stacks.at[row, "subject"], f"measured_{name}_ml"] == pytest.approx(millilitres)
    assert (abs(table["measured_lv_ef_percent"] - table["lv_ef"]) < 5).all()
    assert table["measured_la_volume_es_ml"].isna().tolist() == [s == first.name for s in dataset.subjects]
    about = columns["measured_lv_ef_percent"]
    assert (about.group, about.unit, about.leak, about.measures) == (
        "cardiac_morphometric",
        "%",
        ("segmentation",),
        "lv_cavity:EF:%",
    )
    assert not any(n.startswith("measured") for n in dataset.schema.without_leaks("segmentation").names)


def test_measured_columns_need_annotations_and_free_names(tmp_path, capsys):
    root = cohorts.acdc(tmp_path / "cohort", subjects=3)
    flags = ["--source=acdc", f"--input={root}", "--size=16", "--workers=1", "--measure", "--key=none"]
    assert prepare.main([*flags, f"--output={tmp_path / 'sax'}"]) == 0
    names = Dataset.open(tmp_path / "sax").schema.names
    assert "measured_rv_edv_ml" in names and "measured_la_volume_es_ml" not in names
    table = tmp_path / "t.csv"
    table.write_text("patient,measured_rv_edv_ml\npatient001,3\n")
    (tmp_path / "d.csv").write_text("name,kind,group\nmeasured_rv_edv_ml,continuous,cardiac_morphometric\n")
    more = [f"--output={tmp_path / 'twice'}", f"--table={table}", f"--dictionary={tmp_path / 'd.csv'}"]
    assert prepare.main([*flags, *more]) == 2
    assert "has the columns measured_rv_edv_ml already" in capsys.readouterr().err and not (tmp_path / "twice").exists()


def test_a_command_that_was_killed_late_is_completed(tmp_path, capsys, monkeypatch):
    """To the same bytes, and nothing that it was writing stays."""
    root = cohorts.acdc(tmp_path / "cohort", subjects=2)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert prepare.main(_flags(root, whole)) == 0

    def in_the_sheet(*_, **__):
        (out / "contact_sheet.png.part").write_bytes(b"half")
        raise KeyboardInterrupt

    def in_the_removal(*_):
        next((out / ".partial").glob("*.msgpack")).unlink()
        raise KeyboardInterrupt

    for place, name, killed in (
        (figures, "contact_sheet", in_the_sheet),
        (assemble, "_remove_partial_results", in_the_removal),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            assert prepare.main(_flags(root, out)) == 130
        (out / "dataset.json.99-ab.partial").write_text("half")
    assert prepare.main(_flags(root, out)) == 0
    assert file_hashes(out) == file_hashes(whole) and not (out / ".partial").exists()
    assert prepare.main(_flags(root, out)) == 2
    assert "already holds a dataset" in capsys.readouterr().err

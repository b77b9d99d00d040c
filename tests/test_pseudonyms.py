"""Nothing that is written or printed names a participant, unless the user asks for it."""

import hashlib
import io
import os
import stat

import numpy as np
import pandas as pd
import pytest

from morphojax import exclude, prepare, pseudonyms
from morphojax.commands.evaluate import write
from morphojax.data.prepare import pseudonyms as pseudonyms_module
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.pseudonyms import KeyFileError, Pseudonyms
from morphojax.data.store.dataset import Dataset, Manifest
from morphojax.evaluation import figures
from morphojax.inference import scoring
from morphojax.tasks import cohort
from tests.data import cohorts
from tests.data.preparing import interrupted_before_the_manifest, prepare_acdc
from tests.toy_run import toy_run

IDS = [f"patient{n:03d}" for n in range(1, 8)]
KEY = Pseudonyms(bytes(range(32)))
SPLITS = ("train", "train", "val", "test", "test", "none", "train")
CONTACT_SHEET = figures.contact_sheet


@pytest.fixture(autouse=True)
def no_contact_sheet(monkeypatch):
    monkeypatch.setattr(figures, "contact_sheet", lambda path, tiles, columns: path.write_bytes(b""))


def run(root, output, *more) -> int:
    flags = [f"--input={root}", f"--output={output}", "--size=16", "--workers=1", "--source=acdc"]
    return prepare.main([*flags, *more])


def all_text(folder) -> str:
    """The names and contents of all files below a folder, and the contents of the compressed
    records.
    """
    parts = [f"{p} ".encode() + (p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")]
    for path in folder.rglob("dataset.json"):
        dataset = Dataset.open(path.parent)
        for plane in dataset.manifest.planes:
            parts += [repr(r).encode() for r in dataset.slices(plane)]
            parts += [repr(dataset.native(plane, row)).encode() for row in range(len(dataset.stacks(plane)))]
    return b"\n".join(parts).decode("latin-1").replace(str(folder.parent), "")


@pytest.fixture
def root(tmp_path):
    """Seven patients: one cannot be read, one has no table row, and one row belongs to no
    patient.
    """
    root = cohorts.acdc(tmp_path / "cohort", subjects=7)
    (root / "training/patient002/Info.cfg").write_text("ED: 1\n")
    table = root / "morphometrics.csv"
    table.write_text(table.read_text().replace("patient005", "patient777"))
    return root


@pytest.fixture
def split_file(tmp_path):
    path = tmp_path / "splits.csv"
    pd.DataFrame({"subject": [*IDS, "patient888"], "split": [*SPLITS, "train"]}).to_csv(path, index=False)
    return path


def test_nothing_that_a_run_writes_or_prints_contains_an_id(root, split_file, tmp_path, capsys, monkeypatch):
    titles = []
    monkeypatch.setattr(
        figures, "contact_sheet", lambda p, t, columns: [titles.extend(t), CONTACT_SHEET(p, t, columns=columns)]
    )
    assert run(root, tmp_path / "out", f"--splits={split_file}", "--size=8") == 0
    dataset = Dataset.open(tmp_path / "out")
    monkeypatch.setattr(scoring, "WORST", 3)
    toy = toy_run(size=8, spacing=1.5)
    result = scoring.score(
        {"sax": toy}, dataset=_with_percentiles_of_the_toy_run(dataset), split="test", progress=False
    )
    write(tmp_path / "out/evaluation", "test", result, {"run": "toy"})
    printed = capsys.readouterr()
    output = all_text(tmp_path / "out") + printed.out + printed.err + repr([t for *_, t in titles])
    assert "patient0" not in output and "patient7" not in output and "patient8" not in output
    report = (tmp_path / "out/report.csv").read_text()
    assert all(s in report for s in ("failed", "no row", "no images", "left out", "warning", "no ES; add the line"))
    # The key shows that table, split and images belong to the right subject.
    key = Pseudonyms.read(root / "morphojax.key")
    assert set(result.scores["subject"]) == {key("patient004"), key("patient005")}
    assert report.count(key("patient002")) == 2
    assert dataset.subjects == tuple(sorted(key(i) for i in ("patient001", *IDS[2:5], "patient007")))
    rows = {name: n for n, name in enumerate(dataset.subjects)}
    assert dataset.table["lv_edv_ml"][rows[key("patient004")]] == 4.0
    assert np.isnan(dataset.table["lv_edv_ml"][rows[key("patient005")]])
    assert {dataset.splits[rows[key(i)]] for i in ("patient001", "patient007")} == {"train"}
    with pytest.raises(ValueError, match=r"entry 1 is no subject .* by pseudonyms: see morphojax.pseudonyms") as error:
        cohort.select_subjects(dataset, split_names=("train",), subjects=("patient001",), fraction=1.0, seed=0)
    assert "patient" not in str(error.value)


def _with_percentiles_of_the_toy_run(dataset: Dataset) -> Dataset:
    """The dataset with the intensity percentiles of the toy run, which scoring compares."""
    manifest = Manifest.from_json(dataset.manifest.to_json() | {"percentiles": [0.0, 100.0]})
    return Dataset(dataset.root, manifest, dataset.subjects, dataset.splits, dataset.table, dataset._stacks)


def test_subjects_and_their_records_are_in_the_order_of_the_pseudonyms(root, tmp_path):
    assert run(root, tmp_path / "by_id", "--key=none") == 0 and run(root, tmp_path / "out") == 0
    key = Pseudonyms.read(root / "morphojax.key")
    by_id, by_pseudonym = Dataset.open(tmp_path / "by_id"), Dataset.open(tmp_path / "out")
    assert list(by_pseudonym.subjects) == sorted(map(key, by_id.subjects))
    report = pd.read_csv(tmp_path / "out/report.csv", dtype=str)["subject"].tolist()
    assert report == sorted(report)
    assert by_id.manifest.pseudonyms == "" and "pseudonyms" not in (tmp_path / "by_id/dataset.json").read_text()
    for index, subject in enumerate(by_id.subjects):
        row = by_pseudonym.subjects.index(key(subject))
        assert by_id.splits[index] == by_pseudonym.splits[row]  # split by the id, whatever the key
        pd.testing.assert_series_equal(by_id.table.loc[index], by_pseudonym.table.loc[row], check_names=False)
        pairs = [d.stacks("sax").query(f"subject == {i}") for d, i in ((by_id, index), (by_pseudonym, row))]
        for a, b in zip(*(p.to_dict("records") for p in pairs), strict=True):
            assert (a["phase"], a["slices"]) == (b["phase"], b["slices"])
            for z in range(a["slices"]):
                images = [d.slices("sax")[s["first"] + z]["image"] for d, s in ((by_id, a), (by_pseudonym, b))]
                np.testing.assert_array_equal(*images)


def test_the_key_is_made_once_and_only_its_owner_may_read_it(root, tmp_path, capsys):
    old = os.umask(0)
    try:
        assert run(root, tmp_path / "one") == 0
    finally:
        os.umask(old)
    path = root / "morphojax.key"
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and "new key of the pseudonyms" in capsys.readouterr().out
    assert run(root, tmp_path / "two") == 0
    assert path.read_text() == text and "new key" not in capsys.readouterr().out
    assert Dataset.open(tmp_path / "one").fingerprint == Dataset.open(tmp_path / "two").fingerprint
    assert run(root, tmp_path / "three", f"--key={tmp_path / 'other.key'}") == 0
    one, three = (Dataset.open(tmp_path / name) for name in ("one", "three"))
    assert not set(one.subjects) & set(three.subjects)
    with pytest.raises(KeyFileError, match="File exists"):
        Pseudonyms.make(path)
    assert path.read_text() == text and text.strip() not in all_text(tmp_path / "one")


def test_a_dry_run_makes_no_key_and_uses_an_existing_one(root, split_file, tmp_path, capsys):
    assert run(root, tmp_path / "out", "--dry-run") == 0 and not (root / "morphojax.key").exists()
    Pseudonyms.make(root / "morphojax.key")
    assert run(root, tmp_path / "out", "--dry-run", f"--splits={split_file}") == 0
    assert "patient0" not in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_a_split_file_may_name_pseudonyms(root, tmp_path):
    assert run(root, tmp_path / "one") == 0
    key = Pseudonyms.read(root / "morphojax.key")
    rows = "".join(f"{key(i) if n % 2 else i},{s}\n" for n, (i, s) in enumerate(zip(IDS, SPLITS, strict=True)))
    (tmp_path / "s.csv").write_text("subject,split\n" + rows)
    assert run(root, tmp_path / "two", f"--splits={tmp_path / 's.csv'}") == 0
    dataset = Dataset.open(tmp_path / "two")
    splits = dict(zip(dataset.subjects, dataset.splits, strict=True))
    assert splits == {key(i): s for i, s in zip(IDS, SPLITS, strict=True) if s != "none" and i != "patient002"}


def test_errors_contain_no_id(root, tmp_path, capsys):
    (tmp_path / "s.csv").write_text("subject,split\npatient001,train\n")
    assert run(root, tmp_path / "a", f"--splits={tmp_path / 's.csv'}") == 2
    assert run(root, tmp_path / "a", "--strict") == 2
    key = Pseudonyms.read(root / "morphojax.key")
    (tmp_path / "s.csv").write_text(f"subject,split\npatient001,train\n{key('patient001')},test\n")
    assert run(root, tmp_path / "b", f"--splits={tmp_path / 's.csv'}") == 2
    (root / "morphometrics.csv").write_text("patient,group\npatient001,NOR\npatient001,NOR\n")
    assert run(root, tmp_path / "b") == 2
    for path in (root / "training").rglob("Info.cfg"):
        path.write_text("ED: 1\n")
    (root / "morphometrics.csv").unlink()
    assert run(root, tmp_path / "c") == 2 and "none of the 7 subjects" in (text := capsys.readouterr().err)
    assert "patient0" not in text and f"subject {key('patient002')}" in text and "line 3: the subject is listed" in text
    assert "patient0" not in all_text(tmp_path / "c") and "patient0" not in all_text(tmp_path / "a")


def test_an_unfinished_run_contains_no_id_and_continues_only_with_its_key(root, tmp_path, monkeypatch):
    with interrupted_before_the_manifest(monkeypatch):
        prepare_acdc(root, tmp_path / "out", pseudonym=KEY)
    partials = {p.stem for p in (tmp_path / "out/.partial").glob("*.msgpack")}
    assert "patient0" not in all_text(tmp_path / "out") and len(partials) == 6
    # Anyone can hash all possible ids: file names hashed without the key would identify subjects.
    assert not partials & {hashlib.sha256(i.encode()).hexdigest()[:32] for i in IDS}
    for other in (None, Pseudonyms(b"k" * 32)):
        with pytest.raises(PrepareError, match="other settings"):
            prepare_acdc(root, tmp_path / "out", pseudonym=other)
    prepare_acdc(root, tmp_path / "out", pseudonym=KEY)
    prepare_acdc(root, tmp_path / "uninterrupted", pseudonym=KEY)
    assert Dataset.open(tmp_path / "out").fingerprint == Dataset.open(tmp_path / "uninterrupted").fingerprint


def test_two_subjects_with_the_same_pseudonym_are_refused(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pseudonyms_module, "DIGITS", 0)
    assert run(root, tmp_path / "out") == 2
    assert "two subjects have the same pseudonym" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_key_in_an_impossible_place_is_refused(root, tmp_path, capsys):
    assert run(root, tmp_path / "out", f"--key={tmp_path / 'out/k'}") == 2
    assert "lies in the output folder" in capsys.readouterr().err
    assert run(root, tmp_path / "out", f"--key={tmp_path / 'absent/k'}") == 2
    assert "the key cannot be written" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(tmp_path / "nowhere", tmp_path / "out") == 2 and not (tmp_path / "nowhere").exists()


def test_withdrawals_need_the_key_of_the_dataset(root, tmp_path, capsys):
    assert run(root, tmp_path / "out") == 0 and run(root, tmp_path / "open", "--key=none") == 0
    Pseudonyms.make(tmp_path / "other.key")
    (tmp_path / "w.csv").write_text("patient003\n")
    flags = [f"--dataset={tmp_path / 'out'}", f"--list={tmp_path / 'w.csv'}"]
    assert exclude.main(flags) == 2 and "add --key=FILE" in capsys.readouterr().err
    assert exclude.main([*flags, f"--key={tmp_path / 'other.key'}"]) == 2 and "another key" in capsys.readouterr().err
    key = f"--key={root / 'morphojax.key'}"
    assert exclude.main([f"--dataset={tmp_path / 'open'}", flags[1], key]) == 2
    assert "without a key" in capsys.readouterr().err
    assert exclude.main([*flags, key]) == 0 and "1 subjects removed, 5 remain" in capsys.readouterr().out
    assert run(root, tmp_path / "again", f"--exclude={tmp_path / 'w.csv'}") == 0
    assert Dataset.open(tmp_path / "again").fingerprint == Dataset.open(tmp_path / "out").fingerprint
    assert (tmp_path / "again/report.csv").read_bytes() == (tmp_path / "out/report.csv").read_bytes()


def test_the_synthetic_cohort_keeps_its_ids(tmp_path):
    flags = ["--source=synthetic", f"--input={tmp_path / 'in'}", "--subjects=1", "--size=16", "--workers=1"]
    assert prepare.main([*flags, f"--output={tmp_path / 'out'}"]) == 0
    dataset = Dataset.open(tmp_path / "out")
    assert (tmp_path / "in" / dataset.subjects[0]).is_dir() and not (tmp_path / "in/morphojax.key").exists()


def test_ids_are_translated(tmp_path, capsys, monkeypatch):
    key = Pseudonyms.make(tmp_path / "k")
    (tmp_path / "ids.txt").write_text("patient002\n\npatient001\n")
    assert pseudonyms.main([f"--key={tmp_path / 'k'}", str(tmp_path / "ids.txt")]) == 0
    assert capsys.readouterr().out.split() == [key("patient002"), key("patient001")]
    monkeypatch.setattr("sys.stdin", io.StringIO("patient003\n"))
    assert pseudonyms.main([f"--key={tmp_path / 'k'}", "--pairs", "-"]) == 0
    assert capsys.readouterr().out == f"subject,pseudonym\npatient003,{key('patient003')}\n"
    assert pseudonyms.main([f"--key={tmp_path / 'none'}", "-"]) == 2 and "no such key" in capsys.readouterr().err
    assert pseudonyms.main([f"--key={tmp_path / 'k'}", str(tmp_path / "none")]) == 2

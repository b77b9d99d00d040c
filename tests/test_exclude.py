import hashlib

import pytest

from morphojax import exclude, prepare
from morphojax.data.prepare import exclusion
from morphojax.data.sources import CohortError
from morphojax.data.store.dataset import Dataset
from tests.data import cohorts

GONE = "patient002"


def _prepare(root, output, *more) -> int:
    flags = [f"--input={root}", f"--output={output}", "--size=16", "--workers=1", "--source=acdc", "--key=none"]
    return prepare.main([*flags, *more])


def _bytes(folder) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _names(folder) -> bool:
    """Whether any file names the one who withdrew."""
    return any(GONE.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def cohort(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=4)
    cohorts.save(root / "training/patient002/patient002_4d.nii.gz", cohorts.image((20, 24, 4, 12)))
    return root


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "w.csv"
    path.write_text(f"eid\n\n{GONE}\nnobody\n")
    return path


def test_a_list_is_left_out_and_a_dataset_is_cleaned_to_the_same_bytes(tmp_path, cohort, listed, capsys):
    assert _prepare(cohort, tmp_path / "all") == 0 and _names(tmp_path / "all")
    before = Dataset.open(tmp_path / "all").fingerprint
    assert _prepare(cohort, tmp_path / "without", f"--exclude={listed}") == 0
    assert "1 subjects excluded, 1 ids of the list are not in the cohort" in capsys.readouterr().out
    assert exclude.main([f"--dataset={tmp_path / 'all'}", f"--list={listed}"]) == 0
    text = capsys.readouterr().out
    assert "1 subjects removed, 3 remain" in text and "1 ids of the list are not in" in text and GONE not in text
    assert not _names(tmp_path / "all") and not _names(tmp_path / "without")
    cleaned = Dataset.open(tmp_path / "all", verify=True)
    assert cleaned.subjects == ("patient001", "patient003", "patient004") and cleaned.fingerprint != before
    assert cleaned.manifest.to_json() == Dataset.open(tmp_path / "without").manifest.to_json()
    assert _bytes(tmp_path / "all") == _bytes(tmp_path / "without")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all", "cohort", "w.csv", "without"]
    unchanged = _bytes(tmp_path / "all")
    assert exclude.main([f"--dataset={tmp_path / 'all'}", f"--list={listed}"]) == 0
    assert "0 subjects removed" in capsys.readouterr().out and _bytes(tmp_path / "all") == unchanged


def test_neither_split_file_nor_failures_name_who_withdrew(tmp_path, cohort, listed):
    (cohort / "training/patient002/Info.cfg").write_text("ED: 1\n")  # cannot be read
    split = tmp_path / "s.csv"
    split.write_text("subject,split\n" + "".join(f"patient00{i},train\n" for i in range(1, 5)))
    assert _prepare(cohort, tmp_path / "a", f"--splits={split}", f"--exclude={listed}") == 0
    assert _prepare(cohort, tmp_path / "b", f"--splits={split}") == 0
    assert "failed" in (tmp_path / "b/report.csv").read_text() and _names(tmp_path / "b")
    assert exclude.main([f"--dataset={tmp_path / 'b'}", f"--list={listed}"]) == 0
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b") and not _names(tmp_path / "a")


@pytest.mark.parametrize("where", ["copying", "between the renames", "before the old one is removed"])
def test_a_killed_run_leaves_a_whole_dataset_and_is_completed(tmp_path, cohort, listed, where, monkeypatch):
    root, fresh, old = tmp_path / "all", tmp_path / "all.excluding", tmp_path / "all.before_exclusion"
    assert _prepare(cohort, root) == 0
    if where == "copying":
        fresh.mkdir()
        (fresh / "subjects.csv").write_text("half")
    else:
        monkeypatch.setattr(exclusion.shutil, "rmtree", lambda path: None)
        exclude.main([f"--dataset={root}", f"--list={listed}"])
        monkeypatch.undo()
        assert old.is_dir()
        if where == "between the renames":
            root.rename(fresh)
    assert exclude.main([f"--dataset={root}", f"--list={listed}"]) == 0
    assert not fresh.exists() and not old.exists() and not _names(root)
    assert len(Dataset.open(root, verify=True).subjects) == 3


def test_what_cannot_be_done_leaves_the_dataset_as_it_was(tmp_path, cohort, listed, capsys, monkeypatch):
    root = tmp_path / "all"
    assert _prepare(cohort, root) == 0
    whole = _bytes(root)

    def refused(message):
        assert exclude.main([f"--dataset={root}", f"--list={listed}"]) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error and GONE not in error

    (root / "notes.txt").write_text(GONE)
    refused("1 files that are no part of the dataset, e.g. notes.txt")
    (root / "notes.txt").unlink()
    monkeypatch.setattr(
        exclude.figures, "contact_sheet", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "disk full"))
    )
    refused("disk full")
    assert _bytes(root) == whole and not (tmp_path / "all.excluding").exists()
    listed.write_text("".join(f"patient00{i}\n" for i in range(1, 5)))
    refused("every subject is on the list")
    assert _prepare(cohort, tmp_path / "none", f"--exclude={listed}") == 1
    assert "every subject is on the list" in capsys.readouterr().err
    shard = next(p for p in (root / "sax").iterdir() if p.name.startswith("slices"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    refused("does not hold what was written")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no id"),
        (b"eid\n\n", "holds no id"),
        (b"1234567\n1.23457E+06\n", "line 2: a number with a point"),
        (b"1234567.0\n", "line 1: a number with a point"),
        ("1234567\né\n".encode("latin-1"), "cannot be read"),
    ],
)
def test_bad_lists(tmp_path, data, message):
    (tmp_path / "w.csv").write_bytes(data)
    with pytest.raises(CohortError, match=message) as caught:
        exclusion.read_list(tmp_path / "w.csv")
    assert "1234567" not in str(caught.value).replace(str(tmp_path), "")
    with pytest.raises(CohortError, match="cannot be read"):
        exclusion.read_list(tmp_path / "absent.csv")


def test_lists(tmp_path):
    (tmp_path / "w.csv").write_bytes(b'\xef\xbb\xbf"eid",date\r\n1234567,2020\r\n\r\n 7654321 ;x\r\n"2345678"\r\n')
    assert exclusion.read_list(tmp_path / "w.csv") == {"1234567", "7654321", "2345678"}

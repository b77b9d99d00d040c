"""`morphojax.exclude` leaves nothing of the subjects who withdrew, and the bytes of a preparation
without them.
"""

import pytest

from morphojax import exclude, prepare
from morphojax.data.prepare import exclusion
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import figures
from tests.data import cohorts
from tests.data.preparing import file_hashes

WITHDREW = "patient002"


@pytest.fixture
def no_contact_sheet(monkeypatch):
    monkeypatch.setattr(figures, "contact_sheet", lambda path, tiles, columns: path.write_bytes(b""))


def run(root, output, *more) -> int:
    flags = [f"--input={root}", f"--output={output}", "--size=16", "--workers=1", "--source=acdc", "--key=none"]
    return prepare.main([*flags, *more])


def mentions(folder) -> bool:
    """Whether any file contains the id of the subject who withdrew."""
    return any(WITHDREW.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def cohort(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=4)
    cohorts.save(root / "training/patient002/patient002_4d.nii.gz", cohorts.image((20, 24, 4, 12)))
    return root


@pytest.fixture
def withdrawals(tmp_path):
    path = tmp_path / "w.csv"
    path.write_text(f"eid\n\n{WITHDREW}\nnobody\n")
    return path


def test_excluding_before_or_after_preparation_gives_the_same_bytes(tmp_path, cohort, withdrawals, capsys):
    assert run(cohort, tmp_path / "all") == 0 and mentions(tmp_path / "all")
    before = Dataset.open(tmp_path / "all").fingerprint
    assert run(cohort, tmp_path / "without", f"--exclude={withdrawals}") == 0
    assert "1 subjects excluded, 1 ids of the list are not in the cohort" in capsys.readouterr().out
    assert exclude.main([f"--dataset={tmp_path / 'all'}", f"--list={withdrawals}"]) == 0
    text = capsys.readouterr().out
    assert "1 subjects removed, 3 remain" in text and "1 ids of the list are not in" in text and WITHDREW not in text
    assert not mentions(tmp_path / "all") and not mentions(tmp_path / "without")
    cleaned = Dataset.open(tmp_path / "all", verify=True)
    assert cleaned.subjects == ("patient001", "patient003", "patient004") and cleaned.fingerprint != before
    assert cleaned.manifest.to_json() == Dataset.open(tmp_path / "without").manifest.to_json()
    assert file_hashes(tmp_path / "all") == file_hashes(tmp_path / "without")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all", "cohort", "w.csv", "without"]
    unchanged = file_hashes(tmp_path / "all")
    assert exclude.main([f"--dataset={tmp_path / 'all'}", f"--list={withdrawals}"]) == 0
    assert "0 subjects removed" in capsys.readouterr().out and file_hashes(tmp_path / "all") == unchanged


@pytest.mark.usefixtures("no_contact_sheet")
def test_neither_split_file_nor_failures_name_an_excluded_subject(tmp_path, cohort, withdrawals):
    (cohort / "training/patient002/Info.cfg").write_text("ED: 1\n")  # cannot be read
    split = tmp_path / "s.csv"
    split.write_text("subject,split\n" + "".join(f"patient00{i},train\n" for i in range(1, 5)))
    assert run(cohort, tmp_path / "a", f"--splits={split}", f"--exclude={withdrawals}") == 0
    assert run(cohort, tmp_path / "b", f"--splits={split}") == 0
    assert "failed" in (tmp_path / "b/report.csv").read_text() and mentions(tmp_path / "b")
    assert exclude.main([f"--dataset={tmp_path / 'b'}", f"--list={withdrawals}"]) == 0
    assert file_hashes(tmp_path / "a") == file_hashes(tmp_path / "b") and not mentions(tmp_path / "a")


@pytest.mark.usefixtures("no_contact_sheet")
@pytest.mark.parametrize("killed", ["copying", "between the renames", "before the old one is removed"])
def test_a_killed_run_leaves_a_complete_dataset_and_the_next_completes_it(
    tmp_path, cohort, withdrawals, killed, monkeypatch
):
    root, new, old = tmp_path / "all", tmp_path / "all.excluding", tmp_path / "all.before_exclusion"
    assert run(cohort, root) == 0
    if killed == "copying":
        new.mkdir()
        (new / "subjects.csv").write_text("incomplete")
    else:
        with monkeypatch.context() as patch:
            patch.setattr(exclusion.shutil, "rmtree", lambda path: None)
            exclude.main([f"--dataset={root}", f"--list={withdrawals}"])
        assert old.is_dir()
        if killed == "between the renames":
            root.rename(new)
    assert exclude.main([f"--dataset={root}", f"--list={withdrawals}"]) == 0
    assert not new.exists() and not old.exists() and not mentions(root)
    assert len(Dataset.open(root, verify=True).subjects) == 3


@pytest.mark.usefixtures("no_contact_sheet")
def test_a_refused_or_failed_exclusion_leaves_the_dataset_unchanged(tmp_path, cohort, withdrawals, capsys, monkeypatch):
    root = tmp_path / "all"
    assert run(cohort, root) == 0
    before = file_hashes(root)

    def expect_refusal(message):
        assert exclude.main([f"--dataset={root}", f"--list={withdrawals}"]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error and WITHDREW not in error

    (root / "notes.txt").write_text(WITHDREW)
    expect_refusal("1 files that are no part of the dataset, e.g. notes.txt")
    (root / "notes.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(figures, "contact_sheet", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "disk full")))
        expect_refusal("disk full")
    assert file_hashes(root) == before and not (tmp_path / "all.excluding").exists()
    withdrawals.write_text("".join(f"patient00{i}\n" for i in range(1, 5)))
    expect_refusal("every subject is on the list")
    assert run(cohort, tmp_path / "none", f"--exclude={withdrawals}") == 2
    assert "every subject is on the list" in capsys.readouterr().err
    shard = next(p for p in (root / "sax").iterdir() if p.name.startswith("slices"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    expect_refusal("does not hold what was written")

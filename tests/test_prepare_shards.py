"""Many machines prepare one cohort, to the bytes that one machine gives."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import submitit

from morphojax import jobs, prepare
from morphojax.commands import prepare as work
from morphojax.data.prepare.pseudonyms import Pseudonyms
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import figures
from tests.data import cohorts
from tests.data.preparing import file_hashes


def main(argv) -> int:
    """`prepare` for the jobs of a test: the second shard raises an unexpected error."""
    if "--shard=2/2" in argv:
        raise RuntimeError("patient" + "001")  # a traceback shows this line
    return prepare.main(argv)


@pytest.fixture(autouse=True)
def no_contact_sheet(monkeypatch):
    monkeypatch.setattr(figures, "contact_sheet", lambda path, tiles, columns: path.write_bytes(b""))


@pytest.fixture
def root(tmp_path):
    """Six patients, one of whom cannot be read, and a key."""
    root = cohorts.acdc(tmp_path / "cohort", subjects=6)
    (root / "training/patient002/Info.cfg").write_text("ED: 1\n")
    Pseudonyms.make(root / "morphojax.key")
    return root


@pytest.fixture
def expected(root, tmp_path):
    """The files of a run on one machine."""
    assert run(root, tmp_path / "one_run") == 0
    return file_hashes(tmp_path / "one_run")


def run(root, output, *more) -> int:
    return prepare.main([f"--input={root}", f"--output={output}", "--size=16", "--workers=1", "--source=acdc", *more])


def partial_files(output):
    return sorted((output / ".partial").glob("*.msgpack"))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 2, 1), (3,)])
@pytest.mark.parametrize("more", [[], ["--key=none"], ["--measure"]], ids=str)
def test_shards_in_any_order_give_the_same_bytes(root, tmp_path, capsys, order, more):
    assert run(root, tmp_path / "one_run", *more) == 0
    for i in order:
        assert run(root, tmp_path / "out", *more, f"--shard={i}/3") == 0
    assert not any(p.name != ".partial" for p in (tmp_path / "out").iterdir())
    assert len(partial_files(tmp_path / "out")) == sum(1 if i == 2 else 2 for i in set(order))  # patient002 failed
    printed = capsys.readouterr().out
    assert ("shard 2/3: 1 subjects done, 1 failed, which are tried again without --shard" in printed) == (2 in order)
    assert run(root, tmp_path / "out", *more) == 0
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "one_run")


def test_subjects_left_out_or_excluded_are_in_no_shard(root, tmp_path):
    (tmp_path / "s.csv").write_text(
        "subject,split\n" + "".join(f"patient00{n},{'none' if n < 3 else 'train'}\n" for n in range(1, 7))
    )
    (tmp_path / "w.csv").write_text("patient003\n")
    more = [f"--splits={tmp_path / 's.csv'}"]
    assert run(root, tmp_path / "out", *more, "--shard=1/2") == 0 and len(partial_files(tmp_path / "out")) == 2
    more = [f"--exclude={tmp_path / 'w.csv'}"]
    assert run(root, tmp_path / "less", *more, "--shard=2/2") == 0 and len(partial_files(tmp_path / "less")) == 1
    assert run(root, tmp_path / "less", *more) == 0
    assert len(Dataset.open(tmp_path / "less").subjects) == 4


SLOW = """
import sys, time
from morphojax import prepare
from morphojax.data.prepare.partials import PartialResults
write = PartialResults.write
def slow_write(self, subject):
    time.sleep(float(sys.argv[1]))
    return write(self, subject)
PartialResults.write = slow_write
sys.exit(prepare.main(sys.argv[2:]))
"""


def start(root, output, seconds, *more) -> subprocess.Popen:
    flags = [f"--input={root}", f"--output={output}", "--size=16", "--workers=1", "--source=acdc", *more]
    return subprocess.Popen([sys.executable, "-c", SLOW, str(seconds), *flags], stdout=subprocess.PIPE, text=True)


def test_a_killed_shard_is_redone_with_the_key_that_both_shards_share(root, tmp_path):
    (root / "morphojax.key").unlink()
    slow, fast = (start(root, tmp_path / "out", seconds, f"--shard={i}/2") for i, seconds in ((1, 1.0), (2, 0.0)))
    deadline = time.monotonic() + 60
    while len(partial_files(tmp_path / "out")) < 3 and time.monotonic() < deadline:  # the fast one makes two
        time.sleep(0.01)
    slow.send_signal(signal.SIGKILL)
    outputs = [process.communicate()[0] for process in (slow, fast)]
    assert (slow.returncode, fast.returncode) == (-signal.SIGKILL, 0)
    assert sum("new key" in text for text in outputs) <= 1
    assert 3 <= len(partial_files(tmp_path / "out")) < 5
    assert run(root, tmp_path / "out", "--shard=1/2") == 0 and len(partial_files(tmp_path / "out")) == 5
    assert run(root, tmp_path / "out") == 0 and run(root, tmp_path / "one_run") == 0
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "one_run")


@pytest.mark.parametrize("flag", ["--size=8", "--key=none", "--percentiles=1,99", "--frames=3", "--measure"])
def test_shards_with_other_flags_are_refused(root, tmp_path, capsys, flag):
    assert run(root, tmp_path / "out", "--shard=1/2") == 0
    for more in ([flag, "--shard=2/2"], [flag]):
        assert run(root, tmp_path / "out", *more) == 2
        assert "unfinished run with other settings" in capsys.readouterr().err
    # A partial result copied from elsewhere carries its own settings.
    assert run(root, tmp_path / "other", flag, "--shard=2/2") == 0
    for path in partial_files(tmp_path / "other"):
        shutil.copy(path, tmp_path / "out/.partial")
    code = run(root, tmp_path / "out")
    if flag == "--key=none":  # named by ids, so the run does not look for these files
        assert code == 0
    else:
        assert code == 2 and "was made with other settings; remove it" in capsys.readouterr().err


def test_shards_of_machines_without_a_shared_disk_are_copied_together(root, expected, tmp_path):
    for i in (1, 2):
        assert run(root, tmp_path / f"machine{i}", f"--shard={i}/2") == 0
        shutil.copytree(tmp_path / f"machine{i}", tmp_path / "out", dirs_exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in partial_files(tmp_path / "out")}
    assert len(before) == 5
    assert run(root, tmp_path / "out", "--shard=1/1") == 0  # there is nothing to do
    assert {p: p.stat().st_mtime_ns for p in partial_files(tmp_path / "out")} == before
    assert run(root, tmp_path / "out") == 0
    assert file_hashes(tmp_path / "out") == expected


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:20], lambda d: b"", lambda d: d[:500] + b"!" + d[501:]]
)
def test_a_damaged_partial_result_is_redone(root, expected, tmp_path, damage):
    assert run(root, tmp_path / "out", "--shard=1/1") == 0
    path = partial_files(tmp_path / "out")[1]
    path.write_bytes(damage(path.read_bytes()))
    assert run(root, tmp_path / "out") == 0
    assert file_hashes(tmp_path / "out") == expected


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "1", "1/", "-1/3", "1/3/5", "1.0/3", "", "²/3"])
def test_bad_shards_are_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, tmp_path / "out", f"--shard={text}")
    assert f"{text!r} is not I/N with I from 1 to N, such as 3/100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard=1/2", "--dry-run"], "cannot be combined"),
        (["--launcher=submitit", "--shards=2", "--convert-only"], "cannot be combined"),
        (["--shard=1/2", "--launcher=submitit", "--shards=2"], "leave out one"),
        (["--launcher=submitit"], "go together"),
        (["--shards=2"], "go together"),
        (["--slurm=time=1"], "go together"),
        (["--launcher=submitit", "--shards=-1"], "--shards=-1: must be at least 1"),
        (["--launcher=submitit", "--shards=2", "--slurm=gpu=1"], "--slurm: 'gpu=1' is not KEY=VALUE"),
        (["--launcher=submitit", "--shards=2", "--table=absent.csv"], "absent.csv"),
    ],
)
def test_flags_that_exclude_one_another_are_refused(root, tmp_path, capsys, more, message):
    assert run(root, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jobs").exists() and not (tmp_path / "out").exists()


def test_a_shard_makes_no_synthetic_cohort(tmp_path, capsys):
    flags = ["--source=synthetic", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--shard=1/2"]
    assert prepare.main(flags) == 2
    assert "holds no synthetic cohort" in capsys.readouterr().err and not (tmp_path / "in").exists()


def test_the_assembling_run_does_the_work_of_a_failed_job(root, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(submitit.AutoExecutor, "which", staticmethod(lambda: "local"))
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(work, "COMMAND", "tests.test_prepare_shards")
    launch = ("--launcher=submitit", "--shards=2", "--slurm=time=5")
    assert run(root, tmp_path / "out", *launch) == 0
    printed = capsys.readouterr().out
    log = next(line for line in printed.splitlines() if line.startswith("shard 2/2 failed; its log is ")).split()[-1]
    assert log.startswith(str(tmp_path / "out.jobs")) and "shard 1/2 failed" not in printed
    assert file_hashes(tmp_path / "out") == expected
    logs = "".join(p.read_bytes().decode("latin-1") for p in (tmp_path / "out.jobs").rglob("*") if p.is_file())
    assert "shard 1/2: 3 subjects done, 0 failed" in logs and "RuntimeError, its message withheld" in logs
    assert "patient00" not in logs + printed


def test_strict_stops_at_a_failed_job(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "run", lambda module, argvs, folder, parameters: {2: folder / "log"})
    assert run(root, tmp_path / "out", "--launcher=submitit", "--shards=2", "--strict") == 2
    printed = capsys.readouterr()
    assert "shard 2/2 failed" in printed.out and "1 of 2 shards failed: 2" in printed.err
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_missing_submitit_is_named(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert run(root, tmp_path / "out", "--launcher=submitit", "--shards=2") == 2
    assert "pip install 'morphojax[slurm]'" in capsys.readouterr().err

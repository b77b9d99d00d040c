"""Many machines prepare one cohort, to the bytes that one machine gives."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import submitit

from morphojax import jobs, prepare
from morphojax.data.geometry import Grid
from morphojax.data.prepare import assemble
from morphojax.data.prepare.partials import PrepareError
from morphojax.data.prepare.pseudonyms import KeyFileError, Pseudonyms
from morphojax.data.prepare.spec import PrepareSpec
from morphojax.data.sources.acdc import Acdc
from morphojax.data.store.dataset import Dataset
from morphojax.data.store.records import write_once
from morphojax.evaluation import figures
from tests.data import cohorts
from tests.data.test_preparation import _bytes


def main(argv) -> int:
    """`prepare` for a job of the tests: the second shard breaks off half way."""
    if "--shard=2/2" in argv:
        raise RuntimeError("patient" + "001")  # a traceback shows this line
    return prepare.main(argv)


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(figures, "contact_sheet", lambda path, tiles, columns: path.write_bytes(b""))


@pytest.fixture
def root(tmp_path):
    """Six patients of whom one cannot be read, under a key that is there."""
    root = cohorts.acdc(tmp_path / "cohort", subjects=6)
    (root / "training/patient002/Info.cfg").write_text("ED: 1\n")
    Pseudonyms.make(root / "morphojax.key")
    return root


@pytest.fixture
def whole(root, tmp_path):
    assert run(root, tmp_path / "whole") == 0
    return _bytes(tmp_path / "whole")


def run(root, output, *more) -> int:
    return prepare.main([f"--input={root}", f"--output={output}", "--size=16", "--workers=1", "--source=acdc", *more])


def partials(output):
    return sorted((output / ".partial").glob("*.msgpack"))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 2, 1), (3,)])
@pytest.mark.parametrize("more", [[], ["--key=none"], ["--measure"]], ids=str)
def test_shards_in_any_order_give_the_same_bytes(root, tmp_path, capsys, order, more):
    assert run(root, tmp_path / "whole", *more) == 0
    for i in order:
        assert run(root, tmp_path / "out", *more, f"--shard={i}/3") == 0
    assert not any(p.name != ".partial" for p in (tmp_path / "out").iterdir())
    assert len(partials(tmp_path / "out")) == sum(1 if i == 2 else 2 for i in set(order))  # patient002 failed
    said = capsys.readouterr().out
    assert ("shard 2/3: 1 subjects done, 1 failed, which are tried again without --shard" in said) == (2 in order)
    assert run(root, tmp_path / "out", *more) == 0
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "whole")


def test_every_subject_is_of_one_shard_and_shards_are_even(root, tmp_path):
    order = PrepareSpec(Acdc(root), tmp_path / "o", "acdc", Grid(1.5, 16))
    found = [assemble.prepare_share(order, (i, 4), workers=1) for i in (1, 2, 3, 4)]
    assert [(share.done, share.failed) for share in found] == [(2, 0), (1, 1), (1, 0), (1, 0)]
    none = assemble.prepare_share(order, (9, 9), workers=1)
    assert (none.done, none.failed) == (0, 0)
    with pytest.raises(PrepareError, match="share 5/4"):
        assemble.prepare_share(order, (5, 4))


def test_a_subject_left_out_or_excluded_takes_no_place(root, tmp_path):
    (tmp_path / "s.csv").write_text(
        "subject,split\n" + "".join(f"patient00{n},{'none' if n < 3 else 'train'}\n" for n in range(1, 7))
    )
    (tmp_path / "w.csv").write_text("patient003\n")
    more = [f"--splits={tmp_path / 's.csv'}"]
    assert run(root, tmp_path / "out", *more, "--shard=1/2") == 0 and len(partials(tmp_path / "out")) == 2
    more = [f"--exclude={tmp_path / 'w.csv'}"]
    assert run(root, tmp_path / "less", *more, "--shard=2/2") == 0 and len(partials(tmp_path / "less")) == 1
    assert run(root, tmp_path / "less", *more) == 0
    assert len(Dataset.open(tmp_path / "less").subjects) == 4


SLOW = """
import sys, time
from morphojax import prepare
from morphojax.data.prepare import partials
run = partials.Job.run
partials.Job.run = lambda self, subject: [time.sleep(float(sys.argv[1])), run(self, subject)][1]
sys.exit(prepare.main(sys.argv[2:]))
"""


def start(root, output, seconds, *more) -> subprocess.Popen:
    flags = [f"--input={root}", f"--output={output}", "--size=16", "--workers=1", "--source=acdc", *more]
    return subprocess.Popen([sys.executable, "-c", SLOW, str(seconds), *flags], stdout=subprocess.PIPE, text=True)


def test_a_shard_killed_beside_another_is_redone_under_the_one_key_that_they_made(root, tmp_path):
    (root / "morphojax.key").unlink()
    first, second = (start(root, tmp_path / "out", seconds, f"--shard={i}/2") for i, seconds in ((1, 1.0), (2, 0.0)))
    deadline = time.monotonic() + 60
    while len(partials(tmp_path / "out")) < 3 and time.monotonic() < deadline:  # the second makes two
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 0) and sum("new key" in s for s in said) <= 1
    assert 3 <= len(partials(tmp_path / "out")) < 5
    assert run(root, tmp_path / "out", "--shard=1/2") == 0 and len(partials(tmp_path / "out")) == 5
    assert run(root, tmp_path / "out") == 0 and run(root, tmp_path / "whole") == 0
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "whole")


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_at_once_one_writes(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError()))
    barrier, wrote, read = threading.Barrier(16), [], []

    def write(n):
        barrier.wait()
        wrote.append(write_once(tmp_path / "f", bytes([n]) * 100_000))
        read.append((tmp_path / "f").read_bytes())

    for thread in (threads := [threading.Thread(target=write, args=(n,)) for n in range(16)]):
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wrote) == 1 and [p.name for p in tmp_path.iterdir()] == ["f"]
    assert len({*read}) == 1 or not links  # without links, a reader may come too early
    with pytest.raises(OSError):
        write_once(tmp_path / "absent/f", b"")


def test_who_loses_the_race_for_the_key_takes_the_winners(tmp_path, monkeypatch):
    winner = Pseudonyms.make(tmp_path / "k")
    seen = iter([False, True])
    monkeypatch.setattr(type(tmp_path), "exists", lambda self: next(seen, True))
    assert Pseudonyms.read_or_make(tmp_path / "k") == (winner, False)
    monkeypatch.undo()
    with pytest.raises(KeyFileError, match="cannot be written"):
        Pseudonyms.read_or_make(tmp_path / "absent/k")


def test_who_loses_the_race_for_the_folder_with_other_settings_is_refused(root, tmp_path, monkeypatch):
    begun, answers = PrepareSpec.is_begun, [False]
    order = PrepareSpec(Acdc(root), tmp_path / "out", "acdc", Grid(1.5, 16))
    assemble.prepare_share(order, (1, 2), workers=1)
    monkeypatch.setattr(PrepareSpec, "is_begun", lambda self: answers.pop() if answers else begun(self))
    with pytest.raises(PrepareError, match="unfinished run with other settings"):
        assemble.prepare_share(dataclasses.replace(order, grid=Grid(1.5, 8)), (2, 2), workers=1)


@pytest.mark.parametrize("flag", ["--size=8", "--key=none", "--percentiles=1,99", "--frames=3", "--measure"])
def test_shards_with_other_flags_are_refused(root, tmp_path, capsys, flag):
    assert run(root, tmp_path / "out", "--shard=1/2") == 0
    for more in ([flag, "--shard=2/2"], [flag]):
        assert run(root, tmp_path / "out", *more) == 1
        assert "unfinished run with other settings" in capsys.readouterr().err
    # Brought together from elsewhere, each partial result tells for itself.
    assert run(root, tmp_path / "other", flag, "--shard=2/2") == 0
    for path in partials(tmp_path / "other"):
        shutil.copy(path, tmp_path / "out/.partial")
    found = run(root, tmp_path / "out")
    if flag == "--key=none":  # of other names, so nobody's
        assert found == 0
    else:
        assert found == 1 and "was made with other settings; remove it" in capsys.readouterr().err


def test_folders_of_machines_without_a_shared_disk_are_brought_together(root, whole, tmp_path):
    for i in (1, 2):
        assert run(root, tmp_path / f"machine{i}", f"--shard={i}/2") == 0
        shutil.copytree(tmp_path / f"machine{i}", tmp_path / "out", dirs_exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in partials(tmp_path / "out")}
    assert len(before) == 5
    assert run(root, tmp_path / "out", "--shard=1/1") == 0  # there is nothing to do
    assert {p: p.stat().st_mtime_ns for p in partials(tmp_path / "out")} == before
    assert run(root, tmp_path / "out") == 0
    assert _bytes(tmp_path / "out") == whole


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:20], lambda d: b"", lambda d: d[:500] + b"!" + d[501:]]
)
def test_a_damaged_partial_result_is_redone(root, whole, tmp_path, damage):
    assert run(root, tmp_path / "out", "--shard=1/1") == 0
    path = partials(tmp_path / "out")[1]
    path.write_bytes(damage(path.read_bytes()))
    assert run(root, tmp_path / "out") == 0
    assert _bytes(tmp_path / "out") == whole


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "1", "1/", "-1/3", "1/3/5", "1.0/3", "", "²/3"])
def test_bad_shards(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, tmp_path / "out", f"--shard={text}")
    assert f"{text!r} is not I/N with I from 1 to N, such as 3/100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard=1/2", "--dry-run"], "know no --dry-run"),
        (["--launcher=submitit", "--shards=2", "--convert-only"], "no --convert-only"),
        (["--shard=1/2", "--launcher=submitit", "--shards=2"], "leave out one"),
        (["--launcher=submitit"], "go together"),
        (["--shards=2"], "go together"),
        (["--slurm=time=1"], "go together"),
        (["--launcher=submitit", "--shards=-1"], "--shards=-1: at least 1"),
        (["--launcher=submitit", "--shards=2", "--slurm=gpu=1"], "--slurm: 'gpu=1' is not KEY=VALUE"),
        (["--launcher=submitit", "--shards=2", "--table=absent.csv"], "absent.csv"),
    ],
)
def test_flags_that_do_not_go_together(root, tmp_path, capsys, more, message):
    assert run(root, tmp_path / "out", *more) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jobs").exists() and not (tmp_path / "out").exists()


def test_a_shard_makes_no_synthetic_cohort(tmp_path, capsys):
    flags = ["--source=synthetic", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--shard=1/2"]
    assert prepare.main(flags) == 1
    assert "holds no synthetic cohort" in capsys.readouterr().err and not (tmp_path / "in").exists()


def test_launched_shards_of_which_one_fails(root, whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(submitit.AutoExecutor, "which", staticmethod(lambda: "local"))
    monkeypatch.setattr(prepare, "COMMAND", "tests.test_prepare_shards")
    launch = ("--launcher=submitit", "--shards=2", "--slurm=time=5")
    assert run(root, tmp_path / "out", *launch) == 0
    said = capsys.readouterr().out
    log = next(line for line in said.splitlines() if line.startswith("shard 2/2 failed; its log is ")).split()[-1]
    assert log.startswith(str(tmp_path / "out.jobs")) and "shard 1/2 failed" not in said
    assert _bytes(tmp_path / "out") == whole
    logs = "".join(p.read_bytes().decode("latin-1") for p in (tmp_path / "out.jobs").rglob("*") if p.is_file())
    assert "shard 1/2: 3 subjects done, 0 failed" in logs and "RuntimeError, its message withheld" in logs
    assert "patient00" not in logs + said


def test_strict_stops_at_a_failed_shard(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "run", lambda module, argvs, folder, chosen: {2: folder / "log"})
    assert run(root, tmp_path / "out", "--launcher=submitit", "--shards=2", "--strict") == 1
    said = capsys.readouterr()
    assert "shard 2/2 failed" in said.out and "1 of 2 shards failed: 2" in said.err
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_missing_submitit_is_named(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert run(root, tmp_path / "out", "--launcher=submitit", "--shards=2") == 1
    assert "pip install 'morphojax[slurm]'" in capsys.readouterr().err

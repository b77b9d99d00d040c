"""Kills, full disks and damaged files: does every command end in the undisturbed result?

    python -m tests.reliability.torture
    python -m tests.reliability.torture --kills=3 --full=2 --corruptions=5 --seed=1
    python -m tests.reliability.torture --only=segment --only="run, predict"

Tries a tiny cohort's `prepare`, pretraining, segmentation with EMA weights, self-training,
`evaluate` and a study. Every case must end bit-equal to the undisturbed run, or in a named
one-line error; anything else is lost: the case's folder is kept in --folder/lost, and the exit code
is 1. docs/reliability.md says what is compared.

Disk-full events need Linux with user namespaces (`unshare -Urm`), for a small tmpfs without root.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.reliability import commands, compare, damage, starting
from tests.reliability.commands import NAMES, Place, Reference, make_cohort, make_reference, undisturbed
from tests.reliability.damage import Reader
from tests.reliability.ledger import EQUAL, ERROR, FALLBACK, LOST, Ledger

INSIDE = "MORPHOJAX_TORTURE_NAMESPACE"
HOLDS = "already holds a dataset"  # prepare, killed after its last file
AGAIN = 0.3  # probability that a restarted victim is killed again
FRESH = 5  # every so many victims is a process of its own, `prepare` with two workers


def draws(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that depend on the seed and the case alone."""
    return np.random.default_rng([seed, zlib.crc32(" ".join(map(str, names)).encode())])


def check(place: Place, reference: Reference) -> list[str]:
    """What an interrupted command left that reads as whole and is not."""
    if not place.out.exists():
        return []
    return compare.half(place.left(), reference.every if reference.kind == "run" else reference.left, reference.kind)


def final(place: Place, reference: Reference) -> list[str]:
    """What a finished command left that is not as undisturbed."""
    parts = compare.parts(place.out) if reference.kind == "dataset" else []
    return compare.differences(place.left(), reference.left) + [f"{name}: left over" for name in parts]


def kill(place: Place, reference: Reference, random: np.random.Generator, fresh: bool) -> tuple[int, list[str]]:
    """Starts the command until it finishes; returns the number of kills and what is wrong."""
    argv = [*reference.argv, *(["--workers=2"] if fresh and reference.name == "prepare" else [])]
    imports = place.imports if fresh else 0.0
    kills = 0
    while True:
        when = None
        if not kills or random.random() < AGAIN:
            begin = reference.begins if random.random() < 0.75 else 0.0
            when = imports + random.uniform(begin, reference.seconds)
        ended = starting.run(argv, place.log, kill_after=when, fresh=fresh)
        if not ended.killed:
            complete = ended.code == 0 or (kills and HOLDS in (ended.named_error or ""))
            wrong = [] if complete else [f"exit code {ended.code}: {ended.text[-300:]}"]
            return kills, wrong or final(place, reference)
        kills += 1
        if wrong := check(place, reference):
            return kills, [f"after kill {kills}: {w}" for w in wrong]


def kill_all(place: Place, ledger: Ledger, reference: Reference, count: int, seed: int) -> None:
    case = landed = 0
    while landed < count:
        place.clear()
        case += 1
        random = draws(seed, "kill", reference.name, case)
        kills, wrong = kill(place, reference, random, fresh=case % FRESH == 0)
        landed += kills
        ledger.add("kill", reference.name, LOST if wrong else EQUAL, kills, "; ".join(wrong[:5]))


def fill_disk(place: Place, reference: Reference, random: np.random.Generator) -> tuple[str, str]:
    """The command on a disk that is too small, and again once there is room."""
    room = int(random.uniform(0.02, 1.1) * reference.bytes)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(room, 4096)}", "torture", str(place.work)]
    subprocess.run(mount, check=True)
    ended = starting.run(reference.argv, place.log)
    if ended.code and ended.named_error is None:
        return LOST, f"{room} bytes: exit code {ended.code}, no named error: {ended.text[-600:]}"
    if wrong := check(place, reference):
        return LOST, f"{room} bytes: {'; '.join(wrong[:5])}"
    if ended.code == 0 and (wrong := final(place, reference)):
        return LOST, f"{room} bytes: exit code 0, but {'; '.join(wrong[:5])}"
    subprocess.run(["mount", "-o", "remount,size=1g", str(place.work)], check=True)
    again = starting.run(reference.argv, place.log)
    if reference.kind == "dataset" and ended.code == 0:  # prepare refuses a folder that holds a dataset
        return EQUAL, f"{room} bytes were enough"
    if again.code:
        return LOST, f"{room} bytes, started again: exit code {again.code}: {again.text[-600:]}"
    if wrong := final(place, reference):
        return LOST, f"{room} bytes, started again: {'; '.join(wrong[:5])}"
    return EQUAL if ended.code == 0 else ERROR, ended.named_error or f"{room} bytes were enough"


def fill_disk_all(place: Place, ledger: Ledger, reference: Reference, count: int, seed: int) -> None:
    for case in range(count):
        place.clear()
        try:
            outcome, why = fill_disk(place, reference, draws(seed, "full", reference.name, case))
            ledger.add("disk full", reference.name, outcome, why=why)
        finally:
            subprocess.run(["umount", str(place.work)], check=False)


def corrupt(
    place: Place, reader: Reader, whole: Sequence[compare.Left], random: np.random.Generator
) -> tuple[str, str]:
    """Damages a copy of the source and reads it.

    whole: what the reader leaves with an undamaged source, then with each checkpoint alone.
    """
    shutil.copytree(reader.source, reader.target(place))
    name, done = damage.damage(reader.target(place), random)
    what = f"{done} of {name}"
    ended = starting.run(reader.argv, place.log)
    if ended.code:
        return (ERROR if ended.named_error else LOST), f"{what}: {ended.named_error or ended.text[-600:]}"
    found = {n: v for n, v in place.left().items() if not n.startswith("damaged/")}
    if reader.kind == "study":  # a report reads no checkpoint and no log
        found, *whole = ({n: v for n, v in left.items() if n.startswith(compare.REPORT)} for left in (found, *whole))
    wrong = compare.differences(found, whole[0])
    aside = re.findall(r"warning: \S*/checkpoints/(\d+): damaged", ended.text)
    if not wrong:
        return EQUAL, what
    if aside and any(found == other for other in whole[1:]):
        return FALLBACK, f"{what}: checkpoint {', '.join(aside)} not used"
    if reader.resumes:
        expected = tuple(f"{compare.CHECKPOINTS}{step} " for step in aside)
        wrong = [w for w in wrong if not (w.startswith(expected) and w.endswith("absent"))]
        if name == compare.LOG:  # its lines have no digests: those before the resumed step may be damaged
            wrong = [w for w in wrong if not _logged_before(w, commands.STEPS)]
    return (LOST if wrong else FALLBACK), f"{what}: exit code 0, {'; '.join(wrong[:5])}"


def _logged_before(line: str, step: int) -> bool:
    """Whether a difference is that of a row of the log before a step, or of an unreadable row."""
    match = re.match(rf"{compare.LOG}:(-?\d+|line) ", line)
    return match is not None and (match[1] == "line" or int(match[1]) < step)


def references_of(place: Place, reader: Reader) -> list[compare.Left]:
    """`whole` of `corrupt`."""
    found = []
    for step in ("", *reader.checkpoints):
        place.clear()
        shutil.copytree(reader.source, reader.target(place))
        if step:
            for folder in (reader.target(place) / compare.CHECKPOINTS).iterdir():
                if folder.name != step:
                    shutil.rmtree(folder)
        found.append(undisturbed(place, reader.argv))
    return found


def corrupt_all(place: Place, ledger: Ledger, reader: Reader, count: int, seed: int) -> None:
    whole = references_of(place, reader)
    for case in range(count):
        place.clear()
        outcome, why = corrupt(place, reader, whole, draws(seed, "damage", reader.name, case))
        ledger.add("damage", reader.name, outcome, why=why)


def spread(count: int, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(name, its part of the count)."""
    for i, name in enumerate(names):
        if part := count // len(names) + (i < count % len(names)):
            yield name, part


def torture(place: Place, args: argparse.Namespace) -> Ledger:
    ledger = Ledger(place)
    make_cohort(place.root)
    wanted = [name for name in NAMES if not args.only or name in args.only]
    needed = NAMES if args.corruptions else {"prepare", "segment", *wanted}
    references = {name: make_reference(place, name) for name in NAMES if name in needed}
    for reference in references.values():
        print(f"{reference.name}: undisturbed {reference.seconds:.1f} s", flush=True)
    for name, count in spread(args.kills, wanted):
        kill_all(place, ledger, references[name], count, args.seed)
    for name, count in spread(args.full, wanted):
        fill_disk_all(place, ledger, references[name], count, args.seed)
    if args.corruptions:
        readers = {r.name: r for r in damage.readers(place) if not args.only or r.name in args.only}
        for name, count in spread(args.corruptions, list(readers)):
            corrupt_all(place, ledger, readers[name], count, args.seed)
    return ledger


def enter_namespace() -> bool:
    """Starts this program again where it may mount a tmpfs; False where that is not possible."""
    if os.environ.get(INSIDE):
        return True
    unshare = ["unshare", "-Urm"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        return False
    os.environ[INSIDE] = "1"
    os.execvp("unshare", [*unshare, sys.executable, "-m", "tests.reliability.torture", *sys.argv[1:]])


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser("tests.reliability.torture", description=__doc__, formatter_class=raw)
    made.add_argument("--kills", type=int, default=100, help="SIGKILLs, over all commands; default 100")
    made.add_argument("--full", type=int, default=20, help="disk-full events; default 20")
    made.add_argument("--corruptions", type=int, default=200, help="damaged files; default 200")
    made.add_argument("--seed", type=int, default=0, help="of times, sizes and damage; default 0")
    made.add_argument("--only", action="append", help=f"a command ({', '.join(NAMES)}) or a reader of damaged files")
    made.add_argument("--folder", type=Path, help="an absent or empty folder to work in; default a temporary one")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.full and not enter_namespace():
        print("no disk-full events: `unshare -Urm` is not possible on this machine", file=sys.stderr)
        args.full = 0
    began = time.monotonic()
    root = (args.folder or Path(tempfile.mkdtemp(prefix="torture-"))).resolve()
    os.environ.update(starting.ENVIRONMENT)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(root / "cache")
    starting.preload()
    place = Place(root, imports=time.monotonic() - began)
    place.work.mkdir(parents=True)
    ledger = torture(place, args)
    print(f"\n{ledger.table()}\n\n{time.monotonic() - began:.0f} s, seed {args.seed}")
    if ledger.lost:
        print(f"{ledger.lost} cases are lost: {place.root / 'lost'}", file=sys.stderr)
        return 1
    if not args.folder:
        shutil.rmtree(place.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Mutation testing: do the tests notice small mistakes in the code?

    python -m tests.reliability.covering covering.json
    python -m tests.reliability.mutation --covering=covering.json --output=mutants.csv
    python -m tests.reliability.mutation --output=mutants.csv --report

Draws mutants (mutants.py) from four packages, and adds mistakes made up by hand (mistakes.toml).
Each is tried in a copy of the repository by the tests that run its line (covering.py), the fastest
first. It is killed when a test fails or takes too long. A run that is started again goes on.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

from tests.reliability import mistakes, mutants

ROOT = Path(__file__).parents[2]
PACKAGES = ("evaluation", "objectives", "data", "train")
# The looks of figures and of the synthetic hearts are nobody's contract.
EXCLUDED = ("morphojax/evaluation/figures.py", "morphojax/data/sources/synthetic/")
# identity -> why no test can tell the mutant from the code
EQUIVALENT: dict[str, str] = tomllib.loads(Path(__file__).with_name("equivalent.toml").read_text())
COLUMNS = ("id", "mutant", "result", "test", "seconds")
LIMIT_SECONDS = 600.0


class Covering:
    """The files of `covering.py`, merged."""

    def __init__(self, paths: list[Path], limit: float):
        """limit: seconds of tests per mutant, as `covering.py` timed them."""
        self.limit = limit
        parts = [json.loads(path.read_text()) for path in paths]
        self.seconds = {test: s for part in parts for test, s in part["seconds"].items()}
        self.lines: dict[str, dict[int, set[str]]] = {}
        for file, line, tests in (
            (f, int(n), t) for p in parts for f, lines in p["lines"].items() for n, t in lines.items()
        ):
            self.lines.setdefault(file, {}).setdefault(line, set()).update(tests)

    def tests(self, mutant: mutants.Mutant) -> list[str]:
        """The fastest tests of a mutant's line, within the limit, and then all of its module.

        A test that finds a function compiled runs none of its lines, and yet sees its result.
        """
        lines = self.lines.get(mutant.file, {})
        line = max((n for n in lines if n <= mutant.line), default=0)  # a statement may take several lines
        chosen, total = [], 0.0
        for test in sorted(lines.get(line, ()), key=self.seconds.__getitem__):
            total += self.seconds[test]
            if total > self.limit and chosen:
                break
            chosen.append(test)
        return chosen + _of_module(mutant.file, needed=not chosen)


def _of_module(file: str, needed: bool) -> list[str]:
    """The tests of a module by its name; where there are none and they are needed, its folder's."""
    path = Path(file)
    folder = Path("tests", *path.parts[1:-1])
    if (ROOT / folder / f"test_{path.stem}.py").exists():
        return [str(folder / f"test_{path.stem}.py")]
    while not (ROOT / folder).is_dir():
        folder = folder.parent
    return [str(folder)] if needed else []


def run_tests(tree: Path, tests: list[str]) -> tuple[str, str]:
    """(result, the test that failed), from a fork that has imported nothing of the project."""
    output = tree.parent / "output.txt"
    child = os.fork()
    if not child:
        os.setsid()
        os.chdir(tree)
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(opened, stream)
        sys.path[:] = [str(tree)] + [p for p in sys.path if p not in ("", str(ROOT))]
        for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "morphojax")]:
            del sys.modules[name]
        import pytest

        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        sys.stdout.flush()
        os._exit(int(code))
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return ("survived", "") if status == 0 else ("killed", _failed(output))
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "killed", "time limit"


def _failed(output: Path) -> str:
    lines = output.read_text(errors="replace").splitlines()
    return next((ln.split(" - ")[0] for ln in reversed(lines) if ln.startswith(("FAILED", "ERROR"))), "stopped")


def try_mutant(tree: Path, mutant: mutants.Mutant, tests: list[str]) -> dict[str, str]:
    path, began = tree / mutant.file, time.monotonic()
    source = path.read_bytes()
    path.write_bytes(mutant.apply(source))
    try:
        result, test = run_tests(tree, tests)
    finally:
        path.write_bytes(source)
    return {"result": result, "test": test, "seconds": f"{time.monotonic() - began:.0f}"}


def drawn(number: int, seed: int) -> dict[str, mutants.Mutant]:
    """The mutants to try, by identity, in no order of packages."""
    packages = [f"morphojax/{package}" for package in PACKAGES]
    chosen = mistakes.all_of(ROOT) + mutants.sample(ROOT, packages, number, seed, EXCLUDED)
    return dict(sorted({m.identity: m for m in chosen}.items()))


def survivors(rows: list[dict[str, str]]) -> dict[str, mutants.Mutant]:
    """Those of an earlier output that survived and whose code is still there, by identity."""
    known = {row["id"] for row in rows if row["result"] == "survived"} - EQUIVALENT.keys()
    every = [m for package in PACKAGES for m in mutants.of_package(ROOT, f"morphojax/{package}", EXCLUDED)]
    return {m.identity: m for m in every + mistakes.all_of(ROOT) if m.identity in known}


def copy_tree(folder: Path) -> Path:
    """A copy of the repository without data, runs and environments."""
    tree = folder / "morphojax"

    def ignore(directory: str, names: list[str]) -> set[str]:
        top = Path(directory) == ROOT
        return {n for n in names if n == "__pycache__" or (top and (n.startswith(".") or n in ("data", "runs")))}

    shutil.copytree(ROOT, tree, ignore=ignore, symlinks=True)
    return tree


def prepare_process() -> None:
    """What all forks share: the settings of tests/conftest.py, and libraries that take seconds to
    import. JAX starts no device before a test asks for one.
    """
    import tests.conftest  # noqa: F401, sets JAX's environment variables

    sys.dont_write_bytecode = True
    for name in (
        "flax.linen",
        "grain",
        "nibabel",
        "optax",
        "orbax.checkpoint",
        "pandas",
        "pydicom",
        "scipy.stats",
        "sklearn",
        "pytest",
    ):
        __import__(name)


def report(rows: list[dict[str, str]]) -> None:
    """Prints the score of each package, and what survived. Equivalent mutants do not count."""
    counted = [row for row in rows if row["id"] not in EQUIVALENT]
    print(f"{len(rows)} mutants, of which {len(rows) - len(counted)} are equivalent to the code")
    for package in (*PACKAGES, ""):
        results = Counter(r["result"] for r in counted if r["mutant"].startswith(f"morphojax/{package}"))
        if total := results.total():
            score = 100 * results["killed"] / total
            print(f"{package or 'all':12} {total:4} mutants, {results['killed']:4} killed, {score:.1f} %")
    for row in counted:
        if row["result"] == "survived":
            print(f"{row['id']} {row['mutant']}")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, required=True, nargs="+", help="CSV with a row per mutant; more to report")
    made.add_argument("--covering", type=Path, nargs="+", default=[], help="files that covering.py wrote")
    made.add_argument("--number", type=int, default=300, help="of drawn mutants (300)")
    made.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    made.add_argument("--seconds", type=float, default=60.0, help="of tests per mutant, as covering.py timed them (60)")
    made.add_argument("--part", default="0/1", metavar="I/N", help="only every N-th mutant, from I on (0/1)")
    made.add_argument("--again", action="store_true", help="try those that survived again, with other tests or seconds")
    made.add_argument("--report", action="store_true", help="print the score of the output and stop")
    return made


def main() -> int:
    args = parser().parse_args()
    rows = [row for path in args.output if path.exists() for row in csv.DictReader(path.open())]
    if args.report:
        report(rows)
        return 0
    todo = survivors(rows) if args.again else drawn(args.number, args.seed)
    rows = [row for row in rows if not args.again or row["result"] == "killed"]
    first, step = map(int, args.part.split("/"))
    known = {row["id"] for row in rows}
    todo = {key: mutant for key, mutant in list(todo.items())[first::step] if key not in known}
    covering = Covering(args.covering, args.seconds)
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder))
        for number, (key, mutant) in enumerate(todo.items(), 1):
            tests = covering.tests(mutant)
            rows.append({"id": key, "mutant": mutant.name} | try_mutant(tree, mutant, tests))
            with args.output[0].open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            result, seconds = rows[-1]["result"], rows[-1]["seconds"]
            print(f"{number}/{len(todo)} {result}, {len(tests)} tests, {seconds} s: {mutant.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

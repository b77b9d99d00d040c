"""The tool that makes mutants: it changes what runs, and nothing else."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import covering, mistakes, mutation
from tests.reliability.mutants import of_file, sample

ROOT = Path(__file__).parents[2]
SOURCE = '''"""A text with 1 + 1."""

LIMIT: int = 3


def clip(x: float, low: float = 0.5) -> float:
    """x * 2."""
    if x < low and not ready(x, key=2):
        raise ValueError(f"{x + 1} is below " + "low")
    x = stop_gradient(x)
    return max(x, LIMIT)
'''


@pytest.fixture
def module(tmp_path) -> Path:
    (tmp_path / "a.py").write_text(SOURCE)
    return tmp_path / "a.py"


def test_every_kind_of_mistake_is_made_once(module):
    made = {(m.old, m.new) for m in of_file(module.parent, module)}
    assert made == {
        ("3", "(4)"),
        ("0.5", "(1.0)"),
        ("2", "(3)"),
        ("x < low and not ready(x, key=2)", "(x < low or not ready(x, key=2))"),
        ("x < low", "(x <= low)"),
        ("not ready(x, key=2)", "(ready(x, key=2))"),
        ("ready(x, key=2)", "(ready(x))"),
        ('raise ValueError(f"{x + 1} is below " + "low")', "pass"),
        ("x = stop_gradient(x)", "pass"),
        ("stop_gradient(x)", "(x)"),
        ("max(x, LIMIT)", "(min(x, LIMIT))"),
        ("max(x, LIMIT)", "(max(LIMIT, x))"),
    }


def test_a_mutant_changes_its_place_alone(module):
    source = module.read_bytes()
    for mutant in of_file(module.parent, module):
        changed = mutant.apply(source)
        ast.parse(changed)
        assert changed == source[: mutant.start] + mutant.new.encode() + source[mutant.stop :]
        assert source[mutant.start : mutant.stop].decode() == mutant.old


def test_a_sample_is_repeatable_and_takes_equally_many_of_each_package():
    packages = ["morphojax/objectives", "morphojax/train"]
    drawn = sample(ROOT, packages, 9, 1, ("morphojax/train/run.py",))
    assert drawn == sample(ROOT, packages, 9, 1, ("morphojax/train/run.py",))
    assert drawn != sample(ROOT, packages, 9, 2, ("morphojax/train/run.py",))
    assert [sum(m.file.startswith(p) for m in drawn) for p in packages] == [5, 4]
    assert not any(m.file == "morphojax/train/run.py" for m in drawn)


def test_mistakes_made_by_hand_still_fit_the_code():
    for mutant in mistakes.all_of(ROOT):
        ast.parse(mutant.apply((ROOT / mutant.file).read_bytes()))


def test_the_fastest_tests_of_a_line_are_chosen(tmp_path, module):
    covering = {
        "seconds": {"slow": 20.0, "fast": 1.0, "slower": 70.0},
        "lines": {"a.py": {"8": ["slower", "slow", "fast"]}},
    }
    (tmp_path / "map.json").write_text(json.dumps(covering))
    read = mutation.Covering([tmp_path / "map.json"], limit=30)
    condition = next(m for m in of_file(tmp_path, module) if m.old == "x < low")
    assert read.tests(condition) == ["fast", "slow"]
    loss = of_file(ROOT, ROOT / "morphojax/objectives/volume.py")[0]
    assert read.tests(loss) == ["tests/objectives/test_volume.py"]
    shapes = of_file(ROOT, ROOT / "morphojax/data/sources/views.py")[0]  # has no tests of its own name
    assert read.tests(shapes) == ["tests/data/sources"]


def test_what_a_fixture_runs_belongs_to_all_tests_of_its_file():
    of_file = {"a.py": ["a.py::x", "a.py::y"]}
    assert covering.tests_of("a.py::x|call", of_file) == ["a.py::x"]
    assert covering.tests_of("a.py::x|setup", of_file) == ["a.py::x", "a.py::y"]
    assert covering.tests_of("", of_file) == []  # an import


PROGRAM = """
import json, sys
from pathlib import Path
from tests.reliability import mutation, mutants
tree = Path(sys.argv[1])
tried = {m.name: mutation.try_mutant(tree, m, ["test_a.py"]) for m in mutants.of_file(tree, tree / "a.py")}
print(json.dumps(tried))
"""


@pytest.mark.slow
def test_a_mutant_is_killed_by_a_failing_test_alone(tmp_path):
    """In a small repository, with a test that looks at one of two functions."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.py").write_text("def seen():\n    return 1 + 1\n\n\ndef unseen():\n    return 1 + 1\n")
    (tree / "test_a.py").write_text("import a\n\n\ndef test_a():\n    assert a.seen() == 2 and a.unseen()\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tree)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tried = json.loads(done.stdout)
    assert {name for name, r in tried.items() if r["result"] == "killed"} == {
        "a.py:2: 1 + 1 -> (1 - 1)",
        "a.py:2: 1 -> (2)",
        "a.py:6: 1 + 1 -> (1 - 1)",
    }
    assert tried["a.py:2: 1 -> (2)"]["test"] == "FAILED test_a.py::test_a"
    assert "1 + 1" in (tree / "a.py").read_text()

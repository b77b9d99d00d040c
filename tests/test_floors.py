"""Rules of the code base that docs/architecture.md states, checked over all files at once. Every
test lists all offenders.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "morphojax"
# A module imports from lower floors and from its own package only.
FLOORS: dict[str, float] = {
    "anatomy": 0,
    "exit_codes": 0,
    "interrupts": 0.5,
    "progress": 0,
    "shipped": 0,
    "data": 1,
    "models": 1,
    "objectives": 1,
    "augment": 1,
    "evaluation": 1,
    "train": 2,
    "cohort_flags": 2,
    "measuring": 2,
    "jobs": 2,
    "tasks": 3,
    "flags": 3,
    "inference": 4,
    "reports": 4.5,
    "commands": 5,
    "library": 5,
    "main": 6,
    "configs": 6,
    "prepare": 6,
    "inspect": 6,
    "evaluate": 6,
    "predict": 6,
    "report": 6,
    "probe": 6,
    "export": 6,
    "exclude": 6,
    "pseudonyms": 6,
    "cli": 7,
    "completion": 8,
    "__main__": 8,
}
ABOVE_THE_PACKAGE = ("analysis", "benchmarks", "configs", "tests")
# The only places that import a library.
FENCES = {
    "nibabel": ("data/sources/", "inference/files.py"),
    "pydicom": ("data/sources/",),
    "grain": ("data/input/",),
    "flax.linen": ("models/",),
    "orbax": ("train/checkpoint.py",),
    "pickle": ("train/weights.py",),
    "safetensors": ("train/weights.py",),
    "submitit": ("jobs.py",),
    "matplotlib": ("evaluation/figures.py", "reports/figures.py", "reports/svg.py"),
    "jinja2": ("reports/document.py", "inference/viewer.py"),
    "ml_collections": ("tasks/",),
    "shtab": ("completion.py",),
    "tqdm": ("progress.py",),
}
MOST_LINES = {"": 80, "tasks/": 60}  # of a function, by folder of the package
MOST_PARAMETERS = 10  # without self and cls
MOST_CHARACTERS = 120  # of a line of Markdown
AVOIDED_WORD = "riv" + "al"  # say negatives
LINK = re.compile(r"\s*([-*]\s+)?(\[.*\]\(\S+\)|(\[.*\]:\s*)?<?https?://\S+>?)[.,;:]?\s*")

TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def imports(tree: ast.Module) -> set[str]:
    """Dotted names that a file imports, wherever in it. `from a import b` counts as a and a.b;
    `from . import b` as `.`.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the package with its path, nested ones too."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def room(path: str) -> str:
    """Package or module at the top of morphojax: "data/store/dataset.py" -> "data"."""
    return path.split("/")[0].removesuffix(".py")


def tracked(pattern: str) -> list[Path]:
    """The files under version control that match."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def report(offenders: list[str]) -> None:
    assert not offenders, "\n" + "\n".join(offenders)


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in TREES} == set(FLOORS)


def test_imports_go_down() -> None:
    offenders = []
    for path, tree in TREES.items():
        for name in sorted(imports(tree)):
            first, _, rest = name.partition(".")
            imported = rest.split(".")[0]
            upward = imported != room(path) and FLOORS.get(imported, -1) >= FLOORS[room(path)]
            if not first or first in ABOVE_THE_PACKAGE or (first == "morphojax" and upward):
                offenders.append(f"{path} imports {name}")
    report(offenders)


def test_libraries_stay_behind_their_fences() -> None:
    report(
        [
            f"{path} imports {library}, which belongs to {', '.join(allowed)}"
            for path, tree in TREES.items()
            for library, allowed in FENCES.items()
            if not path.startswith(allowed)
            and any(name == library or name.startswith(library + ".") for name in imports(tree))
        ]
    )


def test_functions_are_short() -> None:
    offenders = []
    for path, node in functions():
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        most = min(limit for folder, limit in MOST_LINES.items() if path.startswith(folder))
        if lines > most:
            offenders.append(f"{path}:{node.lineno} {node.name} has {lines} lines, at most {most}")
    report(offenders)


def test_functions_have_few_parameters() -> None:
    offenders = []
    for path, node in functions():
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        count = sum(argument is not None and argument.arg not in ("self", "cls") for argument in named)
        if count > MOST_PARAMETERS:
            offenders.append(f"{path}:{node.lineno} {node.name} has {count} parameters, at most {MOST_PARAMETERS}")
    report(offenders)


def test_lines_of_markdown_are_short() -> None:
    """Outside tables, code blocks, and lines that are one link."""
    offenders = []
    for path in tracked("*.md"):
        in_code = False
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            fence = line.lstrip().startswith(("```", "~~~"))
            in_code ^= fence
            exempt = fence or in_code or line.lstrip().startswith("|") or LINK.fullmatch(line)
            if len(line) > MOST_CHARACTERS and not exempt:
                offenders.append(f"{path.relative_to(ROOT)}:{number} has {len(line)} characters")
    report(offenders)


def test_no_file_uses_the_avoided_word() -> None:
    offenders = []
    for path in tracked("*"):
        if b"\0" not in (data := path.read_bytes()) and AVOIDED_WORD in data.decode(errors="replace").lower():
            offenders.append(str(path.relative_to(ROOT)))
    report(offenders)

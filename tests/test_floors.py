"""The structure that docs/architecture.md states, read off the imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "morphojax"
FLOORS = {
    "anatomy": 0,
    "data": 1,
    "models": 1,
    "objectives": 1,
    "augment": 1,
    "evaluation": 1,
    "train": 2,
    "tasks": 3,
    "inference": 4,
    "cohort_flags": 2,
    "measuring": 2,
    "jobs": 2,
    "main": 5,
    "prepare": 5,
    "inspect": 5,
    "evaluate": 5,
    "predict": 5,
    "probe": 5,
    "export": 5,
    "exclude": 5,
    "pseudonyms": 5,
}
FENCES = {
    "nibabel": ("data/sources/", "inference/files.py"),
    "pydicom": ("data/sources/",),
    "grain": ("data/input/",),
    "flax.linen": ("models/",),
    "orbax": ("train/checkpoint.py",),
    "pickle": ("train/weights.py",),
    "safetensors": ("train/weights.py",),
    "submitit": ("jobs.py",),
    "matplotlib": ("evaluation/figures.py",),
}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


def room(dotted_or_path: str) -> str:
    return dotted_or_path.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    here = room(str(path.relative_to(PACKAGE)))
    for name in imports(path):
        if name == "analysis" or name.startswith("analysis."):
            pytest.fail(f"{path} imports analysis, which nobody may")
        if not name.startswith("morphojax."):
            continue
        there = name.split(".")[1]
        if there in FLOORS and there != here:
            assert FLOORS[there] < FLOORS[here], f"{path} imports {name}: {here} may only import from below"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_fences(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    for library, allowed in FENCES.items():
        if any(name == library or name.startswith(library + ".") for name in imports(path)):
            assert relative.startswith(allowed), f"{relative} imports {library}, which belongs to {', '.join(allowed)}"


def test_every_room_has_a_floor() -> None:
    rooms = {room(str(p.relative_to(PACKAGE))) for p in FILES}
    assert rooms == set(FLOORS)

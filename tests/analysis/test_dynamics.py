import json
from pathlib import Path

import pytest

from analysis import dynamics

LINES = [
    {"step": 0, "dynamics/distance/encoder/stem": 0.0, "dynamics/distance/head": None, "dynamics/cka/level1": 1.0},
    {"step": 2, "train/grad_norm/encoder": 5.0, "train/grad_norm/encoder/stem": 3.0, "train/grad_norm/head": 1.0},
    {"step": 2, "dynamics/distance/encoder/stem": 0.5, "dynamics/distance/head": 9.0, "dynamics/cka/level1": 0.5},
    {"step": 2, "dynamics/distance/encoder/stem": 0.25},
    {"step": 4, "val/dice": 0.5, "val/dice/lv_cavity": 0.75, "val/loss": 1.0},
]


def write(run: Path, lines: list[dict]) -> Path:
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_curves_of_every_figure(tmp_path: Path) -> None:
    log = dynamics.read([write(tmp_path / "a" / "run", LINES), write(tmp_path / "b" / "run", LINES[:1])])
    assert set(log["run"]) == {"a/run", "b/run"}, "runs of the same name are named with their folders"

    def rows(figure: str, run: str) -> list[tuple]:
        curves = dynamics.curves(log, figure)
        return [tuple(row) for row in curves.loc[curves["run"] == run, ["step", "name", "value"]].dropna().to_numpy()]

    stem, head = "encoder/stem", "head"
    assert rows("distance", "a/run") == [(0, stem, 0.0), (2, head, 9.0), (2, stem, 0.25)], (
        "the last value of a step counts"
    )
    assert rows("distance", "b/run") == [(0, stem, 0.0)]
    assert rows("cka", "a/run") == [(0, "level1", 1.0), (2, "level1", 0.5)]
    assert rows("grad_norm", "a/run") == [(2, stem, 3.0), (2, head, 1.0)], "of a module with depths, the depths alone"
    assert rows("dice", "a/run") == [(4, "mean", 0.5), (4, "lv_cavity", 0.75)]


def test_panels_are_sorted_from_image_to_mask() -> None:
    names = [
        "decoder/level0",
        "decoder/level3",
        "encoder/norm",
        "encoder/block10",
        "encoder/block2",
        "encoder/stem",
        "head",
    ]
    expected = ["encoder/stem", "encoder/block2", "encoder/block10", "encoder/norm", "decoder/level3", "decoder/level0"]
    assert sorted(names, key=dynamics._image_to_mask) == [*expected, "head"]
    assert sorted(["pooled", "level2", "level1"], key=dynamics._image_to_mask) == ["level1", "level2", "pooled"]


def test_the_command_draws_the_figures_that_were_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    runs = [write(tmp_path / name, LINES[:4]) for name in ("one", "two")]
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["dynamics", f"--runs={runs[0]},{runs[1]}", f"--output={out}"])
    dynamics.main()
    assert sorted(p.name for p in out.iterdir()) == ["cka.png", "distance.png", "grad_norm.png"]
    assert "dice.png: not drawn" in capsys.readouterr().out


def test_folders_that_are_no_runs_and_repeated_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"metrics\.jsonl: cannot be read"):
        dynamics.read([tmp_path])
    run = write(tmp_path / "run", LINES)
    with pytest.raises(SystemExit, match="names a run twice"):
        dynamics.read([run, run])

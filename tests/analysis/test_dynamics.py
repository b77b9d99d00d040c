import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax.numpy as jnp
import pandas as pd
import pytest

from analysis.dynamics import __main__ as command
from analysis.dynamics import curves, figures, images, logs, members, tables
from analysis.dynamics.logs import DynamicsError, Run
from configs import pretrain_arm, pretrain_sax, probe, segment_sax
from morphojax.data.tables.schema import Column, Schema
from morphojax.tasks.pretrain import objectives as registry
from tests.analysis.study import made

SEGMENT = {"task": "segment", "batch_size": 12}
LINES = [
    {"step": 0, "dynamics/distance/encoder/stem": 0.0, "dynamics/distance/head": None, "dynamics/cka/level1": 1.0},
    {"step": 2, "train/grad_norm/encoder": 5.0, "train/grad_norm/encoder/stem": 3.0, "train/grad_norm/head": 1.0},
    {"step": 2, "dynamics/distance/encoder/stem": 0.5, "dynamics/distance/head": 9.0, "dynamics/cka/level1": 0.5},
    {"step": 2, "dynamics/distance/encoder/stem": 0.25, "dynamics/cka/pooled": 0.75},
    {"step": 4, "val/dice": 0.5, "val/dice/lv_cavity": 0.75, "val/loss": 1.0},
]
ALL = curves.patterns(curves.FIGURES)


def write(run: Path, lines: list[dict], config: dict | None = None) -> Path:
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config or SEGMENT))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def pretraining(*objectives: str) -> dict:
    config = pretrain_sax.get_config().to_dict() | {"batch_size": 2, "objectives": {name: {} for name in objectives}}
    return json.loads(json.dumps(config))  # as a run writes it


def log_of(*runs: Path) -> pd.DataFrame:
    return logs.read(logs.of_folders(runs), ALL)


def call(capsys: pytest.CaptureFixture, *flags: object) -> tuple[int, str]:
    code = command.main([str(flag) for flag in flags])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


# How many images a step has.


def test_images_of_a_step_by_hand() -> None:
    """Segmentation: 12 labelled slices. Pretraining: 32 subjects x 4 slices x views."""
    segment = segment_sax.get_config("calibrated").to_dict()
    assert segment["unlabelled"]["batch_size"] == 2
    assert images.images_per_step(segment_sax.get_config().to_dict()) == 12
    assert images.images_per_step(segment) == 8, "unlabelled stacks beside the labelled slices do not count"
    table, views = pretrain_sax.get_config(), pretrain_arm.get_config("simclr")
    assert images.images_per_step(table.to_dict()) == 32 * 4
    assert images.images_per_step(views.to_dict()) == 32 * 4 * 2
    table.data.plane = "sax,la_4ch"  # four slices and one
    assert images.images_per_step(table.to_dict()) == 32 * 5
    table.input.channels = "cycle"  # one image for each plane
    assert images.images_per_step(table.to_dict()) == 32 * 2
    assert images.images_per_step(probe.get_config().to_dict()) == 16 * 6


def test_objectives_of_two_views_are_those_of_the_registry() -> None:
    context = registry.Context(
        schema=Schema((Column("a", "continuous", "cardiac_morphometric"),)),
        cardinalities=(1,),
        classes=("ill", "well"),
        table_tokens=True,
        patch=8,
        channels=1,
        image_planes=("sax", "la_4ch"),
        dtype=jnp.float32,
    )
    assert {name for name, make in registry.OBJECTIVES.items() if make(context).views == 2} == images.TWO_VIEWS


# Logs and curves.


def test_curves_of_every_figure(tmp_path: Path) -> None:
    log = log_of(write(tmp_path / "a" / "run", LINES), write(tmp_path / "b" / "run", LINES[:1]))
    assert set(log["run"]) == {"a/run", "b/run"}, "runs of the same name are named with their folders"
    assert (log["images"] == 12 * log["step"]).all()

    def rows(figure: str, run: str) -> list[tuple]:
        found = curves.select(log, figure)[0]
        return [tuple(row) for row in found.loc[found["run"] == run, ["step", "name", "value"]].dropna().to_numpy()]

    stem, head = "encoder/stem", "head"
    assert rows("distance", "a/run") == [(0, stem, 0.0), (2, head, 9.0), (2, stem, 0.25)], (
        "the last value of a step counts"
    )
    assert rows("distance", "b/run") == [(0, stem, 0.0)]
    assert rows("cka", "a/run") == [(0, "level1", 1.0), (2, "level1", 0.5), (2, "pooled", 0.75)]
    assert rows("grad_norm", "a/run") == [(2, stem, 3.0), (2, head, 1.0)], "of a module with depths, the depths alone"
    assert rows("dice", "a/run") == [(4, "mean", 0.5), (4, "lv_cavity", 0.75)]


def test_a_line_is_the_mean_over_points_that_all_its_runs_have(tmp_path: Path) -> None:
    """The second run ended after 4 steps; where the first alone has a value there is no point."""
    dices = ({2: 0.2, 4: 0.4, 6: 0.9}, {2: 0.4, 4: 0.8})
    runs = []
    for number, of_run in enumerate(dices):
        folder = write(tmp_path / str(number), [{"step": s, "val/dice": d} for s, d in of_run.items()])
        runs.append(Run(folder, str(number), "arm"))
    rows, _ = curves.select(logs.read(runs, ALL), "dice")
    points = curves.over_runs(rows, "images")[["x", "mean", "low", "high", "runs"]].to_numpy().tolist()
    assert points == [pytest.approx([24, 0.3, 0.2, 0.4, 2]), pytest.approx([48, 0.6, 0.4, 0.8, 2])]
    assert curves.over_runs(rows, "steps")["x"].tolist() == [2, 4]


def test_validation_is_drawn_where_a_run_has_it_and_else_training(tmp_path: Path) -> None:
    train = {"step": 1, "train/info_nce/effective_rank_image": 3.0}
    first = write(tmp_path / "first", [train], pretraining("info_nce"))
    second = write(
        tmp_path / "second", [train, {"step": 2, "val/info_nce/effective_rank_image": 5.0}], pretraining("info_nce")
    )
    rows, label = curves.select(log_of(first), "effective_rank")
    assert rows["value"].tolist() == [3.0] and "training batches" in label
    rows, label = curves.select(log_of(first, second), "effective_rank")
    assert rows["value"].tolist() == [5.0] and "validation" in label, "the two are never in one figure"
    assert rows["name"].tolist() == ["info_nce, image"] and rows["images"].tolist() == [2 * 2 * 4]


def test_alignment_against_uniformity_is_a_mean_over_runs(tmp_path: Path) -> None:
    """Steps that one run lacks and the rows of SCARF are left out."""
    runs = []
    for number, by_step in enumerate(({1: (2.0, -1.0), 2: (1.0, -2.0)}, {1: (1.0, -2.0)})):
        lines = [
            {
                "step": s,
                "val/simclr/alignment": a,
                "val/simclr/uniformity_first": u,
                "val/simclr/uniformity_second": 9.0,
            }
            | {"val/scarf/alignment": 5.0, "val/scarf/uniformity_first": 5.0, "train/simclr/alignment": 7.0}
            for s, (a, u) in by_step.items()
        ]
        runs.append(Run(write(tmp_path / str(number), lines, pretraining("simclr", "scarf")), str(number), "arm"))
    points, source = curves.sphere(logs.read(runs, ALL))
    assert points.to_dict("records") == [
        {"panel": "", "line": "arm", "name": "simclr", "step": 1, "alignment": 1.5, "uniformity": -1.5}
    ]
    assert source == "validation"
    assert curves.sphere(logs.read(runs[:1], ALL))[0]["step"].tolist() == [1, 2]
    assert curves.sphere(log_of(write(tmp_path / "none", LINES)))[0].empty


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
    assert sorted(names, key=curves.image_to_mask) == [*expected, "head"]
    assert sorted(["pooled", "level2", "level1"], key=curves.image_to_mask) == ["level1", "level2", "pooled"]
    assert sorted(["lv_cavity", "mean"], key=curves.image_to_mask) == ["mean", "lv_cavity"]


def test_lines_differ_without_colour() -> None:
    styles = [figures.line_style(number) for number in range(48)]
    assert len({(style["marker"], style["linestyle"]) for style in styles}) == 48


# Tables.


def test_images_to_a_dice_by_hand(tmp_path: Path) -> None:
    """12 images a step. The EMA weights count where they are kept; what falls again has reached."""
    ema = [{"step": s, "val/dice": 0.9, "val_ema/dice": d} for s, d in ((10, 0.5), (20, 0.7), (30, 0.6), (40, 0.75))]
    plain = [{"step": 10, "val/dice": 0.69}, {"step": 20, "val/dice": None}]
    log = log_of(write(tmp_path / "ema", ema), write(tmp_path / "plain", plain), write(tmp_path / "none", LINES[:2]))
    table = tables.images_to_dice(log, (0.5, 0.7, 0.8)).drop(columns=["line", "panel"])
    none = {"step": -1, "images": -1}  # not reached
    first, second = {"best_dice": 0.75, "images_in_all": 480}, {"best_dice": 0.69, "images_in_all": 240}
    assert table.fillna(-1).to_dict("records") == [
        {"run": "ema", "dice": 0.5, "step": 10, "images": 120, **first},
        {"run": "ema", "dice": 0.7, "step": 20, "images": 240, **first},
        {"run": "ema", "dice": 0.8, **none, **first},
        {"run": "plain", "dice": 0.5, "step": 10, "images": 120, **second},
        {"run": "plain", "dice": 0.7, **none, **second},
        {"run": "plain", "dice": 0.8, **none, **second},
    ]


def test_the_last_cka_of_every_level(tmp_path: Path) -> None:
    early = [{"step": 0, "dynamics/cka/level1": 1.0, "dynamics/cka/level10": 1.0, "dynamics/cka/level2": 1.0}]
    late = [{"step": 5, "dynamics/cka/level1": 0.75, "dynamics/cka/level10": 0.5, "dynamics/cka/level2": 0.25}]
    table = tables.last_cka(log_of(write(tmp_path / "a", early + late), write(tmp_path / "b", early)))
    assert table.columns.tolist()[3:] == ["step", "images", "level1", "level2", "level10"]
    assert table.drop(columns=["line", "panel"]).to_numpy().tolist() == [
        ["a", 5, 60, 0.75, 0.25, 0.5],
        ["b", 0, 0, 1.0, 1.0, 1.0],
    ]


@pytest.mark.parametrize("text", ["0.5,1.2", "0", "-0.1", "nan", "half", "0.5,"])
def test_a_dice_outside_0_to_1_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = write(tmp_path / "run", LINES)
    code, printed = call(capsys, f"--runs={run}", f"--output={tmp_path}", f"--dice={text}")
    assert code == 2 and f"--dice={text}: give values of Dice above 0 and up to 1" in printed


# The command.


def test_the_command_writes_what_was_logged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs, out = [write(tmp_path / name, LINES) for name in ("one", "two")], tmp_path / "out"
    code, printed = call(capsys, f"--runs={runs[0]},{runs[1]}", f"--output={out}", "--dice=0.5,0.7")
    assert code == 0 and "not reached" in printed
    written = {"cka.csv", "cka.svg", "dice.svg", "distance.svg", "grad_norm.svg", "images_to_dice.csv"}
    assert {path.name for path in out.iterdir()} == written
    for path in out.glob("*.svg"):
        text = ElementTree.tostring(ElementTree.fromstring(path.read_text()), encoding="unicode", method="text")
        assert "labelled images seen" in text and "one" in text and "two" in text
    table = pd.read_csv(out / "images_to_dice.csv")
    assert table["images"].tolist() == ["48", "not reached"] * 2
    call(capsys, f"--runs={runs[0]}", f"--output={out}", "--x=steps")
    assert ">steps<" in (out / "dice.svg").read_text()
    for path in runs:
        (path / "metrics.jsonl").write_text(json.dumps(LINES[4]) + "\n")
    code, printed = call(capsys, f"--runs={runs[0]},{runs[1]}", f"--output={tmp_path / 'dice'}")
    assert "cka.svg: not written, because no run has logged: linear CKA with the start" in printed
    assert {path.name for path in (tmp_path / "dice").iterdir()} == {"dice.svg", "images_to_dice.csv"}


def test_a_pretraining_is_drawn_over_its_images_and_views(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = [
        {
            "step": s,
            "val/simclr/alignment": 1.0 / s,
            "val/simclr/uniformity_first": -s,
            "val/simclr/effective_rank_first": s,
        }
        | {"dynamics/rank_image_features": s}
        for s in (1, 2, 3)
    ]
    run, out = write(tmp_path / "run", lines, pretraining("simclr")), tmp_path / "out"
    assert call(capsys, f"--runs={run}", f"--output={out}")[0] == 0
    assert {p.name for p in out.iterdir()} == {"alignment_uniformity.svg", "effective_rank.svg", "feature_rank.svg"}
    assert "images x views" in (out / "effective_rank.svg").read_text()
    code, printed = call(capsys, f"--runs={run}", f"--output={out}", "--dice=0.5")
    assert code == 2 and "--dice: the runs are no segmentations" in printed


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def refusal(*flags: object) -> str:
        code, printed = call(capsys, *flags, f"--output={tmp_path / 'out'}")
        assert code == 2 and printed.count("\n") == 1
        return printed

    run, other = write(tmp_path / "run", LINES), write(tmp_path / "other", LINES, pretraining("info_nce"))
    assert "config.json: cannot be read" in refusal(f"--runs={tmp_path}")
    assert "is given twice; name each run once" in refusal(f"--runs={run},{run}")
    mixed = refusal(f"--runs={run},{other}")
    assert "run is of task segment, other is of task pretrain" in mixed and "draw each task by itself" in mixed
    unknown = write(tmp_path / "unknown", LINES, {"task": "translate"})
    assert "unknown/config.json: is no config of a pretraining or segmentation (is of the unknown task" in refusal(
        f"--runs={unknown}"
    )
    lacking = write(tmp_path / "lacking", LINES, {"task": "pretrain", "batch_size": 2})
    assert "lacking/config.json: is no config" in refusal(f"--runs={lacking}")
    assert "have logged nothing" in refusal(f"--runs={write(tmp_path / 'empty', [])}")
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl: cannot be read" in refusal(f"--runs={run}")
    assert "holds no cells/*/study.json; give the folder of a study" in refusal(f"--study={tmp_path}")


def test_a_line_that_a_kill_cut_short_is_left_out_and_a_damaged_one_refused(tmp_path: Path) -> None:
    run = write(tmp_path / "run", LINES)
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole + '{"step": 6, "val/di')
    assert log_of(run)["step"].max() == 4
    (run / "metrics.jsonl").write_text('{"step": 6, "val/di\n' + whole)
    with pytest.raises(DynamicsError, match=r"metrics\.jsonl: line 1 is damaged"):
        log_of(run)


# Runs of a study.


def test_runs_of_a_study_are_found_by_arm(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Three arms; sets 1a and 1b of one label, 2a of two; two seeds. One cell and its pretraining
    are not done.
    """
    _, planned = made.study(tmp_path / "study")
    for job in planned:
        if job.name != "pretrained_2a_1":
            made.finish(job)
            made.log(job)
    unfinished = next(job for job in planned if job.name == "pretrained_2a_1")
    made.begin(unfinished)
    runs, left = members.of_folder(tmp_path / "study")
    assert left == 1 and len(runs) == 17 + 4
    cells = {run.name: (run.line, run.panel) for run in runs if run.folder.parent.name == "cells"}
    assert cells["cells/scratch_1b_0"] == ("scratch", "1 labelled") and "cells/pretrained_2a_1" not in cells
    pretrained = {run.folder: (run.line, run.panel) for run in runs if run.folder.parent.name == "pretraining"}
    assert pretrained == {job.run: (job.name.split()[-1].split("_")[0], "") for job in planned if job.cell is None}
    out = tmp_path / "out"
    code, printed = call(capsys, f"--study={tmp_path / 'study'}", f"--output={out}", "--dice=0.7")
    assert code == 0 and "1 runs are not finished, and left out" in printed
    assert {path.parent.name for path in out.glob("*/*.svg")} == {"pretrain", "segment"}
    table = pd.read_csv(out / "segment" / "images_to_dice.csv")
    assert len(table) == 17 and set(table["panel"]) == {"1 labelled", "2 labelled"}
    (unfinished.run / "study.json").write_text("{")
    code, printed = call(capsys, f"--study={tmp_path / 'study'}", f"--output={out}")
    assert code == 2 and "pretrained_2a_1/study.json" in printed


def test_a_pretraining_of_several_arms_has_their_names(tmp_path: Path) -> None:
    values = {"arm": "frozen", "labelled": "all", "seed": "0", "encoder": "unet"}
    cells = [
        members.Member(tmp_path / arm, values | {"arm": arm}, None, tmp_path / "pretraining", done=arm == "frozen")
        for arm in ("frozen", "whole")
    ]
    assert members.runs_of(cells, [tmp_path / "pretraining", tmp_path / "unused"]) == [
        Run(tmp_path / "frozen", "cells/frozen", "frozen", "unet, all"),
        Run(tmp_path / "pretraining", "pretraining/pretraining", "frozen, whole", "unet"),
        Run(tmp_path / "unused", "pretraining/unused", "unused", ""),
    ]

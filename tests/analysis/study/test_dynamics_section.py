import functools
import json
from pathlib import Path

import pytest

from analysis.study import report
from analysis.study.dynamics_section import training_dynamics
from morphojax.evaluation import contrasts
from morphojax.reports.document import Section, to_markdown
from tests.analysis.study import made


def finished(folder: Path, logged: bool = True, **changes):
    study, planned = made.study(folder, **changes)
    for job in planned:
        made.finish(job)
        if logged:
            made.log(job)
    return study, planned


def section(study, planned) -> Section:
    return training_dynamics(study, planned, made.states(planned))


def text_of(made_section: Section, folder: Path) -> str:
    return to_markdown("", [made_section], folder / "figures")


def test_the_section_holds_what_was_logged_by_hand(tmp_path: Path) -> None:
    """Dice 0.3, 0.5, 0.7, 0.9 of the EMA weights at steps 10 to 40 of 12 images; CKA 1/4 at the
    end.
    """
    found = section(*finished(tmp_path))
    tables = [block for block in found.blocks if block.kind == "table"]
    assert [row[:2] for row in tables[0].rows] == [
        [arm, f"{n} labelled"] for n in (1, 2) for arm in ("pretrained", "scratch", "shuffled")
    ]
    assert tables[0].rows[0][2:] == ["240 (4 of 4)", "360 (4 of 4)", "480 (4 of 4)"]
    assert tables[1].rows[-1] == ["shuffled", "2 labelled", "2", *["0.25 [0.25, 0.25]"] * 2]
    figures = [block for block in found.blocks if block.kind == "figure"]
    assert [figure.text.split(" ")[0] for figure in figures] == ["Dice", "Alignment", "Effective"]
    assert "scratch" in figures[0].svg and "scratch" not in figures[1].svg and "shuffled" in figures[1].svg
    assert "no finished run has logged it: effective rank of the features." in text_of(found, tmp_path)


def test_runs_differ_and_some_do_not_reach_a_dice(tmp_path: Path) -> None:
    study, planned = finished(tmp_path)
    job = next(job for job in planned if job.name == "scratch_1a_0")
    (job.run / "metrics.jsonl").write_text(json.dumps({"step": 10, "val/dice": 0.5}) + "\n")
    found = section(study, planned)
    row = next(block for block in found.blocks if block.kind == "table").rows[1]
    assert row == ["scratch", "1 labelled", "120 to 240 (4 of 4)", "360 (3 of 4)", "480 (3 of 4)"]


def test_runs_without_a_log_are_named_and_nothing_logged_is_said(tmp_path: Path) -> None:
    study, planned = finished(tmp_path)
    jobs = {job.name: job for job in planned}
    (jobs["scratch_1a_0"].run / "metrics.jsonl").unlink()
    (jobs["scratch_1b_0"].run / "metrics.jsonl").write_text("{\n{}\n")
    text = text_of(section(study, planned), tmp_path)
    assert "Without a readable log: cells/scratch_1a_0, cells/scratch_1b_0." in text
    found = section(*finished(tmp_path / "none", logged=False))
    assert [block.kind for block in found.blocks] == ["list"]
    assert "has logged it: Dice of the validation subjects, images to a Dice" in text_of(found, tmp_path)


def test_cells_that_are_not_done_are_left_out(tmp_path: Path) -> None:
    study, planned = made.study(tmp_path)
    for job in planned:
        if job.name != "pretrained_1a_0":
            made.finish(job)
            made.log(job)
    made.begin(next(job for job in planned if job.name == "pretrained_1a_0"))
    found = section(study, planned)
    assert next(block for block in found.blocks if block.kind == "table").rows[0][2] == "240 (3 of 3)"


def test_other_axes_are_parts_in_the_order_of_the_study(tmp_path: Path) -> None:
    axes = made.config(tmp_path).to_dict()["axes"]
    axes |= {
        "encoder": {
            name: {stage: {"model": {"width": width}} for stage in ("pretrain", "segment")}
            for name, width in (("wide", 32), ("small", 8))
        }
    }
    study, planned = finished(tmp_path, axes=axes)
    parts = [row[1] for row in next(block for block in section(study, planned).blocks if block.kind == "table").rows]
    expected = [f"{encoder}, {n} labelled" for encoder in study.axes["encoder"] for n in (1, 2)]
    assert list(dict.fromkeys(parts)) == expected


def test_the_report_has_the_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrasts, "contrast", functools.partial(contrasts.contrast, resamples=50))
    study, planned = finished(tmp_path, cells=({"labelled": ("2a",), "seed": ("0",)},))
    written = report.write(study, planned, made.states(planned))
    assert "<h2>Training dynamics</h2>" in written[0].read_text()

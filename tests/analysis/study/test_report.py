import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.study import __main__ as program
from analysis.study import command, cost, figures, report, scores, sections, state, tables
from analysis.study.errors import StudyError
from morphojax.reports import figures as shared_figures
from tests.analysis.study import made

CELLS = ({"labelled": ("2a",)},)  # enough for the commands
CONFIG = f"from tests.analysis.study import made\ndef get_config():\n    return made.config('', cells={CELLS})\n"


def finished(folder, without=(), value=made.dice, **changes):
    study, planned = made.study(folder, **changes)
    for job in planned:
        if job.name not in without:
            made.finish(job, value)
    return study, planned


def found(study, planned):
    return report.find(study, planned, made.states(planned))


pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are empty: drawing them takes half of a small report's time."""
    for module in (figures, shared_figures):
        monkeypatch.setattr(module, "to_svg", lambda figure: "<svg></svg>")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study and its findings."""
    study, planned = finished(tmp_path_factory.mktemp("study"))
    return study, planned, found(study, planned)


def parts_of(study, planned):
    """The sections of the study's only part."""
    states = made.states(planned)
    ((part, compared),) = report.find(study, planned, states).parts
    return sections.of_part(study, part, compared, planned, states)


def contrast(findings, a="pretrained", b="scratch", labels=tables.ALL, metric="dice"):
    table = findings.parts[0][1][metric]
    return table[(table["a"] == a) & (table["b"] == b) & (table["labels"] == labels)].iloc[0]


def by_hand(arm, set_, seed, subject):
    """Mean of a run and subject: phases first, then structures."""
    values = {"arm": arm, "labelled": set_, "seed": str(seed)}
    return np.mean([[made.dice(values, subject, s, phase) for phase in ("ED", "ES")] for s in made.STRUCTURES])


def test_the_long_table_has_a_row_per_value_and_no_pseudonym(whole):
    long = whole[2].scores
    by_metric = long["metric"].value_counts()
    assert (by_metric[[*scores.METRICS, *scores.POSITIONS]] == 18 * 6 * 3 * 2).all()
    assert long["subject"].isin(range(6)).all() and "pseudonym" not in long.to_csv()
    row = long.query("arm == 'scratch' and labelled == '2a' and seed == '1' and subject == 3 and phase == 'ES'")
    row = row[row["structure"] == "rv_cavity"].set_index("metric")["value"]
    expected = made.dice({"arm": "scratch", "labelled": "2a", "seed": "1"}, 3, "rv_cavity", "ES")
    assert row["dice"] == pytest.approx(expected) and row["volume_error_ml"] == 3.0
    assert row["surface_dice"] == pytest.approx(0.87)


@pytest.mark.usefixtures("undrawn")
def test_a_run_scored_before_there_was_a_surface_dice_leaves_it_out(tmp_path):
    study, planned = finished(tmp_path, cells=({"labelled": ("1a",)},))
    old = next(job for job in planned if job.name == "scratch_1a_0")
    path = old.run / "evaluation" / "scores_test.csv"
    pd.read_csv(path).drop(columns="surface_dice").to_csv(path, index=False)
    state.write(old, {"train": 60.0, "evaluate": 5.0}, done=True)
    findings = found(study, planned)
    assert set(scores.METRICS) - set(findings.scores["metric"]) == {"surface_dice"}
    assert tables.means(study, findings.parts[0][0])["surface_dice"].isna().all()
    report.write(study, planned, made.states(planned))


@pytest.mark.parametrize("bad", [1.01, -0.1])
def test_an_impossible_surface_dice_is_refused(tmp_path, bad):
    study, planned = finished(tmp_path)
    path = planned[-1].run / "evaluation" / "scores_test.csv"
    pd.read_csv(path).assign(surface_dice=bad).to_csv(path, index=False)
    state.write(planned[-1], {"train": 60.0, "evaluate": 5.0}, done=True)
    with pytest.raises(StudyError, match="holds a Dice outside 0 to 1"):
        found(study, planned)


def test_contrasts_are_paired_means_by_hand(whole):
    sets = {tables.ALL: ("1a", "1b", "2a"), 1: ("1a", "1b"), 2: ("2a",)}
    for labels, names in sets.items():
        expected = [
            by_hand("pretrained", *k) - by_hand("scratch", *k)
            for k in ((s, r, n) for s in names for r in (0, 1) for n in range(6))
        ]
        row = contrast(whole[2], labels=labels)
        assert row["mean"] == pytest.approx(np.mean(expected))
        assert (row["n_runs"], row["n_sets"], row["seeds"], row["n_subjects"]) == (2 * len(names), len(names), 2, 6)
        assert row["low"] < row["mean"] < row["high"] and row["unpaired"] == 0
    none = contrast(whole[2], a="shuffled")
    assert none["low"] < 0 < none["high"] and not none["planned"] and np.isnan(none["p_holm"])


def test_holm_is_over_the_planned_contrasts_of_all_sets(whole):
    table = whole[2].parts[0][1]["dice"]
    family = table[table["planned"] & (table["labels"] == tables.ALL)]
    assert family["p_value"].tolist() == [0.03125, 0.03125]  # six subjects, all of one sign: 2 / 2**6
    assert family["p_holm"].tolist() == [0.0625, 0.0625]
    assert table.loc[~table.index.isin(family.index), "p_holm"].isna().all()


def test_a_pair_on_one_number_of_labels_is_in_the_family(tmp_path):
    cells = ({"arm": ("scratch", "pretrained")}, {"arm": ("shuffled",), "labelled": ("2a",)})
    study, planned = finished(tmp_path, cells=cells)
    table = found(study, planned).parts[0][1]["dice"]
    family = table[table["p_holm"].notna()].set_index(["a", "b"])
    assert family["labels"].to_dict() == {("pretrained", "scratch"): tables.ALL, ("pretrained", "shuffled"): tables.ALL}


def test_all_sets_are_those_that_every_arm_has(tmp_path):
    cells = ({"arm": ("scratch", "pretrained")}, {"arm": ("shuffled",), "labelled": ("1a", "1b")})
    study, planned = finished(tmp_path, cells=cells)
    means = tables.means(study, found(study, planned).parts[0][0]).set_index(["arm", "labels"])
    assert means.loc[("scratch", tables.ALL), "sets"] == 2 and means.loc[("scratch", 2), "sets"] == 1
    assert means.loc[("scratch", tables.ALL), "dice"] == pytest.approx(means.loc[("scratch", 1), "dice"])


def test_contrasts_by_structure_and_phase_are_by_hand(whole):
    part = whole[2].parts[0][0]
    table = tables.by_structure(part, [("pretrained", "scratch")]).set_index(["structure", "phase"])
    assert len(table) == 6

    def value(arm, set_, seed, subject):
        return made.dice({"arm": arm, "labelled": set_, "seed": str(seed)}, subject, "rv_cavity", "ES")

    keys = [(s, r, n) for s in ("1a", "1b", "2a") for r in (0, 1) for n in range(6)]
    expected = np.mean([value("pretrained", *k) - value("scratch", *k) for k in keys])
    assert table.loc[("rv_cavity", "ES"), "mean"] == pytest.approx(expected)


def test_means_have_the_baseline_first_and_then_rise(whole):
    means = tables.means(whole[0], whole[2].parts[0][0])
    assert means["arm"].unique().tolist() == ["scratch", "shuffled", "pretrained"]
    row = means[(means["arm"] == "scratch") & (means["labels"] == 2)].iloc[0]
    assert row["dice"] == pytest.approx(np.mean([by_hand("scratch", "2a", s, n) for s in (0, 1) for n in range(6)]))
    assert (row["runs"], row["sets"], row["seeds"], row["subjects"]) == (2, 1, 2, 6)


@pytest.mark.usefixtures("undrawn")
def test_a_missing_cell_is_reported_and_not_imputed(tmp_path):
    study, planned = finished(tmp_path, without=("pretrained_1a_0",), cells=({"labelled": ("1a",)},))
    row = contrast(found(study, planned), labels=1)
    assert row["n_runs"] == 1 and row["unpaired"] == 1
    written = report.write(study, planned, made.states(planned))
    markdown = next(path for path in written if path.suffix == ".md").read_text()
    assert "5 of 6 cells are done" in markdown and "- pretrained_1a_0: missing." in markdown


@pytest.mark.usefixtures("undrawn")
def test_an_arm_without_a_pair_of_runs_is_named_and_has_no_empty_rows(tmp_path):
    cells = ({"arm": ("scratch", "shuffled"), "labelled": ("2a",)}, {"arm": ("pretrained",), "seed": ("0",)})
    study, planned = finished(tmp_path, without=[f"shuffled_2a_{seed}" for seed in (0, 1)], cells=cells)
    found = {s.heading: s.blocks for s in parts_of(study, planned)}
    assert found["Every arm against scratch"][0].text.endswith("No pair of runs is done of shuffled.")
    assert all(block.rows == [] for block in found["Every arm against scratch"][1:])
    (planned_dice, *_) = (block for block in found["Planned contrasts"] if block.kind == "table")
    assert {row[0] for row in planned_dice.rows} == {"pretrained - scratch"}
    assert "pretrained - shuffled: no pair of runs is done." in found["Planned contrasts"][0].lines


def test_arms_without_a_cell_are_not_compared(tmp_path):
    study, planned = finished(tmp_path, cells=({"arm": ("scratch", "pretrained"), "labelled": ("2a",)},))
    table = found(study, planned).parts[0][1]["dice"]
    assert set(table.loc[~table["planned"], "a"]) == set()


@pytest.mark.usefixtures("undrawn")
def test_one_seed_gets_no_interval_over_seeds(tmp_path):
    study, planned = finished(tmp_path, cells=({"seed": ("0",), "labelled": ("1a",)},))
    row = contrast(found(study, planned), labels=1)
    assert row["seeds"] == 1
    markdown = next(p for p in report.write(study, planned, made.states(planned)) if p.suffix == ".md").read_text()
    assert "pretrained - scratch: one seed alone; the interval covers no variation of seeds." in markdown
    assert "Kendall" not in markdown


def test_no_difference_is_said_with_what_could_have_been_found(tmp_path):
    same = made.config("folder").to_dict()["contrasts"] + (("shuffled", "scratch"),)
    study, planned = finished(tmp_path, contrasts=same)
    findings = found(study, planned)
    row = contrast(findings, a="shuffled")
    lines = list(sections.sentences(findings.parts[0][1]["dice"]))
    line = next(line for line in lines if line.startswith("shuffled - scratch"))
    could = (1.96 + 0.84) * (row["high"] - row["low"]) / (2 * 1.96)  # 80 % power at the interval's standard error
    assert "no difference was found" in line
    assert f"a difference of {could:.3f} would have been found" in line
    assert any(line.startswith("pretrained - scratch: higher") for line in lines)


def test_constant_scores_give_a_report(tmp_path):
    study, planned = finished(tmp_path, value=lambda *_: 0.5, cells=({"labelled": ("1a",)},))
    report.write(study, planned, made.states(planned))
    table = pd.read_csv(tmp_path / "report" / "contrasts.csv")
    assert table.loc[table["metric"] == "dice", "mean"].eq(0).all()


def test_structures_without_a_score_are_left_out(tmp_path):
    def value(values, subject, structure, phase):
        return np.nan if structure == "rv_cavity" and subject == 0 else made.dice(values, subject, structure, phase)

    study, planned = finished(tmp_path, value=value)
    matrix = scores.matrix(found(study, planned).scores.query("arm == 'scratch'"), "dice")
    values = {"arm": "scratch", "labelled": "1a", "seed": "0"}
    expected = np.mean([made.dice(values, 0, s, phase) for s in made.STRUCTURES[:2] for phase in ("ED", "ES")])
    assert matrix.loc[("1a", "0"), 0] == pytest.approx(expected)


@pytest.mark.parametrize("bad", [1.2, -0.1])
def test_impossible_scores_are_refused(tmp_path, bad):
    study, planned = finished(tmp_path, value=lambda *_: bad)
    with pytest.raises(StudyError, match=r"scores_test.csv: holds a Dice outside 0 to 1"):
        found(study, planned)


def test_arms_scored_on_different_datasets_are_not_compared(tmp_path):
    study, planned = finished(tmp_path)
    made.finish(next(job for job in planned if job.name == "scratch_1a_0"), dataset="d2")
    with pytest.raises(StudyError, match=r"were scored on different datasets \(.*d2"):
        found(study, planned)


def test_other_axes_are_reported_apart(tmp_path):
    encoders = {name: {"segment": {"model": {"width": width}}} for name, width in (("small", 8), ("large", 16))}
    axes = made.config("folder").to_dict()["axes"] | {"encoder": encoders}
    study, planned = finished(tmp_path, axes=axes)
    parts = [part for part, _ in found(study, planned).parts]
    assert [part.name for part in parts] == ["large", "small"]
    assert all((part.scores["encoder"] == part.name).all() for part in parts)


def test_no_done_cell_is_an_error(tmp_path):
    study, planned = made.study(tmp_path)
    with pytest.raises(StudyError, match="no cell is done; run the study first"):
        found(study, planned)


class Page(HTMLParser):
    VOID = ("meta", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        links = [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.links += [link for link in links if not link.startswith(("#", "data:image/png;base64,"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_whole_file(tmp_path):
    cells = ({"arm": ("scratch", "pretrained"), "labelled": ("1a", "2a")},)
    study, planned = finished(tmp_path, question="Is a < b & c?", cells=cells)
    first = report.write(study, planned, made.states(planned))
    contents = [path.read_bytes() for path in first]
    assert [
        p.read_bytes() for p in report.write(study, planned, made.states(planned))
    ] == contents  # no date, no random id
    page = Page()
    html = first[0].read_text()
    page.feed(html)
    assert page.open == [] and page.links == []
    assert "<title>Is a &lt; b &amp; c?</title>" in html and html.count("<svg") == 7
    assert "src=" not in html and "@import" not in html
    for figure in sorted((first[0].parent / "figures").iterdir()):
        ElementTree.fromstring(figure.read_text())
    table = pd.read_csv(first[3])
    assert set(table["metric"]) == {"dice", "volume_error_ml", "lv_ef_error_percent_points"}


def test_commands_of_the_report_are_the_runs(whole):
    study, planned, _ = whole
    markdown = sections.commands(study, planned).blocks[0].text
    lines = re.findall(r"^python -m (\S+) (.*)$", markdown, flags=re.MULTILINE)
    assert len(lines) == 2 + 3 * 2  # pretrainings of two arms; training and scoring of three
    job = next(job for job in planned if job.name == "scratch_1a_0")
    assert ("morphojax.evaluate", f"--run={job.run} --checkpoint=last --split=test --weights=ema") in lines


def test_the_cost_of_what_is_left_comes_from_what_is_done(tmp_path):
    _, planned = made.study(tmp_path)
    for job in planned[:2]:  # a pretraining and a cell of its
        made.finish(job, seconds=40.0)
    states = made.states(planned)
    known = cost.from_states(planned, states)
    left = sum(job.cell is not None for job in planned) - 1
    assert known == {planned[0].cost_key: 40.0, planned[1].cost_key: 45.0}
    assert {job.cost_key for job in planned} == set(known)  # control, labelled set and seed change no cost
    assert cost.left(planned, states, known) == left * 45.0 + 3 * 40.0
    assert cost.left(planned, states, {}) is None


def test_pilots_measure_every_kind_once(tmp_path, monkeypatch):
    _, planned = made.study(tmp_path)
    tried = []
    monkeypatch.setattr(cost, "pilot", lambda job: tried.append(job.name) or 10.0)
    known = cost.pilots(tmp_path, planned, {}, 1, lambda _: None)
    assert len(tried) == 2 and set(known.values()) == {10.0}
    assert cost.pilots(tmp_path, planned, {}, 1, lambda _: None) == known and len(tried) == 2
    cost.pilots(tmp_path, planned, {}, 2, lambda _: None)
    assert len(tried) == 4  # two workers share the CPUs: another cost
    (tmp_path / "pilots_1.json").write_text("{")
    with pytest.raises(StudyError, match=r"pilots_1.json: .*; remove it to measure again"):
        cost.pilots(tmp_path, planned, {}, 1, lambda _: None)


def test_a_pilot_adds_the_steps_that_it_did_not_take(tmp_path, monkeypatch):
    _, planned = made.study(tmp_path)
    cell = next(job for job in planned if job.needs is not None)
    commands = []

    def timed(command):
        commands.append(command)
        run = Path(command[-1].partition("workdir=")[2])
        if command[0] == "morphojax.main":
            run.mkdir()
            rates = [1.0, 24.0, 48.0, 30.0]  # the first compiles; the median of the others counts
            (run / "metrics.jsonl").write_text(
                "".join(json.dumps({"train/examples_per_second": r}) + "\n" for r in rates)
            )
        return 30.0

    monkeypatch.setattr(cost, "_timed", timed)
    long = dataclasses.replace(cell, resolved={**cell.resolved, "steps": 1024, "batch_size": 12})
    assert cost.pilot(long) == 30.0 + 30.0 + (1024 - cost.PILOT_STEPS) * 12 / 30.0
    train, score = commands
    assert (
        f"--config.steps={cost.PILOT_STEPS}" in train and "--config.init_from=" in train
    )  # its pretraining may not be done
    assert score[0] == "morphojax.evaluate"
    commands.clear()
    with pytest.raises(StudyError, match="give its length by `steps`, not by `epochs`"):
        cost.pilot(dataclasses.replace(cell, resolved={**cell.resolved, "steps": 0}))
    assert not commands  # before anything is trained


@pytest.mark.usefixtures("undrawn")
def test_workers_are_started_here_or_as_jobs(tmp_path, monkeypatch, capsys):
    config = tmp_path / "study_made.py"
    config.write_text(CONFIG)
    flags = [f"--config={config}", f"--config.folder={tmp_path / 'runs'}"]
    for job in made.study(tmp_path / "runs", cells=CELLS)[1]:
        made.finish(job)
    started = []

    class Process:
        def __init__(self, command):
            started.append(command[3:])

        def wait(self):
            return 0

    monkeypatch.setattr(command.subprocess, "Popen", Process)
    assert program.main([*flags, "--workers=2", "--only=seed=1"]) == 0
    same = [flags[0], "--only=seed=1", flags[1]]
    assert started == [[*same, "--worker=1/2"], [*same, "--worker=2/2"]]
    jobs = []
    monkeypatch.setattr(command.cluster, "run", lambda *args: jobs.append(args))
    assert program.main([*flags, "--workers=3", "--launcher=submitit", "--slurm=partition=gpu"]) == 0
    module, argvs, folder, parameters = jobs[0]
    assert (module, folder) == ("analysis.study.__main__", tmp_path / "runs" / "jobs")
    assert argvs == [[*flags, "--worker=1/1"]] * 3 and parameters == {"slurm_partition": "gpu"}
    affinity = os.sched_getaffinity(0)
    assert program.main(argvs[0]) == 0  # what each job runs
    assert os.sched_getaffinity(0) == affinity
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("--launcher=submitit",)])
def test_two_real_workers_finish(tmp_path, launcher):
    for job in made.study(tmp_path / "runs", cells=CELLS)[1]:
        made.finish(job)
    config = tmp_path / "study_made.py"
    config.write_text(CONFIG)
    flags = [f"--config={config}", f"--config.folder={tmp_path / 'runs'}", "--workers=2", *launcher]
    done = subprocess.run([sys.executable, "-m", "analysis.study", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "report" / "report.html").is_file()


@pytest.mark.usefixtures("undrawn")
def test_the_command_plans_reports_and_names_errors(tmp_path, capsys):
    config = tmp_path / "study_made.py"
    config.write_text(CONFIG)
    flags = [f"--config={config}", f"--config.folder={tmp_path / 'runs'}"]
    for argv, message in (
        ([f"--config={config}s"], "there is no such config"),
        (
            [*flags, "--config.basline=scratch", "--plan"],
            "--config.basline: the config has no key basline; did you mean baseline?",
        ),
        ([*flags, "--oly=arm=scratch"], "unknown argument '--oly=arm=scratch'"),
        ([*flags, "--only=arm=scrach"], "arm has no 'scrach'"),
        ([*flags, "--workers=0"], "--workers=0"),
        ([*flags, "--worker=3/2"], "--worker=3/2"),
        ([*flags, "--slurm=time=5"], "--slurm: needs --launcher=submitit"),
    ):
        assert program.main(argv) == 2
        assert message in capsys.readouterr().err
    assert program.main([*flags, "--report"]) == 1
    assert "10 of 10 jobs are not done; pretraining of pretrained_2a_0 is missing" in capsys.readouterr().err
    for job in made.study(tmp_path / "runs", cells=CELLS)[1]:
        made.finish(job)
    assert program.main([*flags, "--plan"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"pretraining +4  4 done", printed) and "left: 0 s" in printed
    assert program.main([*flags, "--report", "--only=arm=scratch"]) == 0
    assert "report_of_some" in capsys.readouterr().out and not (tmp_path / "runs" / "report").exists()
    assert program.main([*flags, "--report"]) == 0
    assert "written: " in capsys.readouterr().out
    shutil.rmtree(tmp_path / "runs" / "cells" / "scratch_2a_0")
    assert program.main([*flags, "--report"]) == 1
    assert "1 of 10 jobs are not done; scratch_2a_0 is missing" in capsys.readouterr().err

"""Scores of a toy run on a small prepared dataset. Expected values come from the masks, and from
other libraries.
"""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from morphojax import anatomy, evaluate
from morphojax.commands import evaluate as work
from morphojax.data.geometry import Grid
from morphojax.data.sources.base import Frame, Subject, View
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.schema import Column, Schema
from morphojax.evaluation import overlap, positions, statistics, summary
from morphojax.inference import scoring
from morphojax.reports import figures as drawings
from morphojax.train.run import RunError
from tests.data.preparing import prepare
from tests.toy_run import toy_image, toy_label, toy_run, write_run

AFFINE = np.diag([-2.0, -2.0, 8.0, 1.0])
SPACING = (2.0, 2.0, 8.0)
IDS = ("secret_a", "secret_b", "secret_c", "secret_d")
SPLIT = ("test", "test", "test", "train")
LV, MYO, RV = (anatomy.LABEL_ID[s] for s in anatomy.PLANE_STRUCTURES["sax"])


def heart(subject, phase):
    """The structures in the image. The toy run predicts them without error."""
    return toy_label(radius={"ED": 8.0, "ES": 5.0}[phase] - 0.5 * IDS.index(subject))


def drawn(subject, phase):
    """The annotation: a with a thicker wall, b without an RV, c without an LV cavity at ES."""
    label = heart(subject, phase)
    if subject == "secret_a":
        label[label == LV] = np.where(np.arange((label == LV).sum()) % 5 == 0, MYO, LV)
    if subject == "secret_b":
        label[label == RV] = 0
    if subject == "secret_c" and phase == "ES":
        label[label == LV] = 0
    return label


SYNTHETIC = ("synthetic_subjects", "synthetic_seed", "synthetic_spacing_mm", "synthetic_size")


class Toy:
    root = Path("toy")
    frames = "phases"

    def __init__(self, labelled=anatomy.PLANE_STRUCTURES["sax"], cine=False, affine=AFFINE):
        self.labelled, self.cine, self.affine = tuple(labelled), cine, affine

    def subjects(self):
        return IDS

    def read(self, subject, planes):
        keep = np.isin(np.arange(256), [0, *(anatomy.LABEL_ID[s] for s in self.labelled)])
        frames = []
        for phase in ("ED", "ES"):
            label = drawn(subject, phase)
            frames.append(Frame(phase, toy_image(heart(subject, phase)), np.where(keep[label], label, 0), self.affine))
        cine = [dataclasses.replace(f, phase=t) for f, t in zip(frames, ("t000", "t007"), strict=True) if self.cine]
        return Subject(subject, {"sax": View("sax", tuple(frames), self.labelled, cine)})

    def table(self):
        column = Column("pulse", "continuous", "haemodynamic", "1/min", (), (), "resting pulse")
        return pd.DataFrame({"pulse": [60.0, 80.0, np.nan, 50.0]}, index=list(IDS)), Schema((column,))


def make(root, split=SPLIT, percentiles=(0.0, 100.0), source=None, **options):
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"subject": IDS, "split": split}).to_csv(root / "split.csv", index=False)
    prepare(
        source or Toy(**options),
        root / "dataset",
        name="toy",
        grid=Grid(2.0, 48),
        percentiles=percentiles,
        split_file=root / "split.csv",
        workers=1,
        progress=False,
    )
    return Dataset.open(root / "dataset")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def result(dataset):
    return scoring.score({"sax": toy_run()}, dataset, "test", heart_rate="pulse", progress=False)


def test_scores_are_those_of_the_native_masks(result):
    scores = result.scores.set_index(["subject", "phase", "structure"])
    assert len(scores) == 3 * 2 * 3 and "secret_d" not in result.scores["subject"].tolist()
    for (subject, phase, structure), row in scores.iterrows():
        masks = [x(subject, phase) == anatomy.LABEL_ID[structure] for x in (drawn, heart)]
        expected = overlap.score(*masks, SPACING)
        got = (row["dice"], row["surface_dice"], row["hd95_mm"], row["hd95_directed_mm"], row["assd_mm"])
        distances = (expected.hd95, expected.hd95_directed, expected.assd)
        np.testing.assert_allclose(got, (expected.dice, expected.surface_dice, *distances))
        assert (row["missed"], row["spurious"]) == (expected.missed, expected.spurious)
        assert row["reference_ml"] == pytest.approx(masks[0].sum() * 32 / 1000)
        assert row["predicted_ml"] == pytest.approx(masks[1].sum() * 32 / 1000)


def test_the_tolerance_of_the_surface_dice_is_handed_on(dataset, result):
    assert result.tolerance_mm == overlap.TOLERANCE_MM == 2.0
    exact = scoring.score({"sax": toy_run()}, dataset, "test", progress=False, tolerance_mm=0.0)
    assert exact.tolerance_mm == 0.0
    chosen = "subject == 'secret_a' and phase == 'ED' and structure == 'lv_myocardium'"
    strict, lenient = (r.scores.query(chosen)["surface_dice"].iloc[0] for r in (exact, result))
    masks = [x("secret_a", "ED") == MYO for x in (drawn, heart)]
    assert strict == pytest.approx(overlap.surface_dice(*masks, SPACING, 0.0)) and strict < lenient
    for tolerance in (-1.0, math.inf):
        with pytest.raises(ValueError, match="tolerance"):
            scoring.score({"sax": toy_run()}, dataset, "test", progress=False, tolerance_mm=tolerance)


class Tapering(Toy):
    """Six slices from apex to base, the first and last of them without a label: the apex is first.
    In the image, and so in the prediction, the apex is wide. The annotation lacks the RV in the
    first three slices.
    """

    DRAWN, SHOWN = (3, 4, 6, 8, 9, 9), (3, 14, 6, 8, 9, 9)

    def read(self, subject, planes):
        frames = []
        for phase, smaller in (("ED", 0), ("ES", 2)):
            label, shown = (
                np.concatenate([toy_label((40, 36, 1), radius - smaller) for radius in radii], axis=2)
                for radii in (self.DRAWN, self.SHOWN)
            )
            label[..., [0, -1]] = shown[..., [0, -1]] = 0
            label[..., :3][label[..., :3] == RV] = 0
            frames.append(Frame(phase, toy_image(shown), label, AFFINE))
        return Subject(subject, {"sax": View("sax", tuple(frames), self.labelled)})


def test_positions_go_from_the_base_as_the_reference_shows_it(tmp_path):
    pd.DataFrame({"subject": IDS, "split": SPLIT}).to_csv(tmp_path / "split.csv", index=False)
    settings = {"grid": Grid(2.0, 48), "percentiles": (0.0, 100.0), "split_file": tmp_path / "split.csv", "workers": 1}
    prepare(Tapering(), tmp_path / "d", name="toy", progress=False, **settings)
    table = scoring.score({"sax": toy_run()}, Dataset.open(tmp_path / "d"), "test", progress=False).positions
    assert table.columns.tolist() == ["subject", "index", *positions.COLUMNS]
    assert set(table["subject"]) == set(IDS[:3]) and set(table["plane"]) == {"sax"}
    rows = table[table["subject"] == "secret_b"].set_index(["phase", "structure", "position"])
    assert rows.index.tolist() == [
        (phase, structure, position)
        for phase in ("ED", "ES")
        for structure in anatomy.PLANE_STRUCTURES["sax"]
        for position in ("base", "middle", "apex")
    ]
    assert rows["n_slices"].unstack("position")[["base", "middle", "apex"]].drop_duplicates().values.tolist() == [
        [1, 2, 1]
    ]
    rv = rows.xs("rv_cavity", level="structure")["dice"].unstack("position")
    assert (rv["base"] == 1).all() and (rv["apex"] == 0).all() and rv["middle"].between(0.6, 0.7).all()
    left = rows.drop("rv_cavity", level="structure")["dice"].unstack("position")
    assert (left[["base", "middle"]] == 1).all(axis=None) and (left["apex"] < 0.5).all()


def test_a_heart_without_a_taper_has_a_middle_alone(result):
    assert set(result.positions["position"]) == {"middle"}
    row = result.positions.query("subject == 'secret_a' and phase == 'ED' and structure == 'lv_myocardium'").iloc[0]
    expected = overlap.dice(*(x("secret_a", "ED")[..., 2] == MYO for x in (drawn, heart)))
    assert (row["dice"], row["n_slices"]) == (pytest.approx(expected), 1)


def test_scores_are_in_native_millimetres(tmp_path):
    """The stacks are finer than the training grid, and not square."""
    dataset = make(tmp_path, affine=np.diag([-1.0, -1.6, 8.0, 1.0]))
    scores = scoring.score({"sax": toy_run()}, dataset, "test", progress=False).scores
    row = scores.query("subject == 'secret_c' and phase == 'ED' and structure == 'lv_myocardium'").iloc[0]
    voxels = (drawn("secret_c", "ED") == MYO).sum()
    assert row["reference_ml"] == pytest.approx(voxels * 1.0 * 1.6 * 8.0 / 1000)
    assert row["predicted_ml"] == pytest.approx(row["reference_ml"], rel=0.2)
    # The ring is in its place: the boundaries lie within two native pixels of each other.
    assert 0 < row["hd95_mm"] <= 2 * 1.6


def test_scores_agree_with_medpy(result):
    binary = pytest.importorskip("medpy.metric.binary", reason="medpy is an optional oracle")
    row = result.scores.query("subject == 'secret_a' and phase == 'ED' and structure == 'lv_myocardium'").iloc[0]
    masks = [x("secret_a", "ED") == MYO for x in (heart, drawn)]
    assert row["dice"] == pytest.approx(binary.dc(*masks)) and row["dice"] < 1
    assert row["hd95_mm"] == pytest.approx(binary.hd95(*masks, SPACING))
    assert row["assd_mm"] == pytest.approx(binary.assd(*masks, SPACING))


def test_measures(result):
    table = result.measures.set_index(["subject", "measure"])
    edv, esv = ((drawn("secret_a", phase) == LV).sum() * 32 / 1000 for phase in ("ED", "ES"))
    assert table.loc[("secret_a", "lv_ef_percent"), "reference"] == pytest.approx(100 * (edv - esv) / edv)
    assert table.loc[("secret_a", "lv_co_l_min"), "reference"] == pytest.approx((edv - esv) * 60 / 1000)
    assert math.isnan(table.loc[("secret_c", "lv_co_l_min"), "predicted"])  # no pulse
    assert math.isnan(table.loc[("secret_c", "lv_ef_percent"), "reference"])  # no cavity drawn at ES: missing, not 100
    assert table.loc[("secret_c", "lv_ef_percent"), "predicted"] > 0
    agreed = summary.agree(result.measures).set_index("measure")
    assert agreed.loc["lv_ef_percent", "n"] == 2 and agreed.loc["lv_mass_g", "n"] == 3
    assert agreed.loc["rv_ef_percent", "n"] == 2  # b's RV was not drawn


def test_summary(result):
    table = summary.summarise(result.scores).set_index(["structure", "phase"])
    assert {p for _, p in table.index} == {"ED", "ES", "pooled"}
    rv = table.loc[("rv_cavity", "pooled")]
    assert (rv["n_subjects"], rv["n_valid"], rv["n_missed"], rv["n_spurious"]) == (3, 6, 0, 2)
    assert rv["dice"] == pytest.approx((1 + 0 + 1) / 3)
    interval = statistics.bootstrap_mean([1.0, 0.0, 1.0])  # over three subjects, not over six stacks
    assert (rv["dice_low"], rv["dice_high"]) == pytest.approx((interval.low, interval.high))
    assert table.loc[("lv_cavity", "ES"), "n_spurious"] == 1
    printed = summary.table_text(table.reset_index(), summary.agree(result.measures)).splitlines()
    line = next(line for line in printed if line.startswith("rv_cavity") and "pooled" in line)
    assert f"{rv['dice']:.3f} [{rv['dice_low']:.3f}, {rv['dice_high']:.3f}]" in line
    scores = result.scores
    by_subject = scores.groupby("index")["dice"].mean()
    assert table.loc[("mean", "pooled"), "dice"] == pytest.approx(by_subject.mean())


def test_intervals_resample_subjects_and_not_their_phases():
    draw = np.random.default_rng(0)
    level = draw.uniform(0.5, 0.9, 30)  # of each subject: its phases are alike
    rows = [
        {"plane": "sax", "index": i, "structure": "lv_cavity", "phase": phase, "missed": 0, "spurious": 0}
        | dict.fromkeys(summary.METRICS, value + draw.normal(0, 0.005))
        for i, value in enumerate(level)
        for phase in ("ED", "ES")
    ]
    scores = pd.DataFrame(rows)
    planes = pd.concat([scores, scores.assign(plane="la_2ch")])
    assert summary.summarise(planes)["plane"].unique().tolist() == ["sax", "la_2ch"]  # as they come
    row = summary.summarise(scores).set_index("phase").loc["pooled"]
    reference = scipy.stats.bootstrap(
        (scores.groupby("index")["dice"].mean().to_numpy(),), np.mean, n_resamples=5000, method="BCa", rng=1
    ).confidence_interval
    # Over rows the interval would be 0.7 times as wide.
    assert row["dice_high"] - row["dice_low"] == pytest.approx(reference.high - reference.low, rel=0.05)
    assert (row["dice_low"], row["dice_high"]) == pytest.approx((reference.low, reference.high), abs=0.005)


def test_other_frames_of_the_cine_are_not_scored_again(result, tmp_path):
    dataset = make(tmp_path, cine=True)
    assert dataset.stacks("sax")["labelled"].sum() == 2 * 2 * len(IDS)
    with_cine = scoring.score({"sax": toy_run()}, dataset, "test", heart_rate="pulse", progress=False)
    pd.testing.assert_frame_equal(with_cine.scores, result.scores)
    pd.testing.assert_frame_equal(with_cine.positions, result.positions)
    pd.testing.assert_frame_equal(with_cine.measures, result.measures)


def test_the_stacks_of_lowest_dice_are_drawn(result, dataset, monkeypatch):
    titles = [tile[3] for tile in result.worst]
    lowest = [float(title.partition("Dice ")[2].split()[0]) for title in titles]
    assert len(lowest) > 2 and lowest == sorted(lowest)
    monkeypatch.setattr(scoring, "WORST", 2)
    assert [tile[3] for tile in scoring.score({"sax": toy_run()}, dataset, "test", progress=False).worst] == titles[:2]


def test_every_subject_has_a_case_at_the_first_annotated_phase(result, tmp_path):
    assert [(c.subject, c.plane, c.phase) for c in result.cases] == [(i, "sax", "ED") for i in range(3)]
    for case in result.cases:
        image, reference, predicted = case.picture
        assert image.std() > 0 and predicted.any()
        errors = {"secret_a": True, "secret_b": True, "secret_c": False}[IDS[case.subject]]  # at ED: `drawn`
        assert (reference != predicted).any() == errors

    class Late(Toy):
        def read(self, subject, planes):
            view = super().read(subject, planes).views["sax"]
            frames = tuple(dataclasses.replace(f, phase={"ED": "mid"}.get(f.phase, f.phase)) for f in view.frames)
            return Subject(subject, {"sax": dataclasses.replace(view, frames=frames[::-1])})

    prepared = make(tmp_path, source=Late())
    late = scoring.score({"sax": toy_run()}, prepared, "test", progress=False)
    assert [case.phase for case in late.cases] == ["mid"] * 3


def test_a_missed_structure_and_a_pair_of_empty_ones_are_counted():
    row = {"index": 0, "plane": "sax", "phase": "ED", "structure": "rv_cavity", "missed": False, "spurious": False}
    empty = row | dict.fromkeys(summary.METRICS, math.nan)
    missed = row | dict.fromkeys(summary.METRICS, 90.0) | {"index": 1, "dice": 0.0, "missed": True}
    row = summary.summarise(pd.DataFrame([empty, missed])).iloc[0]
    assert (row["n_subjects"], row["n_valid"], row["n_missed"], row["dice"]) == (2, 1, 1, 0.0)
    assert row["hd95_mm"] == 90 and math.isnan(row["dice_low"])


def test_only_annotated_structures_are_scored(tmp_path):
    dataset = make(tmp_path, labelled=("lv_cavity",))
    result = scoring.score({"sax": toy_run()}, dataset, "test", progress=False)
    assert set(result.scores["structure"]) == {"lv_cavity"}
    assert set(result.measures["measure"]) == {"lv_edv_ml", "lv_esv_ml", "lv_sv_ml", "lv_ef_percent", "lv_co_l_min"}
    assert all(set(np.unique(x)) <= {0, LV} for tile in result.worst for x in tile[1:3])
    run = toy_run(structures=("rv_cavity",))
    with pytest.raises(scoring.ScoringError, match="nothing to score"):
        scoring.check({"sax": run}, dataset, "test")


class TwoPlanes(Toy):
    """Both long axes. Of the last subject, only the atria in the 4-chamber view are annotated."""

    ATRIA = ("la_cavity", "ra_cavity")

    def read(self, subject, planes):
        views = {}
        for plane in planes:
            structures = ("la_cavity",) if plane == "la_2ch" else ("lv_cavity", *self.ATRIA)
            last = subject == IDS[-1]
            drawn = self.ATRIA if last and plane == "la_4ch" else structures
            label = toy_label((40, 36, 1), structures=structures)
            kept = np.where(np.isin(label, [anatomy.LABEL_ID[s] for s in drawn]), label, 0)
            image = toy_image(label, structures)
            frames = [Frame(p, image, None if last and plane == "la_2ch" else kept, AFFINE) for p in ("ED", "ES")]
            views[plane] = View(plane, tuple(frames), drawn)
        return Subject(subject, views)


def test_a_stack_is_scored_by_its_own_annotation_and_an_unlabelled_plane_is_reported(tmp_path, monkeypatch, capsys):
    split = ["train"] * (len(IDS) - 1) + ["test"]
    pd.DataFrame({"subject": IDS, "split": split}).to_csv(tmp_path / "split.csv", index=False)
    settings = {"grid": Grid(2.0, 48), "percentiles": (0.0, 100.0), "split_file": tmp_path / "split.csv", "workers": 1}
    prepare(TwoPlanes(), tmp_path / "d", name="toy", planes=anatomy.LONG_AXIS, progress=False, **settings)
    dataset = Dataset.open(tmp_path / "d")
    runs = {"la_2ch": toy_run("la_2ch", ("la_cavity",)), "la_4ch": toy_run("la_4ch", ("lv_cavity", *TwoPlanes.ATRIA))}
    assert scoring.check(runs, dataset, "test").keys() == {"la_4ch"}
    result = scoring.score(runs, dataset, "test", progress=False)
    assert set(result.scores["structure"]) == set(
        TwoPlanes.ATRIA
    )  # the ventricle is predicted, not annotated, and not scored
    assert result.positions.empty and result.positions.columns.tolist() == ["subject", "index", *positions.COLUMNS]
    assert set(result.scores["dice"]) == {1.0} and "biplane" not in set(result.measures["plane"])
    assert "biplane" in set(scoring.score(runs, dataset, "train", progress=False).measures["plane"])
    four = scoring.score({"la_4ch": runs["la_4ch"]}, dataset, "train", progress=False)
    assert "lv_cavity" in set(four.scores["structure"]) and four.positions.empty  # one slice has no positions
    ventricle = {"la_4ch": toy_run("la_4ch", ("lv_cavity",))}
    with pytest.raises(scoring.ScoringError, match="no labelled la_4ch stack in --split=test"):
        scoring.score(ventricle, dataset, "test", progress=False)

    def load(folder, checkpoint, weights, **_):
        config = {"data": dict.fromkeys(SYNTHETIC) | {"dataset": str(dataset.root), "splits": ("train",)}}
        return dataclasses.replace(runs[folder], config=config)

    monkeypatch.setattr(work, "load_run", load)
    monkeypatch.chdir(tmp_path)
    for plane, run in runs.items():
        write_run(Path(plane), dataset.root, dataset.fingerprint, (plane,), run.structures)
    assert evaluate.main(["--run=la_2ch", "--run=la_4ch", f"--output={tmp_path / 'out'}"]) == 0
    assert "la_2ch is not scored: no labelled stack in --split=test" in capsys.readouterr().out
    page = (tmp_path / "out" / "report_test.html").read_text()
    assert "la_2ch: Task: segmentation of la_2ch slices" in page and "la_4ch: Task: segmentation of la_4ch" in page


def test_a_dataset_that_does_not_fit_is_refused(dataset, tmp_path):
    with pytest.raises(scoring.ScoringError, match=r"grid.*prepare the dataset anew"):
        scoring.check({"sax": toy_run(spacing=1.5)}, dataset, "test")
    other = make(tmp_path, percentiles=(1.0, 99.0))
    with pytest.raises(scoring.ScoringError, match="percentiles"):
        scoring.check({"sax": toy_run()}, other, "test")
    with pytest.raises(scoring.ScoringError, match="no plane 'la_4ch'"):
        scoring.check({"la_4ch": toy_run("la_4ch", ("la_cavity",))}, dataset, "test")
    with pytest.raises(scoring.ScoringError, match="no labelled sax stack in --split=val"):
        scoring.check({"sax": toy_run()}, dataset, "val")
    with pytest.raises(scoring.ScoringError, match="no such column"):
        scoring.score({"sax": toy_run()}, dataset, "test", heart_rate="puls", progress=False)


@pytest.fixture
def command(dataset, monkeypatch, tmp_path):
    data = dict.fromkeys(SYNTHETIC) | {"plane": "sax", "dataset": str(dataset.root), "splits": ("train",)}
    run = dataclasses.replace(toy_run(), config={"data": data}, dataset_fingerprint=dataset.fingerprint)
    monkeypatch.setattr(work, "load_run", lambda directory, which, weights, **_: run)
    monkeypatch.setattr(drawings, "to_svg", lambda figure: "<svg></svg>")
    write_run(tmp_path / "run", dataset.root, dataset.fingerprint)
    monkeypatch.setattr(work.cohort, "open_dataset", lambda dataset, **_: Dataset.open(dataset))
    return lambda *flags: evaluate.main([f"--run={tmp_path / 'run'}", *flags])


def test_command_writes_its_files_and_ids_only_by_subject(command, tmp_path, capsys):
    assert command("--split=test") == 0
    output = tmp_path / "run" / "evaluation"
    tables = {f"{name}_test.csv" for name in ("scores", "positions", "measures", "agreement", "summary")}
    pictures = {f"{name}_test.png" for name in ("dice", "agreement", "worst")}
    assert {p.name for p in output.iterdir()} == tables | pictures | {
        "summary_test.json",
        "cases_test.npz",
        "report_test.html",
    }
    document = json.loads((output / "summary_test.json").read_text())
    assert document["split"] == "test" and len(document["rows"]) == 4 * 3
    assert "NaN" not in (output / "summary_test.json").read_text()
    printed = capsys.readouterr().out
    assert "lv_cavity" in printed and "LV EF (%)" in printed and "trained on" not in printed
    for text in (
        printed,
        *(
            (output / n).read_text()
            for n in ("summary_test.json", "summary_test.csv", "agreement_test.csv", "report_test.html")
        ),
    ):
        assert "secret" not in text
    assert "secret_a" in (output / "scores_test.csv").read_text()
    assert document["runs"] == [str(tmp_path / "run")]
    flags = f"--run={tmp_path / 'run'} --split=test --checkpoint=best --weights=model --largest_component --tolerance_mm=2.0"
    assert document["command"] == f"morphojax evaluate {flags}"
    assert document["command"] in (output / "report_test.html").read_text()
    assert document["conventions"]["surface_dice_tolerance_mm"] == 2.0
    assert all(0 <= row["surface_dice_low"] <= row["surface_dice"] <= 1 for row in document["rows"])
    written = pd.read_csv(output / "positions_test.csv")
    assert written.columns.tolist() == ["subject", "index", *positions.COLUMNS] and len(written) > 0


def test_the_tolerance_is_a_flag(command, tmp_path, capsys):
    dice = {}
    for tolerance in ("0", "5.5"):
        assert command(f"--tolerance_mm={tolerance}", f"--output={tmp_path / tolerance}") == 0
        document = json.loads((tmp_path / tolerance / "summary_test.json").read_text())
        assert document["conventions"]["surface_dice_tolerance_mm"] == float(tolerance)
        dice[tolerance] = [row["surface_dice"] for row in document["rows"]]
    assert sum(dice["0"]) < sum(dice["5.5"])
    assert command("--tolerance_mm=-1", f"--output={tmp_path / 'none'}") == 2
    assert "the tolerance of the surface Dice must be a finite number" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("flags", "largest"), [((), True), (("--no-largest_component",), False)])
def test_islands_are_removed_unless_asked_otherwise(flags, largest, command, tmp_path, monkeypatch):
    asked = []
    own = work.load_run

    def load(*arguments, largest_component):
        asked.append(largest_component)
        return own(*arguments)

    monkeypatch.setattr(work, "load_run", load)
    assert command(f"--output={tmp_path / 'out'}", *flags) == 0
    assert asked == [largest]
    assert json.loads((tmp_path / "out" / "summary_test.json").read_text())["largest_component"] is largest


def test_command_says_that_training_subjects_are_scored(command, tmp_path, capsys):
    assert command("--split=train", f"--output={tmp_path / 'other'}") == 0
    assert "trained on subjects of the train split" in capsys.readouterr().out
    assert (tmp_path / "other" / "scores_train.csv").exists()


def test_command_answers_errors_in_one_line(command, tmp_path, capsys, monkeypatch):
    assert command("--split=val") == 2
    assert "no labelled sax stack" in capsys.readouterr().err
    assert command(f"--dataset={tmp_path / 'nowhere'}") == 2
    assert "nowhere" in capsys.readouterr().err

    (tmp_path / "run" / "environment.json").rename(tmp_path / "moved")
    assert command() == 2  # before the work
    assert "environment.json: not found" in capsys.readouterr().err and not (tmp_path / "run" / "evaluation").exists()

    def missing(directory, which, weights, **_):
        raise RunError(f"{directory}/config.json: not found")

    monkeypatch.setattr(work, "load_run", missing)
    assert command() == 2
    assert "config.json: not found" in capsys.readouterr().err
    assert not (tmp_path / "run" / "evaluation").exists()

"""Ensembles: the mean of probabilities, and the spread of sizes over the members."""

import dataclasses
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import optax
import pandas as pd
import pytest

from morphojax import anatomy, predict
from morphojax.inference.ensemble import load_ensemble
from morphojax.inference.measures import Segmented, measure_rows, volume_rows
from morphojax.inference.segmenter import load_run
from morphojax.inference.stacks import SegmentedStack, of_label, segment_stack
from morphojax.train.checkpoint import Checkpoints, load_variables
from morphojax.train.run import RunError
from morphojax.train.state import TrainState
from tests.toy_run import toy_image, toy_label, toy_run

AFFINE = np.diag([-2.0, -2.0, 8.0, 1.0])


def blind_run():
    """A run that sees background everywhere, but is less sure than the toy run."""
    return dataclasses.replace(
        toy_run(), apply=lambda image: np.stack([image[..., 0] * 0 + 1, *[image[..., 0] * 0] * 3], -1)
    )


def test_probabilities_are_the_mean_over_the_members() -> None:
    slices = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
    run = dataclasses.replace(toy_run(), others=(blind_run(),))
    expected = (toy_run().predict_grid(slices) + blind_run().predict_grid(slices)) / 2
    np.testing.assert_allclose(run.predict_grid(slices), expected, rtol=1e-6)
    assert not np.allclose(run.predict_grid(slices), toy_run().predict_grid(slices))


def test_sizes_of_the_members() -> None:
    label = toy_label()
    run = dataclasses.replace(toy_run(), others=(blind_run(),))
    stack = segment_stack(run, "sax", toy_image(label), AFFINE)
    np.testing.assert_array_equal(stack.label, label)  # the toy run is sure, the other is not
    size = (label == anatomy.LABEL_ID["lv_cavity"]).sum() * 32 / 1000
    assert stack.members["lv_cavity"] == pytest.approx((size, 0))
    assert stack.spread()["lv_cavity_cv_percent"] == pytest.approx(100 * np.sqrt(2))
    alone = segment_stack(toy_run(), "sax", toy_image(label), AFFINE)
    assert alone.members == {} and alone.spread() == {}


def test_spread_by_hand() -> None:
    stack = SegmentedStack(toy_label(), {}, members={"lv_cavity": (90.0, 110.0), "rv_cavity": (0.0, 0.0)})
    spread = stack.spread()
    assert spread["lv_cavity_cv_percent"] == pytest.approx(100 * np.sqrt(200) / 100)
    assert np.isnan(spread["rv_cavity_cv_percent"])


def test_tables_hold_the_spread() -> None:
    def file(name: str, *members: tuple[float, float]) -> Segmented:
        stacks = (dataclasses.replace(of_label(toy_label()), members={"lv_cavity": sizes}) for sizes in members)
        return Segmented(name, tuple(stacks), (2.0, 2.0, 8.0), np.nan)

    stack, cine = file("a", (90.0, 110.0)), file("b", (99.0, 101.0), (90.0, 110.0), (0.0, 0.0))
    by_frame = [row["lv_cavity_cv_percent"] for row in volume_rows(toy_run(), "sax", [stack, cine])]
    assert by_frame[:3] == pytest.approx([14.142, 1.4142, 14.142], rel=1e-3) and np.isnan(by_frame[3])
    (row,) = measure_rows(toy_run(), "sax", [stack])
    assert row["lv_cavity_cv_percent"] == by_frame[0]
    two = [file("p_ED", (99.0, 101.0)), file("p_ES", (90.0, 110.0))]
    (row,) = measure_rows(toy_run(), "sax", two)
    assert row["lv_cavity_cv_percent"] == by_frame[0], "the larger of ED and ES"


@pytest.fixture(scope="module")
def kept_two(segmented: Path, tmp_path_factory) -> Path:
    """The run with two checkpoints: of its model weights, and of its EMA weights."""
    run = tmp_path_factory.mktemp("ensemble") / "run"
    shutil.copytree(segmented, run, ignore=shutil.ignore_patterns("checkpoints", "events*"))
    checkpoints = Checkpoints(run)
    for step, weights in enumerate(("model", "ema"), start=1):
        checkpoints.save(step, TrainState.create(load_variables(segmented, "last", weights), optax.sgd(0.1)), {}, None)
    checkpoints.close()
    return run


def test_all_kept_checkpoints_are_members(kept_two: Path) -> None:
    run = load_ensemble([kept_two], "all")
    slices = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    each = [load_run(kept_two, step).predict_grid(slices) for step in (1, 2)]
    assert np.abs(each[0] - each[1]).max() > 1e-3 and len(run.others) == 1
    np.testing.assert_allclose(run.predict_grid(slices), np.mean(each, axis=0), atol=1e-6)


def test_the_command_averages_runs_and_writes_the_spread(
    segmented: Path, kept_two: Path, tmp_path: Path, capsys
) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (32, 32, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([-5.0, -5.0, 8.0, 1.0])), tmp_path / "heart.nii.gz")
    both = [f"--run={segmented}", f"--run={kept_two}", "--checkpoint=all"]
    assert predict.main([*both, f"--input={tmp_path / 'heart.nii.gz'}", f"--output={tmp_path / 'out'}"]) == 0
    assert "1 of 1 files segmented by 3 members of an ensemble, written to" in capsys.readouterr().out
    for table in ("measures.csv", "volumes.csv"):
        columns = pd.read_csv(tmp_path / "out" / table).columns
        assert [c for c in columns if c.endswith("_cv_percent")] == [
            "lv_cavity_cv_percent",
            "lv_myocardium_cv_percent",
            "rv_cavity_cv_percent",
        ]


def test_a_single_checkpoint_is_no_ensemble(segmented: Path, tmp_path: Path, capsys) -> None:
    nib.save(nib.Nifti1Image(np.eye(32)[..., None] * np.ones(5), np.diag([-5.0, -5.0, 8.0, 1.0])), tmp_path / "a.nii")
    assert load_ensemble([segmented], "all").others == ()
    flags = [f"--run={segmented}", "--checkpoint=all", f"--input={tmp_path / 'a.nii'}", f"--output={tmp_path / 'out'}"]
    assert predict.main(flags) == 0
    printed = capsys.readouterr().out
    assert "note: the run keeps a single checkpoint, so there is no ensemble and no spread of sizes" in printed
    assert "1 of 1 files segmented, written to" in printed


def test_runs_that_do_not_fit_are_refused(segmented: Path, kept_two: Path, monkeypatch) -> None:
    with pytest.raises(RunError, match=r"segmented is given twice"):
        load_ensemble([segmented, segmented.parent / "." / "segmented"])
    other = dataclasses.replace(load_run(segmented), structures=("lv_cavity",))
    monkeypatch.setattr(
        "morphojax.inference.ensemble.load_run", lambda d, *_, **__: other if d == kept_two else load_run(d)
    )
    with pytest.raises(
        RunError, match=r"--run=.*run has other structures than --run=.*segmented \(\('lv_cavity',\), not"
    ):
        load_ensemble([segmented, kept_two])

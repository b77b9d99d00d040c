"""--checkpoint and --weights of the commands that read a checkpoint, on one trained run that keeps
EMA weights.
"""

import json
import shutil
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import optax
import pandas as pd
import pytest

from morphojax import evaluate, export, predict, probe
from morphojax.inference.embed import load_encoder
from morphojax.inference.segmenter import load_run
from morphojax.models.published import to_hugging_face
from morphojax.train import weights as weight_files
from morphojax.train.checkpoint import Checkpoints, load_variables
from morphojax.train.state import TrainState
from morphojax.train.transfer import flatten


@pytest.fixture
def without_ema(segmented: Path, tmp_path: Path) -> Path:
    """The same run, as it would be with config.ema.decay=0."""
    run = tmp_path / "without_ema"
    run.mkdir()
    for name in ("config.json", "preprocessing.json"):
        shutil.copy(segmented / name, run / name)
    checkpoints = Checkpoints(run)
    checkpoints.save(2, TrainState.create(load_variables(segmented, "last"), optax.sgd(0.1)), {}, None)
    checkpoints.close()
    return run


def image_file(folder: Path) -> Path:
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 1000, (32, 32, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([-5.0, -5.0, 8.0, 1.0])), folder / "heart.nii.gz")
    return folder / "heart.nii.gz"


def scores(run: Path, output: Path, weights: str) -> str:
    assert evaluate.main([f"--run={run}", f"--output={output}", "--split=train", f"--weights={weights}"]) == 0
    assert json.loads((output / "summary_train.json").read_text())["weights"] == weights
    return (output / "scores_train.csv").read_text()


def labels(run: Path, output: Path, weights: str) -> np.ndarray:
    source = image_file(output.parent / f"images_{weights}")
    assert predict.main([f"--run={run}", f"--input={source}", f"--output={output}", f"--weights={weights}"]) == 0
    return np.asarray(nib.load(output / "heart.nii.gz").dataobj)


def probed(run: Path, output: Path, weights: str) -> np.ndarray:
    label = "--label=bright"
    assert probe.main([f"--run={run}", label, f"--output={output}", "--slices=1", f"--weights={weights}"]) == 0
    assert json.loads((output / "scores.json").read_text())["weights"] == weights
    return pd.read_csv(output / "predictions.csv")["predicted"].to_numpy()


@pytest.mark.parametrize("results", [scores, labels, probed])
def test_results_are_those_of_the_weights_asked_for(results, segmented: Path, tmp_path: Path) -> None:
    model, ema = (results(segmented, tmp_path / weights, weights) for weights in ("model", "ema"))
    assert not np.array_equal(model, ema)


def test_a_run_predicts_with_its_ema_weights(segmented: Path) -> None:
    slices = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    model, ema = (load_run(segmented, "last", weights).predict_grid(slices) for weights in ("model", "ema"))
    assert np.abs(model - ema).max() > 1e-3


def test_an_encoder_embeds_with_its_ema_weights(segmented: Path) -> None:
    encoder = load_encoder(segmented, weights="ema")
    stored = load_variables(segmented, "last", "ema")
    jax.tree.map(np.testing.assert_array_equal, dict(encoder.variables), stored)
    image, mask = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 32, 1), np.uint8), np.ones((1, 1), bool)
    model, ema = (e.apply(image, mask, ("sax",)) for e in (load_encoder(segmented), encoder))
    assert np.abs(np.asarray(model) - np.asarray(ema)).max() > 1e-3


def test_export_writes_the_ema_weights(segmented: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "encoder.safetensors"
    assert export.main([f"--run={segmented}", f"--output={file}", "--checkpoint=last", "--weights=ema"]) == 0
    assert "(EMA weights) written" in capsys.readouterr().out
    stored = load_variables(segmented, "last", "ema")
    expected, _ = to_hugging_face(flatten({c: tree["encoder"] for c, tree in stored.items()}))
    written = weight_files.read(file)
    assert written.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (evaluate, ()),
        (predict, ("--input=nowhere", "--output=nowhere")),
        (export, ("--output=encoder.safetensors",)),
        (probe, ("--label=bright",)),
    ],
)
def test_a_run_without_ema_weights_is_refused(command, flags, without_ema: Path, capsys) -> None:
    assert command.main([f"--run={without_ema}", "--weights=ema", *flags]) == 2
    error = capsys.readouterr().err
    assert "holds no EMA weights; train with config.ema.decay above 0, or use weights=model" in error
    assert len(error.splitlines()) == 1

"""Every plane, alone and together, through the whole program: pretrain, segment, evaluate,
predict.
"""

import itertools
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.special

from morphojax import evaluate, predict
from morphojax.anatomy import LABEL_ID, PLANE_STRUCTURES, PLANES
from morphojax.commands.export import export
from morphojax.data.store.dataset import Dataset
from morphojax.inference import embed
from morphojax.models.encoders import ENCODERS
from morphojax.tasks import experiment
from morphojax.tasks.pretrain import build as pretrain
from morphojax.train import checkpoint
from tests.tasks import synthetic
from tests.tasks.tiny import config

SMALL = ("two_blocks", "convnext_pico", "swin_micro", "vit_tiny", "unet_small")
QUICK = {("two_blocks", "la_4ch")}
HIDDEN = {"model.table.mlp.hidden_units": 8, "eval_every": 0}


@pytest.fixture(scope="module")
def data() -> Path:
    return synthetic.dataset(planes=PLANES)


def width(encoder: str) -> int:
    return 12 if encoder.startswith("swin") else 8 if encoder.startswith("vit") else 4


def train(name: str, folder: Path, run: Path, **changes) -> Path:
    assert experiment.run(config(name, folder, run, **changes))
    return run


@pytest.mark.parametrize(
    ("encoder", "plane"),
    [
        pytest.param(e, p, marks=() if (e, p) in QUICK else pytest.mark.slow)
        for e in SMALL
        for p in PLANES
        if e in ENCODERS
    ],
)
def test_every_encoder_serves_every_plane(encoder: str, plane: str, data: Path, tmp_path: Path, capsys) -> None:
    model = {"model.encoder": encoder, "model.width": width(encoder), "data.plane": plane}
    pretrained = train("pretrain_sax", data, tmp_path / "pretrain", **HIDDEN, **model)
    from_it = {"init_from": str(pretrained), "model.decoder_widths": (4, 4, 4, 4, 4)}
    run = train("segment_sax", data, tmp_path / "segment", **model, **from_it)
    assert evaluate.main([f"--run={run}"]) == 0
    scores = pd.read_csv(run / "evaluation" / "scores_test.csv")
    assert set(scores["plane"]) == {plane} and set(scores["structure"]) <= set(PLANE_STRUCTURES[plane])
    _predict_oblique(run, plane, tmp_path)
    capsys.readouterr()


def _predict_oblique(run: Path, plane: str, folder: Path) -> None:
    """An image whose axes lie askew in the scanner comes back with its geometry to the bit."""
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * [1.9, 2.1, 7.0], [-31.25, 12.5, 88.0]
    shape = (30, 26, 5 if plane == "sax" else 1)
    image = nib.Nifti1Image(np.random.default_rng(0).random(shape).astype(np.float32), affine)
    image.header.set_qform(affine, 1)
    (folder / "in").mkdir()
    nib.save(image, folder / "in" / "heart.nii.gz")
    assert predict.main([f"--run={run}", f"--input={folder / 'in'}", f"--output={folder / 'out'}"]) == 0
    before, after = nib.load(folder / "in" / "heart.nii.gz"), nib.load(folder / "out" / "heart.nii.gz")
    assert after.shape == before.shape
    for one, other in ((before.affine, after.affine), (before.get_qform(), after.get_qform())):
        np.testing.assert_array_equal(one, other)
    shown = {0, *(LABEL_ID[s] for s in PLANE_STRUCTURES[plane])}
    assert set(np.unique(np.asarray(after.dataobj))) <= shown


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two planes with an encoder each."""
    run = tmp_path_factory.mktemp("together")
    settings = {"data.plane": "la_2ch,la_4ch", "model.plane_encoders": "own", "steps": 2}
    return train("pretrain_multiplane", data, run, **HIDDEN, **settings)


def test_a_plane_takes_its_own_encoder_to_segmentation(together: Path, data: Path, tmp_path: Path) -> None:
    made = config("segment_la_4ch", data, tmp_path, init_from=str(together))
    task, _ = experiment.TASKS["segment"](made, Dataset.open(data))
    state = jax.jit(task.init)(task.pretrained)
    source = checkpoint.load_variables(together, "last")
    for collection, tree in state.variables.items():
        jax.tree.map(np.testing.assert_array_equal, tree["encoder"], source[collection]["encoder"]["encoders_la_4ch"])
    with pytest.raises(ValueError, match=r"an encoder for each of la_2ch, la_4ch.*not of sax: set config.data.plane"):
        experiment.TASKS["segment"](config("segment_sax", data, tmp_path, init_from=str(together)), Dataset.open(data))


def test_an_encoder_for_each_plane_goes_out_and_comes_in(together: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    with pytest.raises(ValueError, match="not of none: set --plane to one of them"):
        export(together, file, "last")
    export(together, file, "last", plane="la_4ch")
    settings = {"data.plane": "la_2ch,la_4ch", "model.plane_encoders": "own", "init_from": str(file)}
    task, _ = pretrain.build(config("pretrain_multiplane", data, tmp_path, **HIDDEN, **settings), Dataset.open(data))
    state = jax.jit(task.init)(task.pretrained)
    source = checkpoint.load_variables(together, "last")["params"]["encoder"]["encoders_la_4ch"]
    for plane in ("la_2ch", "la_4ch"):  # both start from the file
        jax.tree.map(np.testing.assert_array_equal, state.params["encoder"][f"encoders_{plane}"], source)


def test_an_encoder_for_each_plane_is_embedded(together: Path, data: Path) -> None:
    dataset = Dataset.open(data)
    encoder = embed.load_encoder(together)
    found = embed.embed(encoder, dataset)
    batch = {"image": [], "mask": []}
    for plane in ("la_2ch", "la_4ch"):
        stacks = dataset.stacks(plane).set_index(["subject", "phase"])
        batch["image"].append(dataset.slices(plane)[int(stacks.loc[(3, "ED"), "first"])]["image"][..., None])
    one = encoder.apply(np.stack(batch["image"])[None], np.ones((1, 2), bool), ("la_2ch", "la_4ch"))
    np.testing.assert_allclose(found.values[3], one[0], rtol=1e-4, atol=1e-5)


def test_a_mixture_of_planes_is_segmented_and_measured_across_them(data: Path, tmp_path: Path, capsys) -> None:
    """One network for both long axes: every plane is scored by its own structures, and the atrium
    by both planes.
    """
    settings = {"data.plane": "la_2ch,la_4ch", "model.decoder_widths": (4, 4, 4, 4)}
    run = train("segment_la_4ch", data, tmp_path / "run", **settings)
    assert evaluate.main([f"--run={run}"]) == 0
    folder = run / "evaluation"
    scores = pd.read_csv(folder / "scores_test.csv")
    assert set(scores.loc[scores["plane"] == "la_2ch", "structure"]) == {"la_cavity"}
    assert len(set(scores.loc[scores["plane"] == "la_4ch", "structure"])) == 5
    measures = pd.read_csv(folder / "measures_test.csv")
    assert set(measures.loc[measures["plane"] == "biplane", "measure"]) == {"la_volume_ed_ml", "la_volume_es_ml"}
    assert (measures.loc[measures["plane"] == "biplane", "reference"] > 5).all()
    assert (folder / "dice_la_2ch_test.png").is_file() and (folder / "dice_la_4ch_test.png").is_file()
    printed = capsys.readouterr().out
    assert "LA volume, ED (mL), biplane" in printed and "-- la_2ch\n" in printed and "-- la_4ch\n" in printed
    assert predict.main([f"--run={run}", f"--input={data}", f"--output={tmp_path / 'out'}"]) == 2
    assert "--plane=None: the run segments la_2ch, la_4ch" in capsys.readouterr().err


@pytest.mark.slow
def test_two_runs_of_different_planes_are_scored_together(data: Path, tmp_path: Path, capsys) -> None:
    runs = [
        train(f"segment_{plane}", data, tmp_path / plane, **{"model.decoder_widths": (4, 4, 4, 4)})
        for plane in ("la_2ch", "la_4ch")
    ]
    assert evaluate.main([f"--run={run}" for run in runs] + [f"--output={tmp_path / 'both'}"]) == 0
    assert "biplane" in set(pd.read_csv(tmp_path / "both" / "measures_test.csv")["plane"])
    capsys.readouterr()
    assert evaluate.main([f"--run={runs[0]}", f"--run={runs[0]}"]) == 2
    assert "two of the runs segment la_2ch" in capsys.readouterr().err


def test_the_planes_of_a_subject_are_contrasted_with_those_of_others(data: Path, tmp_path: Path) -> None:
    made = config("pretrain_multiplane", data, tmp_path, **HIDDEN, batch_size=6, **{"input.plane_dropout": 0.0})
    task, files = pretrain.build(made, Dataset.open(data))
    assert files["preprocessing.json"]["planes"] == list(PLANES)
    state, batch = jax.jit(task.init)(task.pretrained), next(task.train_batches)
    assert state.params["plane_embedding"].shape[0] == 3
    found = jax.device_get(jax.jit(task.evaluate)(state, task.constants, batch))
    embedding = found["outputs"]["planes"]["embedding"]  # [B,planes,P]
    units = embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)
    losses = []
    for first, second in itertools.permutations(range(3), 2):
        logits = units[:, first] @ units[:, second].T / 0.1
        losses.append(np.mean(scipy.special.logsumexp(logits, axis=1) - np.diag(logits)))
    assert task.summarise([found])["planes/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.std(losses) > 0  # no plane is compared with itself, or twice with the same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.plane": "la_3ch"}, "config.data.plane: planes 'la_3ch'"),
        ({"objectives.planes.weight": 1.0, "data.plane": "sax"}, "config.objectives.planes needs at least two planes"),
        ({"model.plane_encoders": "each"}, "config.model.plane_encoders='each'.*shared or own"),
        ({"input.plane_dropout": 1.5}, "plane_dropout=1.5"),
    ],
)
def test_what_a_config_of_planes_has_wrong(changes: dict, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.run(config("pretrain_multiplane", data, tmp_path, **HIDDEN, **changes))

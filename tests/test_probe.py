"""The probe command, on runs made here: brightness determines the label, and nothing else does."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from morphojax import probe
from morphojax.data.store.dataset import Dataset
from morphojax.inference import embed
from morphojax.tasks import experiment
from morphojax.tasks.probe.label import Label
from morphojax.tasks.probe.task import class_weights, loss_per_subject
from morphojax.train import checkpoint
from morphojax.train.lineage import caveats, columns_given, trained_on
from tests.brightness import FRACTION, SCHEMA, SPLITS, N
from tests.tasks import tiny


@pytest.fixture(scope="module")
def dataset(brightness: Path) -> Dataset:
    return Dataset.open(brightness)


def config(data: Path, run: Path, **changes):
    return tiny.config("probe", data, run, **{"batch_size": 4, "label": "bright", "input.slices": 3} | changes)


@pytest.fixture(scope="module")
def finetuned(brightness, segmented, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finetuned"
    assert experiment.run(config(brightness, run, init_from=str(segmented), steps=2))
    return run


def test_the_command_writes_its_files(segmented, capsys):
    assert probe.main([f"--run={segmented}", "--label=group", "--slices=2", "--frames=ED,ES"]) == 0
    folder = segmented / "probe" / "group"
    assert {p.name for p in folder.iterdir()} == {"scores.json", "predictions.csv", "roc.png"}
    written = json.loads((folder / "scores.json").read_text())
    assert set(written["probes"]) == {"linear", "knn", "constant"} and written["frames"] == ["ED", "ES"]
    for kind in ("linear", "knn"):
        for name in ("auc", "balanced_accuracy"):
            score = written["probes"][kind]["scores"][name]
            assert score["n"] == 6 and score["low"] <= score["value"] <= score["high"]
        assert written["probes"][kind]["chosen_on"] == "cross-validation"
    assert written["probes"]["constant"]["scores"]["balanced_accuracy"] == {
        "n": 6,
        "value": 0.5,
        "low": None,
        "high": None,
    }
    rows = pd.read_csv(folder / "predictions.csv")
    assert list(rows) == ["probe", "subject", "reference", "predicted", "p_low", "p_high"] and len(rows) == 12
    np.testing.assert_allclose(rows["p_low"] + rows["p_high"], 1, atol=1e-5)
    assert rows["predicted"].tolist() == np.where(rows["p_low"] >= rows["p_high"], "low", "high").tolist()
    out = capsys.readouterr().out
    assert "AUC" in out and "1 subjects left out" in out
    assert "secret" not in out + (folder / "scores.json").read_text() + (folder / "predictions.csv").read_text()


def test_a_number_is_reported_in_its_unit(segmented, tmp_path, capsys):
    assert (
        probe.main([f"--run={segmented}", "--label=bright", "--slices=2", f"--output={tmp_path}", "--fraction=0.6"])
        == 0
    )
    rows = pd.read_csv(tmp_path / "predictions.csv").query("probe == 'linear'")
    np.testing.assert_allclose(rows["reference"], 100 * FRACTION[rows["subject"]], rtol=1e-4)
    scores = json.loads((tmp_path / "scores.json").read_text())["probes"]["linear"]["scores"]
    assert scores["mae"]["value"] == pytest.approx(np.abs(rows["predicted"] - rows["reference"]).mean(), rel=1e-3)
    assert (tmp_path / "scatter.png").exists() and "%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --label=COLUMN"),
        (["--label=nonsense"], "choose among bright, group"),
        (["--label=bright", "--frames=EDS"], "--frames=EDS"),
        (["--label=bright", "--fraction=0"], "fraction=0.0"),
        (["--label=bright", "--slices=0"], "slices=0"),
        (["--label=bright", "--dataset=nowhere"], "nowhere"),
    ],
)
def test_wrong_arguments_are_refused(segmented, arguments, message, capsys):
    assert probe.main([f"--run={segmented}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert probe.main([f"--run={tmp_path}", "--label=bright"]) == 2
    assert "no run and no checkpoint here" in capsys.readouterr().err


# training the encoder along with the head


def test_finetuning_moves_the_encoder_and_logs_its_measures(segmented, finetuned):
    before, after = (checkpoint.load_variables(path, "last") for path in (segmented, finetuned))
    pairs = zip(*(jax.tree.leaves(v["params"]["encoder"]) for v in (before, after)), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)
    logged = [json.loads(line) for line in (finetuned / "metrics.jsonl").read_text().splitlines()]
    assert {"val/loss", "val/mae", "val/r", "train/loss", "train/grad_norm/head"} <= {n for row in logged for n in row}
    assert [row for row in logged if "val/mae" in row][-1]["val/mae"] > 1  # in the unit, not in standard deviations


def test_a_frozen_encoder_stays_and_its_head_learns(brightness, segmented, tmp_path):
    settings = {"freeze": "encoder", "label": "group", "steps": 2, "optimizer.warmup": 0.0}
    assert experiment.run(config(brightness, tmp_path / "run", init_from=str(segmented), **settings))
    before, after = (checkpoint.load_variables(path, "last") for path in (segmented, tmp_path / "run"))
    for kind in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, before[kind]["encoder"], after[kind]["encoder"])
    assert after["params"]["head"]["kernel"].shape[1] == 2 and np.abs(after["params"]["head"]["kernel"]).max() > 0


def test_the_command_scores_what_was_trained(brightness, finetuned, dataset, capsys):
    """The embeddings and head of the command give the outputs of the validation step on the same
    subjects.
    """
    assert probe.main([f"--run={finetuned}"]) == 0
    predictions = pd.read_csv(finetuned / "probe" / "bright" / "predictions.csv")
    assert (
        predictions["probe"].unique() == ["network"]
        and predictions["subject"].tolist() == np.flatnonzero(SPLITS == "test").tolist()
    )
    task, _ = experiment.TASKS["probe"](config(brightness, finetuned, init_from=""), dataset)
    state = jax.eval_shape(task.init, {})
    best = checkpoint.load_variables(finetuned, "best")
    state = state.replace(params=best.pop("params"), collections=best)
    encoder = embed.load_encoder(finetuned, "best")
    batch = next(iter(task.validation_batches()))
    output = jax.jit(task.evaluate)(state, task.constants, batch)["output"]
    pooled = encoder.apply(batch["image"], batch["slice_mask"], ("sax", "sax"))
    expected = pooled @ state.params["head"]["kernel"] + state.params["head"]["bias"]
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-5)
    assert "network" in capsys.readouterr().out
    assert probe.main([f"--run={finetuned}", "--label=group"]) == 2
    assert "was trained to predict 'bright'" in capsys.readouterr().err


def test_padding_and_masked_slices_have_no_influence_on_training(brightness, dataset, tmp_path):
    """Other pixels in a slice that is masked: the same loss and the same gradient."""
    task, _ = experiment.TASKS["probe"](config(brightness, tmp_path, **{"augment.probability": 0.0}), dataset)
    state = jax.jit(task.init)(task.pretrained)
    batch = next(task.train_batches)
    task.train_batches.close()
    assert not batch["slice_mask"].all()
    other = dict(batch, image=np.where(batch["slice_mask"][..., None, None, None], batch["image"], 255))
    step = jax.jit(task.stages[0][1])
    (_, a), (_, b) = (step(state, task.constants, x) for x in (batch, other))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


def test_the_first_prediction_is_the_mean(brightness, dataset, tmp_path):
    task, files = experiment.TASKS["probe"](config(brightness, tmp_path), dataset)
    state = jax.jit(task.init)(task.pretrained)
    outputs = [jax.device_get(jax.jit(task.evaluate)(state, task.constants, b)) for b in task.validation_batches()]
    summary = task.summarise(outputs)
    mean, val = 100 * FRACTION[TRAIN].mean(), 100 * FRACTION[SPLITS == "val"]
    assert summary["mae"] == pytest.approx(np.abs(val - mean).mean(), rel=1e-4)
    assert set(files) == {"preprocessing.json", "label.json"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": ""}, "label '' is no column"),
        ({"label": "rare"}, "every class needs two training subjects"),
        ({"freeze": "all"}, "config.freeze='all' is unknown: choose none or encoder"),
        ({"batch_size": 0}, "config.batch_size=0"),
        ({"model.encoder": "resnet19"}, "config.model.encoder='resnet19' is unknown"),
        ({"init_from": "runs/none"}, "no run and no checkpoint here"),
    ],
)
def test_wrong_configs_are_refused(brightness, dataset, tmp_path, settings, message):
    with pytest.raises(ValueError) as error:
        experiment.TASKS["probe"](config(brightness, tmp_path, **settings), dataset)
    assert message in str(error.value)


# labels

TRAIN = np.flatnonzero(SPLITS == "train")


def test_classes_are_those_that_occur_and_their_codes_go_on_without_gaps(dataset):
    made = Label.fit(dataset, "group", TRAIN)
    assert made.classes == ("low", "high") and made.outputs == 2
    expected = (dataset.table["group"] == "high").to_numpy(float)
    np.testing.assert_array_equal(made.encode(dataset.table), expected)
    assert Label.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_number_is_standardised_by_the_training_subjects_and_comes_back_in_its_unit(dataset):
    made = Label.fit(dataset, "bright", TRAIN)
    code = made.encode(dataset.table)
    assert code[TRAIN].mean() == pytest.approx(0, abs=1e-6) and code[TRAIN].std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(made.in_unit(code), 100 * FRACTION, rtol=1e-6)
    np.testing.assert_allclose(made.of_network(code[:, None]), 100 * FRACTION, rtol=1e-6)
    assert made.classes == () and Label.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_missing_labels_are_nan(dataset):
    code = Label.fit(dataset, "gappy", TRAIN).encode(dataset.table)
    np.testing.assert_array_equal(np.isnan(code), np.arange(N) % 5 == 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "'nonsense' is no column of the table"),
        ("rare", "'rare': every class needs two training subjects, and there are {'often': 11, 'once': 1}"),
        ("constant", "'constant' cannot be learned"),
        ("empty", "'empty' cannot be learned"),
    ],
)
def test_a_label_that_cannot_be_learned_is_refused_with_the_choices(dataset, name, message):
    with pytest.raises(ValueError) as error:
        Label.fit(dataset, name, TRAIN)
    assert message in str(error.value) and "choose among bright, group, gappy" in str(error.value)


def test_losses_by_hand():
    logits, code = np.array([[1.0, 2.0], [0.5, -0.5]]), np.array([0.0, 1.0])
    weights = np.array([0.5, 2.0], np.float32)
    expected = [
        0.5 * -np.log(np.exp(1) / (np.exp(1) + np.exp(2))),
        2 * -np.log(np.exp(-0.5) / (np.exp(0.5) + np.exp(-0.5))),
    ]
    losses = loss_per_subject(jnp.asarray(logits), jnp.asarray(code), jnp.asarray(weights), 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    values = loss_per_subject(jnp.array([[1.0], [2.0]]), jnp.array([0.5, 4.0]), jnp.ones(1), 0)
    np.testing.assert_allclose(values, [0.25, 4.0])
    weights = class_weights(np.array([0.0, 0, 0, 1]), 2)
    np.testing.assert_allclose(weights, [2 / 3, 2.0])
    assert weights[[0, 0, 0, 1]].mean() == pytest.approx(1)


# what the encoder was trained on


def chain(root: Path, **runs) -> Path:
    """Run directories without checkpoints' content, each started from the one before. Returns the
    last.
    """
    before = ""
    for name, about in runs.items():
        folder = root / name
        (folder / "checkpoints" / "1" / "state").mkdir(parents=True)
        config = {"init_from": before, "data": {"splits": about.get("splits", ["train"])}, **about.get("config", {})}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessing.json").write_text(json.dumps({"dataset_fingerprint": about.get("dataset", "this")}))
        if "columns" in about:
            (folder / "table.json").write_text(json.dumps({"schema": [{"name": n} for n in about["columns"]]}))
        before = str(folder / "checkpoints" / "1")
    return root / list(runs)[-1]


def test_columns_and_splits_of_earlier_runs_are_collected(tmp_path):
    run = chain(
        tmp_path,
        pretrain={"columns": ["bright", "group"], "config": {"table": {"label": "rare"}}, "splits": ["train", "test"]},
        shuffled={"columns": ["twin"], "config": {"table": {"control": "shuffled"}}},
        probe={"config": {"label": "gappy"}},
        last={"config": {"label": "constant"}, "splits": ["train", "val"], "dataset": "other"},
    )
    assert columns_given(run) == ("gappy", "bright", "group", "rare")
    assert set(trained_on(run, "this")) == {"train", "test"}
    assert trained_on(run, "other") == ("train", "val")
    shutil.rmtree(tmp_path / "probe")  # the history ends there
    assert columns_given(run) == ()


def test_a_label_seen_in_pretraining_is_reported(dataset, tmp_path):
    run = chain(tmp_path, a={"columns": ["bright", "twin"], "dataset": dataset.fingerprint, "splits": ["test"]})
    columns = {c.name: c for c in SCHEMA.columns}
    itself, derived, test_split = caveats(run, columns["bright"], dataset)
    assert "'bright' itself" in itself and "twin" in derived and "test subjects" in test_split
    assert caveats(run, columns["group"], dataset) == [test_split]

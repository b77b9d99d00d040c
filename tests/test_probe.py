"""Probes of a run made here, on a small dataset that was really prepared: brightness tells the label, and nothing else does."""

import io
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tensorboard.plugins.projector import projector_plugin as plugin

from configs import probe as probe_config
from configs import segment_sax
from morphojax import probe
from morphojax.data.geometry import Grid
from morphojax.data.sources.base import Frame, Subject, View
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.schema import Column, Schema
from morphojax.evaluation import prediction
from morphojax.inference import embed, probing
from morphojax.models.towers import mean_of_slices
from morphojax.tasks import experiment
from morphojax.tasks.probe import Label, class_weights, loss_per_subject
from morphojax.train import checkpoint
from morphojax.train.lineage import caveats, columns_given, trained_on
from morphojax.train.run import RunError
from tests.data.cohorts import AFFINE, label
from tests.data.preparing import prepare

N = 24
IDS = [f"secret{n:02d}" for n in range(N)]
SPLITS = np.array([("train", "train", "val", "test")[n % 4] for n in range(N)])
# A share of bright pixels, in turn low and high: percentiles of the stack leave that alone.
SHARE = np.array([0.1 + 0.3 * (n // 4 % 2) + 0.01 * n for n in range(N)])
SCHEMA = Schema(
    (
        Column("share", "continuous", "haemodynamic", "%", (), ("share",)),
        Column("group", "categorical", "medical_history", "", ("low", "absent", "high")),
        Column("gappy", "binary", "lifestyle"),
        Column("rare", "categorical", "lifestyle"),
        Column("constant", "binary", "lifestyle"),
        Column("empty", "continuous", "lifestyle"),
        Column("twin", "continuous", "haemodynamic", "%", (), ("share",)),
    )
)


class Cohort:
    root = Path("toy")
    frames = "phases"

    def subjects(self):
        return IDS

    def read(self, subject, planes):
        n = IDS.index(subject)
        frames = []
        for phase in ("ED", "ES") if n else ("ES",):  # the first subject has no ED
            random = np.random.default_rng((n, len(frames)))
            image = np.where(random.uniform(size=(20, 24, 2 + n % 3)) < SHARE[n], 100, 0).astype(np.float32)
            frames.append(Frame(phase, image, label(image.shape), AFFINE))
        return Subject(subject, {"sax": View("sax", tuple(frames), ("lv_cavity", "lv_myocardium", "rv_cavity"))})

    def table(self):
        gappy = [str(n // 4 % 2) if n % 5 else None for n in range(N)]
        columns = {
            "share": 100 * SHARE,
            "group": np.where(SHARE < 0.36, "low", "high"),
            "gappy": gappy,
            "rare": np.where(np.arange(N) == 4, "once", "often"),
            "constant": ["1"] * N,
            "empty": [np.nan] * N,
            "twin": 90 * SHARE,
        }
        return pd.DataFrame(columns, index=IDS), SCHEMA


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cohort")
    pd.DataFrame({"subject": IDS, "split": SPLITS}).to_csv(root / "split.csv", index=False)
    prepare(
        Cohort(), root / "out", name="toy", grid=Grid(1.5, 32), percentiles=(0.0, 100.0),
        split_file=root / "split.csv", workers=1, progress=False,
    )  # fmt: skip
    return root / "out"


@pytest.fixture(scope="module")
def dataset(data) -> Dataset:
    return Dataset.open(data)


COMMON = {"batch_size": 4, "log_every": 1, "images_every": 100, "save_every": 100, "model.width": 4, "steps": 1}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """A segmentation run of one step: any run has an encoder."""
    made, path = segment_sax.get_config(), tmp_path_factory.mktemp("runs") / "start"
    changes = {"data.dataset": str(data), "workdir": str(path), "model.decoder_widths": (4, 4, 4, 4), "eval_every": 0}
    made.update_from_flattened_dict(COMMON | changes | {"data.fraction": 1.0, "epochs": 0.0})
    assert experiment.run(made)
    return path


def config(data, path, **changes):
    made = probe_config.get_config()
    settings = {"data.dataset": str(data), "workdir": str(path), "epochs": 0.0, "eval_every": 1, "label": "share"}
    made.update_from_flattened_dict(COMMON | settings | {"input.slices": 3} | changes)
    return made


@pytest.fixture(scope="module")
def finetuned(data, run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "finetuned"
    assert experiment.run(config(data, path, init_from=str(run), steps=2))
    return path


@pytest.fixture(scope="module")
def encoder(run):
    return embed.load_encoder(run)


@pytest.fixture(scope="module")
def embeddings(encoder, dataset):
    return embed.embed(encoder, dataset, slices=3)


# embeddings


def test_an_embedding_is_the_mean_over_the_subjects_slices(encoder, dataset, embeddings):
    """Slice by slice, straight from the records; the subject without ED is left out, and the padding of the last batch too."""
    np.testing.assert_array_equal(embeddings.subject, np.arange(1, N))
    stacks = dataset.stacks("sax").query("phase == 'ED'").set_index("subject")
    for i in (1, 2, 3, N - 1):
        records = [dataset.slices("sax")[stacks["first"][i] + z]["image"] for z in range(stacks["slices"][i])][:3]
        if stacks["slices"][i] > 3:
            continue
        each = [encoder.apply(r[None, None, :, :, None], np.ones((1, 1), bool), ("sax",))[0] for r in records]
        np.testing.assert_allclose(embeddings.values[i - 1], np.mean(each, axis=0), rtol=1e-4, atol=1e-5)


def test_embeddings_do_not_depend_on_the_batch(encoder, dataset, embeddings):
    again = embed.embed(encoder, dataset, slices=3, batch_size=5, subjects=[3, 9, 20])
    np.testing.assert_array_equal(again.subject, [3, 9, 20])
    np.testing.assert_allclose(again.values, embeddings.values[[2, 8, 19]], rtol=1e-4, atol=1e-5)


def test_masked_slices_have_no_influence_and_none_gives_zero():
    pooled, mask = jnp.array([[[1.0], [3.0], [jnp.nan]], [[jnp.nan]] * 3]), jnp.array([[1, 1, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(mean_of_slices(pooled, mask), [[2.0], [0.0]])


def test_frames_stand_side_by_side_for_those_who_have_them_all(encoder, dataset, embeddings):
    both = embed.embed_frames(encoder, dataset, ("ES", "ED"), slices=3)
    np.testing.assert_array_equal(both.subject, embeddings.subject)
    width = embeddings.values.shape[1]
    np.testing.assert_allclose(both.values[:, width:], embeddings.values, rtol=1e-5)
    assert not np.allclose(both.values[:, :width], embeddings.values)
    first = embed.embed(encoder, dataset, frames=("ED", "ES"), slices=3)  # the first that a subject has
    np.testing.assert_array_equal(first.subject, np.arange(N))


def test_the_encoder_is_that_of_the_checkpoint(run, encoder):
    stored = checkpoint.load_params(run, "last")
    jax.tree.map(np.testing.assert_array_equal, encoder.variables["params"]["encoder"], stored["params"]["encoder"])


def test_another_architecture_is_told(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    described = json.loads((run / "config.json").read_text())
    described["model"]["encoder"] = "resnet34"
    (tmp_path / "run" / "config.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="encoder is not the one"):
        embed.load_encoder(tmp_path / "run")
    del described["model"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="not as a run writes it"):
        embed.load_encoder(tmp_path / "run")


def test_what_is_exported_is_what_the_projector_and_pandas_read(dataset, embeddings, tmp_path):
    embed.export(tmp_path, embeddings, dataset, ["group", "gappy"])
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes()
    table = pd.read_parquet(io.BytesIO((tmp_path / "embeddings.parquet").read_bytes()))
    np.testing.assert_array_equal(table[[c for c in table if c.startswith("e")]].to_numpy(), embeddings.values)
    assert table["subject"].tolist() == embeddings.subject.tolist()
    assert table["split"].tolist() == SPLITS[embeddings.subject].tolist()
    assert table["group"].tolist() == dataset.table["group"][1:].tolist()
    text = plugin.ProjectorConfig()
    plugin.text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), text)
    tensors = plugin._read_tensor_tsv_file(str(tmp_path / text.embeddings[0].tensor_path))
    np.testing.assert_allclose(tensors, embeddings.values, rtol=1e-5)
    rows = pd.read_csv(tmp_path / text.embeddings[0].metadata_path, sep="\t")
    assert len(rows) == len(embeddings.subject) and list(rows) == ["subject", "split", "group", "gappy"]


# labels

TRAIN = np.flatnonzero(SPLITS == "train")


def test_classes_are_those_that_occur_and_their_codes_go_on_without_gaps(dataset):
    made = Label.fit(dataset, "group", TRAIN)
    assert made.classes == ("low", "high") and made.outputs == 2
    expected = (dataset.table["group"] == "high").to_numpy(float)
    np.testing.assert_array_equal(made.encode(dataset.table), expected)
    assert Label.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_number_is_standardised_by_the_training_subjects_and_comes_back_in_its_unit(dataset):
    made = Label.fit(dataset, "share", TRAIN)
    code = made.encode(dataset.table)
    assert code[TRAIN].mean() == pytest.approx(0, abs=1e-6) and code[TRAIN].std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(made.in_unit(code), 100 * SHARE, rtol=1e-6)
    np.testing.assert_allclose(made.of_network(code[:, None]), 100 * SHARE, rtol=1e-6)
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
def test_a_label_that_cannot_be_learned_is_told_with_the_choices(dataset, name, message):
    with pytest.raises(ValueError) as error:
        Label.fit(dataset, name, TRAIN)
    assert message in str(error.value) and "choose among share, group, gappy" in str(error.value)


def test_losses_by_hand():
    logits, code = np.array([[1.0, 2.0], [0.5, -0.5]]), np.array([0.0, 1.0])
    weights = np.array([0.5, 2.0], np.float32)
    expected = [
        0.5 * -np.log(np.exp(1) / (np.exp(1) + np.exp(2))),
        2 * -np.log(np.exp(-0.5) / (np.exp(0.5) + np.exp(-0.5))),
    ]
    found = loss_per_subject(jnp.asarray(logits), jnp.asarray(code), jnp.asarray(weights), 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    values = loss_per_subject(jnp.array([[1.0], [2.0]]), jnp.array([0.5, 4.0]), jnp.ones(1), 0)
    np.testing.assert_allclose(values, [0.25, 4.0])
    weights = class_weights(np.array([0.0, 0, 0, 1]), 2)
    np.testing.assert_allclose(weights, [2 / 3, 2.0])
    assert weights[[0, 0, 0, 1]].mean() == pytest.approx(1)


# probes of the frozen encoder


def informative(n_dimensions=3):
    """Embeddings that tell the share, of everyone but the first subject."""
    noise = np.random.default_rng(0).normal(size=(N, n_dimensions - 1))
    values = np.concatenate([SHARE[:, None], noise], axis=1)[1:]
    return embed.Embeddings(np.arange(1, N), values.astype(np.float32))


def test_a_probe_is_fitted_to_training_subjects_and_scores_test_subjects(dataset):
    result = probing.probe(dataset, "share", informative())
    test = np.flatnonzero(SPLITS == "test")
    np.testing.assert_array_equal(result.subject, test)
    np.testing.assert_allclose(result.target, 100 * SHARE[test], rtol=1e-6)
    assert dict(result.subjects) == {"train": 11, "val": 6, "test": 6, "left_out": 1}
    np.testing.assert_allclose(result.predicted["linear"], result.target, atol=3)
    found = probing.scores(result)
    assert found["linear"]["r"].mean > 0.95 and found["linear"]["mae"].mean < found["constant"]["mae"].mean
    train_mean = 100 * SHARE[TRAIN][1:].mean()  # the first has no embedding
    assert found["constant"]["mae"].mean == pytest.approx(np.abs(result.target - train_mean).mean(), rel=1e-5)


def test_test_values_never_reach_a_probe(dataset):
    """Spoilt test labels change the targets, and not one prediction."""
    spoilt = dataset.table.copy()
    spoilt.loc[SPLITS == "test", "share"] = 1e3
    other = Dataset(dataset.root, dataset.manifest, dataset.subjects, dataset.splits, spoilt, dataset._stacks)
    a, b = (probing.probe(d, "share", informative()) for d in (dataset, other))
    for kind in prediction.SETTINGS:
        np.testing.assert_array_equal(a.predicted[kind], b.predicted[kind])
    assert (b.target > 900).all()


def test_missing_labels_are_left_out_and_counted(dataset):
    result = probing.probe(dataset, "gappy", informative())
    with_label = (np.arange(N) % 5 != 0) & (np.arange(N) > 0)
    expected = {split: int((with_label & (split == SPLITS)).sum()) for split in ("train", "val", "test")}
    assert dict(result.subjects) == {**expected, "left_out": N - sum(expected.values())}
    assert set(result.target) <= {0, 1} and result.predicted["knn"].shape == (expected["test"], 2)


def test_few_labels_are_a_share_of_the_training_subjects(dataset):
    half = probing.probe(dataset, "share", informative(), fraction=0.5)
    assert 4 <= half.subjects["train"] <= 6 and half.subjects["test"] == 6
    with pytest.raises(ValueError, match="'share'"):
        probing.probe(dataset, "share", informative(), fraction=0.01)


def test_a_test_split_without_labels_is_told(dataset):
    kept = informative()
    rest = SPLITS[kept.subject] != "test"
    with pytest.raises(probing.ProbeError, match="no test subject has 'share'"):
        probing.probe(dataset, "share", embed.Embeddings(kept.subject[rest], kept.values[rest]))


# the command


def test_the_command_writes_what_it_says(run, data, capsys):
    assert probe.main([f"--run={run}", "--label=group", "--slices=2", "--frames=ED,ES"]) == 0
    folder = run / "probe" / "group"
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
    out = capsys.readouterr().out
    assert "AUC" in out and "1 subjects left out" in out
    assert "secret" not in out + (folder / "scores.json").read_text() + (folder / "predictions.csv").read_text()


def test_a_number_is_reported_in_its_unit(run, tmp_path, capsys):
    assert probe.main([f"--run={run}", "--label=share", "--slices=2", f"--output={tmp_path}", "--fraction=0.6"]) == 0
    rows = pd.read_csv(tmp_path / "predictions.csv").query("probe == 'linear'")
    np.testing.assert_allclose(rows["reference"], 100 * SHARE[rows["subject"]], rtol=1e-4)
    scores = json.loads((tmp_path / "scores.json").read_text())["probes"]["linear"]["scores"]
    assert scores["mae"]["value"] == pytest.approx(np.abs(rows["predicted"] - rows["reference"]).mean(), rel=1e-3)
    assert (tmp_path / "scatter.png").exists() and "%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --label=COLUMN"),
        (["--label=nonsense"], "choose among share, group"),
        (["--label=share", "--frames=EDS"], "--frames=EDS"),
        (["--label=share", "--fraction=0"], "fraction=0.0"),
        (["--label=share", "--slices=0"], "slices=0"),
        (["--label=share", "--dataset=nowhere"], "nowhere"),
    ],
)
def test_what_a_command_has_wrong_is_told(run, arguments, message, capsys):
    assert probe.main([f"--run={run}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_run_is_told(tmp_path, capsys):
    assert probe.main([f"--run={tmp_path}", "--label=share"]) == 2
    assert "no run and no checkpoint here" in capsys.readouterr().err


# training the encoder along with the head


def test_finetuning_moves_the_encoder_and_logs_its_measures(run, finetuned):
    before, after = (checkpoint.load_params(path, "last") for path in (run, finetuned))
    pairs = zip(*(jax.tree.leaves(v["params"]["encoder"]) for v in (before, after)), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)
    logged = [json.loads(line) for line in (finetuned / "metrics.jsonl").read_text().splitlines()]
    assert {"val/loss", "val/mae", "val/r", "train/loss", "train/grad_norm/head"} <= {n for row in logged for n in row}
    assert [row for row in logged if "val/mae" in row][-1]["val/mae"] > 1  # in the unit, not in standard deviations


def test_a_frozen_encoder_stays_and_its_head_learns(data, run, tmp_path):
    settings = {"freeze": "encoder", "label": "group", "steps": 2, "optimizer.warmup": 0.0}
    assert experiment.run(config(data, tmp_path / "run", init_from=str(run), **settings))
    before, after = (checkpoint.load_params(path, "last") for path in (run, tmp_path / "run"))
    for kind in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, before[kind]["encoder"], after[kind]["encoder"])
    assert after["params"]["head"]["kernel"].shape[1] == 2 and np.abs(after["params"]["head"]["kernel"]).max() > 0


def test_the_command_scores_what_was_trained(data, finetuned, dataset, capsys):
    """Predictions equal the validation step's on the same subjects: they share encoder, pooling and head."""
    assert probe.main([f"--run={finetuned}"]) == 0
    found = pd.read_csv(finetuned / "probe" / "share" / "predictions.csv")
    assert (
        found["probe"].unique() == ["network"]
        and found["subject"].tolist() == np.flatnonzero(SPLITS == "test").tolist()
    )
    task, _ = experiment.TASKS["probe"](config(data, finetuned, init_from=""), dataset)
    state = jax.eval_shape(task.init, {})
    best = checkpoint.load_params(finetuned, "best")
    state = state.replace(params=best["params"], batch_stats=best["batch_stats"])
    encoder = embed.load_encoder(finetuned, "best")
    batch = next(iter(task.eval_batches()))
    output = jax.jit(task.eval_step)(state, task.constants, batch)["output"]
    pooled = encoder.apply(batch["image"], batch["slice_mask"], ("sax", "sax"))
    expected = pooled @ best["params"]["head"]["kernel"] + best["params"]["head"]["bias"]
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-5)
    assert "network" in capsys.readouterr().out
    assert probe.main([f"--run={finetuned}", "--label=group"]) == 2
    assert "was trained to predict 'share'" in capsys.readouterr().err


def test_padding_and_masked_slices_have_no_influence_on_training(data, dataset, tmp_path):
    """Other pixels in a slice that is masked: the same loss and the same gradient."""
    task, _ = experiment.TASKS["probe"](config(data, tmp_path, **{"augment.probability": 0.0}), dataset)
    state = jax.jit(task.init)(task.pretrained)
    batch = next(task.train_batches)
    task.train_batches.close()
    assert not batch["slice_mask"].all()
    other = dict(batch, image=np.where(batch["slice_mask"][..., None, None, None], batch["image"], 255))
    step = jax.jit(task.phases[0][1])
    (_, a), (_, b) = (step(state, task.constants, x) for x in (batch, other))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


def test_the_first_prediction_is_the_mean(data, dataset, tmp_path):
    task, files = experiment.TASKS["probe"](config(data, tmp_path), dataset)
    state = jax.jit(task.init)(task.pretrained)
    outputs = [jax.device_get(jax.jit(task.eval_step)(state, task.constants, b)) for b in task.eval_batches()]
    summary = task.summarise(outputs)
    mean, val = 100 * SHARE[TRAIN].mean(), 100 * SHARE[SPLITS == "val"]
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
def test_what_a_config_has_wrong_is_told(data, dataset, tmp_path, settings, message):
    with pytest.raises(ValueError) as error:
        experiment.TASKS["probe"](config(data, tmp_path, **settings), dataset)
    assert message in str(error.value)


# what the encoder has seen


def chain(root: Path, **runs) -> Path:
    """Run directories without checkpoints' content, each started from the one before. Returns the last."""
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


def test_what_the_encoder_was_given_is_found_along_its_history(tmp_path):
    run = chain(
        tmp_path,
        pretrain={"columns": ["share", "group"], "config": {"table": {"label": "rare"}}, "splits": ["train", "test"]},
        shuffled={"columns": ["twin"], "config": {"table": {"control": "shuffled"}}},
        probe={"config": {"label": "gappy"}},
        last={"config": {"label": "constant"}, "splits": ["train", "val"], "dataset": "other"},
    )
    assert columns_given(run) == ("gappy", "share", "group", "rare")
    assert set(trained_on(run, "this")) == {"train", "test"}
    assert trained_on(run, "other") == ("train", "val")
    shutil.rmtree(tmp_path / "probe")  # the history ends there
    assert columns_given(run) == ()


def test_a_label_seen_in_pretraining_is_told(dataset, tmp_path):
    run = chain(tmp_path, a={"columns": ["share", "twin"], "dataset": dataset.fingerprint, "splits": ["test"]})
    columns = {c.name: c for c in SCHEMA.columns}
    itself, kin, unseen = caveats(run, columns["share"], dataset)
    assert "'share' itself" in itself and "twin" in kin and "test subjects" in unseen
    assert caveats(run, columns["group"], dataset) == [unseen]

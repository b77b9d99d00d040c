"""Pretraining by every objective: what its terms are given, what they do to the state, and what is
refused.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from configs import pretrain_arm, segment_sax
from morphojax import augment
from morphojax.data.store.dataset import Dataset
from morphojax.data.tables.schema import Column, Schema
from morphojax.tasks import experiment
from morphojax.tasks.common import Subjects
from morphojax.tasks.pretrain import build as pretrain
from morphojax.tasks.pretrain import objectives as registry
from morphojax.tasks.pretrain import rows
from morphojax.tasks.pretrain.inputs import Inputs
from morphojax.tasks.pretrain.objectives import geometry
from morphojax.tasks.pretrain.objectives.base import BatchInfo, Objective
from morphojax.tasks.pretrain.objectives.pairs import Pairs
from morphojax.tasks.pretrain.task import PretrainSpec, summarise
from morphojax.tasks.segment import build as segment
from morphojax.train import checkpoint
from tests.tasks import synthetic
from tests.tasks.tiny import PRETRAIN, SEGMENT, moved

SMALL = PRETRAIN | {"steps": 2, "eval_every": 2, "dynamics_every": 1}
HEADS = {
    "byol": {"hidden_units": 8, "features": 8},
    "simsiam": {"hidden_units": 8, "features": 8, "predictor_hidden_units": 4},
    "barlow_twins": {"hidden_units": 8, "features": 8},
    "vicreg": {"hidden_units": 8, "features": 8},
    "swav": {"hidden_units": 8, "features": 8, "prototypes": 4},
    "masked_patches": {"width": 8, "depth": 1, "heads": 2},
    "match": {"width": 8},
    "cross_columns": {"width": 8, "heads": 2},
}


@pytest.fixture(scope="module")
def data() -> Path:
    return synthetic.dataset()


def arm(name: str, folder: Path, run: Path, **changes):
    """The config of an arm, made small."""
    made = pretrain_arm.get_config(name)
    for objective, settings in HEADS.items():
        if objective in made.objectives:
            made.objectives[objective].update(settings)
    settings = SMALL | {"data.dataset": str(folder), "workdir": str(run), "model.decoder_widths": (4, 4, 4, 4)}
    settings |= {"model.table.transformer": {"width": 8, "layers": 1, "heads": 2}}
    if made.table.label:
        settings["table.label"] = "sex"
    if name == "masked_patches":
        settings |= {"model.encoder": "vit_tiny", "model.width": 8}
    made.update_from_flattened_dict(settings | changes)
    return made


def built(made):
    task, _ = pretrain.build(made, Dataset.open(made.data.dataset))
    return task, jax.jit(task.init)(task.pretrained), next(task.train_batches)


# The others' dynamics: -m slow, where every arm is run.
TRACED_DYNAMICS = ("info_nce", "info_nce_cross", "byol", "masked_patches")


@pytest.mark.parametrize("name", pretrain_arm.OBJECTIVES)
def test_every_arm_is_a_whole_task(name: str, data: Path, tmp_path: Path) -> None:
    """By shapes alone, which is quick: step, validation and, of some, dynamics."""
    dynamics = name in TRACED_DYNAMICS
    made = arm(name, data, tmp_path, dynamics_every=int(dynamics))
    task, _ = pretrain.build(made, Dataset.open(data))
    state, batch = jax.eval_shape(task.init, task.pretrained), next(task.train_batches)
    task.train_batches.close()
    after, metrics = jax.eval_shape(task.stages[0][1], state, task.constants, batch)
    jax.eval_shape(task.evaluate, state, task.constants, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert task.best == ("loss", False)  # the lowest loss
    found = jax.eval_shape(task.diagnose, state, task.constants, batch) if dynamics else {}
    for objective in pretrain_arm.OBJECTIVES[name]:
        assert f"{objective}/loss" in metrics and (f"grad_norm/{objective}" in found) == dynamics


@pytest.mark.slow  # test_main.py runs info_nce, and the tests here the steps of others
@pytest.mark.parametrize("name", pretrain_arm.OBJECTIVES)
def test_every_arm_trains(name: str, data: Path, tmp_path: Path) -> None:
    """The whole program: the encoder that should move moves, and everything that is logged is a
    number.
    """
    made = arm(name, data, tmp_path / "run")
    assert experiment.run(made)
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    for objective in pretrain_arm.OBJECTIVES[name]:
        for found in (f"train/{objective}/loss", f"val/{objective}/loss", f"dynamics/grad_norm/{objective}"):
            assert f'"{found}"' in logged
    assert "NaN" not in logged and "null" not in logged
    if name == "info_nce_cross":
        assert '"dynamics/grad_cosine/cross_columns_info_nce"' in logged or "info_nce_cross_columns" in logged
        assert '"dynamics/column/lv_edv"' in logged and '"dynamics/rank_table_features"' in logged
    if name != "masked_patches":
        assert '"dynamics/rank_image_features"' in logged
    task, _ = pretrain.build(made, Dataset.open(data))
    before, after = jax.jit(task.init)(task.pretrained).variables, checkpoint.load_variables(tmp_path / "run", "last")
    assert moved(before, after, "params", "table_encoder" if name in ("scarf", "masked_columns") else "encoder")


def test_dynamics_see_the_gradient_of_the_step(data: Path, tmp_path: Path) -> None:
    # BatchNorm of so few values makes so steep a loss that rounding alone moves the gradient by
    # half a percent.
    task, state, batch = built(arm("info_nce", data, tmp_path, **{"model.norm": "group"}))
    found = jax.jit(task.diagnose)(state, task.constants, batch)
    _, metrics = jax.jit(task.stages[0][1])(state, task.constants, batch)
    task.train_batches.close()
    np.testing.assert_allclose(found["grad_norm/info_nce"], metrics["grad_norm/encoder"], rtol=1e-4)
    shares = [v for name, v in found.items() if name.startswith("column/")]
    assert len(shares) > 20 and np.isclose(sum(shares), 1) and min(shares) >= 0


def convolutions(jaxpr, looped: bool = False) -> Iterator[bool]:
    """Of every convolution of a program, whether it is within a loop."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield looped
        within = looped or equation.primitive.name in ("scan", "while")
        for inner in jaxprs_in_params(equation.params):
            yield from convolutions(inner, within)


def test_dynamics_of_several_objectives_loop_over_no_convolution(data: Path, tmp_path: Path) -> None:
    """XLA's CPU computes one within a loop some twenty times slower."""
    task, _ = pretrain.build(arm("info_nce_regression", data, tmp_path), Dataset.open(data))
    state, batch = jax.eval_shape(task.init, task.pretrained), next(task.train_batches)
    task.train_batches.close()
    found = list(convolutions(jax.make_jaxpr(task.diagnose)(state, task.constants, batch).jaxpr))
    assert found and not any(found)


def test_subjects_that_train_do_not_validate(data: Path, tmp_path: Path) -> None:
    made = arm("info_nce", data, tmp_path, **{"data.splits": ("train", "val")})
    task, _ = pretrain.build(made, Dataset.open(data))
    task.train_batches.close()
    assert task.validation_batches is None


def test_subjects_of_the_validation_split_validate(data: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(data)
    task, _ = pretrain.build(arm("info_nce", data, tmp_path), dataset)
    task.train_batches.close()
    assert task.validation_batches is not None
    seen = {s for batch in task.validation_batches() for s in batch["subject"][batch["valid"]].tolist()}
    assert seen and set(dataset.splits[sorted(seen)]) == {"val"}


def test_a_probe_learns_and_chooses_nothing(data: Path, tmp_path: Path) -> None:
    """It is part of what is trained, and of no loss that picks a checkpoint; the encoder's gradient
    is as without it.
    """
    made = arm("info_nce", data, tmp_path, **{"table.label": "sex"})
    made.objectives = {"info_nce": made.objectives.info_nce.to_dict(), "probe": {"weight": 5.0}}
    task, state, batch = built(made)
    after, metrics = jax.jit(task.stages[0][1])(state, task.constants, batch)
    assert moved(state.variables, after.variables, "params", "heads_probe")
    assert task.validation_batches is not None
    outputs = [jax.device_get(jax.jit(task.evaluate)(state, task.constants, b)) for b in task.validation_batches()]
    scalars = task.summarise(outputs)
    assert scalars["loss"] == scalars["info_nce/loss"] and scalars["probe/loss"] > 0
    found = jax.jit(task.diagnose)(state, task.constants, batch)
    assert float(found["grad_norm/probe"]) == 0 and float(metrics["grad_norm/heads_probe"]) > 0
    task.train_batches.close()


def test_the_byol_target_is_an_average_on_its_own_schedule(data: Path, tmp_path: Path) -> None:
    made = arm("byol", data, tmp_path)
    made.objectives.byol.momentum = 0.75
    task, state, batch = built(made)
    jax.tree.map(np.testing.assert_array_equal, state.ema["params"], state.params)
    step = jax.jit(task.stages[0][1])
    after, metrics = step(state, task.constants, batch)
    task.train_batches.close()
    # The targets are those of the average: where it differs, so does the loss.
    teacher = jax.tree.map(lambda x: x + jnp.sin(1.0 + jnp.arange(x.size)).reshape(x.shape), state.ema)
    _, other = step(state.replace(ema=teacher), task.constants, batch)
    assert abs(float(other["byol/loss"]) - float(metrics["byol/loss"])) > 1e-3
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, state.ema["params"], after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.ema["params"], expected)
    assert not np.array_equal(*(jax.tree.leaves(x["encoder"])[0] for x in (after.ema["params"], after.params)))


def test_one_schedule_of_ema_weights(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.ema.decay: an objective here keeps EMA weights on its own schedule"):
        pretrain.build(arm("byol", data, tmp_path, **{"ema.decay": 0.9}), Dataset.open(data))


@pytest.mark.slow
def test_two_stages_and_their_transfer(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Global contrast, then local contrast of a decoder on the frozen encoder, then segmentation
    from both.
    """
    assert experiment.run(arm("position", data, tmp_path / "first"))
    second = arm("regional", data, tmp_path / "second", init_from=str(tmp_path / "first"), freeze="encoder")
    task, state, batch = built(second)
    after, _ = jax.jit(task.stages[0][1])(state, task.constants, batch)
    task.train_batches.close()
    assert moved(state.variables, after.variables, "params", "decoder")
    assert not moved(state.variables, after.variables, "params", "encoder")
    assert not moved(state.variables, after.variables, "batch_stats", "encoder")
    assert experiment.run(second)
    capsys.readouterr()
    made = segment_sax.get_config()
    made.update_from_flattened_dict(
        SEGMENT | {"data.dataset": str(data), "workdir": str(tmp_path / "third"), "init_from": str(tmp_path / "second")}
    )
    task, _ = segment.build(made, Dataset.open(data))
    assert "arrays of: decoder, encoder" in capsys.readouterr().out
    assert any(name.startswith("params/decoder/") for name in task.pretrained)


def test_validation_is_of_the_whole_set_whatever_the_batch(data: Path, tmp_path: Path) -> None:
    def validation(batch_size: int) -> dict[str, float]:
        made = arm("info_nce", data, tmp_path, batch_size=batch_size)
        task, state, _ = built(made)
        assert task.validation_batches is not None
        outputs = [jax.device_get(jax.jit(task.evaluate)(state, task.constants, b)) for b in task.validation_batches()]
        task.train_batches.close()
        return task.summarise(outputs)

    two, three = validation(2), validation(3)
    assert two.keys() == three.keys() and two["info_nce/loss"] > 0
    for name, value in two.items():
        assert three[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_the_mean_over_validation_batches_weighs_subjects_alike() -> None:
    def batch(loss: float, valid: list[bool]) -> dict:
        info = {name: jnp.zeros(2) for name in BatchInfo._fields} | {"valid": np.array(valid)}
        return {"outputs": {}, "info": BatchInfo(**info), "by_batch": {"x": (np.float32(loss), {})}}

    objective = Objective(2.0, None, lambda out, info: (jnp.float32(0), {}), whole_validation_set=False)
    spec = Mock(PretrainSpec, objectives={"x": objective})
    found = summarise([batch(1.0, [True, True]), batch(4.0, [True, False])], spec)
    assert found == pytest.approx({"x/loss": 2.0, "loss": 4.0})


# What the towers are given.

BATCH = {
    "image": np.random.default_rng(0).integers(0, 255, (4, 2, 16, 16, 1)).astype(np.uint8),
    "slice_mask": np.ones((4, 2), bool),
    "position": np.zeros((4, 2), np.float32),
    "values": np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32),
    "missing": np.zeros((4, 6), bool),
    "subject": np.array([3, 1, 3, 0], np.int32),
    "valid": np.array([True, True, True, False]),
}
CONSTANTS = {
    "values": np.full((5, 6), 9, np.float32),
    "missing": np.zeros((5, 6), bool),
    "label": np.array([0, 1, -1, 2], np.int32),
}


def inputs(**changes) -> Inputs:
    shift = augment.Augmentation(translation_fraction=0.2, noise_sd=0.1)
    settings = dict(
        seed=0, views=2, aligned=False, rows=(), augmentation=shift, corruption_fraction=0.5, mask_fraction=0.5
    )
    return Inputs(**settings | changes)


def test_views_are_draws_of_their_own_and_validation_sees_the_image_itself() -> None:
    views = np.asarray(inputs().images(BATCH, jnp.int32(7)))
    assert views.shape == (4, 2, 2, 16, 16, 1)
    assert not np.allclose(views[:, 0], views[:, 1])
    assert not np.allclose(views, inputs().images(BATCH, jnp.int32(8)))
    np.testing.assert_array_equal(views[:, :1], inputs(views=1).images(BATCH, jnp.int32(7)))
    plain = BATCH["image"].astype(np.float32) / 255
    np.testing.assert_allclose(inputs().images(BATCH, None)[:, 0], plain, rtol=1e-6)
    assert not np.allclose(inputs().images(BATCH, None)[:, 1], plain)


def test_aligned_views_differ_in_intensity_only() -> None:
    warped = inputs(aligned=True, augmentation=augment.Augmentation(translation_fraction=0.2))
    views = np.asarray(warped.images(BATCH, jnp.int32(7)))
    np.testing.assert_array_equal(views[:, 0], views[:, 1])
    assert not np.allclose(views[:, 0], BATCH["image"] / 255)
    noisy = np.asarray(inputs(aligned=True).images(BATCH, jnp.int32(7)))
    assert 0 < np.abs(noisy[:, 0] - noisy[:, 1]).mean() < 0.2
    assert not np.allclose(inputs(aligned=True).images(BATCH, None)[:, 1], BATCH["image"] / 255)


def test_variants_of_the_rows() -> None:
    everything = inputs(rows=("augmented", "clean", "corrupted", "masked"))
    rows, withheld = everything.table(BATCH, CONSTANTS, jnp.int32(3))
    changed = {name: (np.asarray(row[0]) != BATCH["values"]).sum(1).tolist() for name, row in rows.items()}
    assert changed == {"augmented": [3] * 4, "clean": [0] * 4, "corrupted": [3] * 4, "masked": [0] * 4}
    assert not np.array_equal(rows["augmented"][0], rows["corrupted"][0])
    np.testing.assert_array_equal(rows["masked"][2], withheld)
    assert np.asarray(withheld).sum(1).tolist() == [3] * 4
    assert not any(np.asarray(rows[name][2]).any() for name in ("augmented", "clean", "corrupted"))
    rows, _ = everything.table(BATCH, CONSTANTS, None)
    np.testing.assert_array_equal(rows["augmented"][0], BATCH["values"])
    assert (np.asarray(rows["corrupted"][0]) != BATCH["values"]).any()


def test_batch_info_and_negatives() -> None:
    info = inputs().info(BATCH, CONSTANTS, np.zeros((4, 6), bool))
    assert np.asarray(info.label).tolist() == [2, 1, 2, 0]
    assert np.asarray(info.valid_slices).tolist() == [True] * 6 + [False] * 2
    assert np.asarray(info.of_slices(info.subject)).tolist() == [3, 3, 1, 1, 3, 3, 0, 0]
    negatives = np.asarray(inputs().negatives(BATCH))
    expected = np.zeros((4, 4), bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True  # 0 and 2 are one subject, 3 is padding
    np.testing.assert_array_equal(negatives, expected)


# The table of a config, and its controls.

TABLE = dict(
    seed=0, groups="all", without_leaks_for="", label="", control="none", corruption_fraction=0.3, mask_fraction=0.5
)


def test_shuffled_rows_are_another_subjects_of_the_same_split(data: Path) -> None:
    dataset = Dataset.open(data)
    train = np.flatnonzero(dataset.splits == "train")
    own = rows.read(dataset, train, **TABLE)
    other = rows.read(dataset, train, **(TABLE | {"control": "shuffled"}))
    labelled, handed = (
        rows.read(dataset, train, **(TABLE | {"label": "sex", "control": c})) for c in ("none", "shuffled")
    )
    at = [np.flatnonzero((own.values == row).all(1)).item() for row in handed.values]
    assert handed.label.tolist() == labelled.label[at].tolist()  # the label goes with the row
    for split in ("train", "val"):
        at = np.flatnonzero(dataset.splits == split)
        if len(at) > 1:
            assert not (own.values[at] == other.values[at]).all(1).any()
        assert sorted(map(tuple, own.values[at])) == sorted(map(tuple, other.values[at]))


def test_only_training_rows_set_the_scale_and_corrupt(data: Path) -> None:
    dataset = Dataset.open(data)
    train, spoilt = np.flatnonzero(dataset.splits == "train"), dataset.table.copy()
    numbers = [c.name for c in dataset.schema.columns if c.kind == "continuous"]
    spoilt.loc[dataset.splits != "train", numbers] *= 3
    other = Dataset(dataset.root, dataset.manifest, dataset.subjects, dataset.splits, spoilt, dataset._stacks)
    own, found = (rows.read(d, train, **TABLE) for d in (dataset, other))
    assert not np.array_equal(own.values, found.values)
    np.testing.assert_array_equal(own.values[train], found.values[train])
    constants = own.constants(train)  # of other rows, none is drawn to corrupt a row
    np.testing.assert_array_equal(constants["values"], own.values[train])
    np.testing.assert_array_equal(constants["missing"], own.missing[train])


def test_only_training_rows_give_the_label_its_classes(brightness: Path) -> None:
    """One subject of the cohort has another class of `rare` than all the others."""
    dataset, settings = Dataset.open(brightness), TABLE | {"label": "rare", "groups": "haemodynamic"}
    one = np.flatnonzero(dataset.table["rare"] == "once")
    rest = np.setdiff1d(np.flatnonzero(dataset.splits == "train"), one)
    assert rows.read(dataset, np.append(rest, one), **settings).classes == ("often", "once")
    with pytest.raises(ValueError, match="rare"):
        rows.read(dataset, rest, **settings)


def test_noise_is_of_the_same_size_and_says_nothing(data: Path) -> None:
    dataset = Dataset.open(data)
    train = np.flatnonzero(dataset.splits == "train")
    own = rows.read(dataset, train, **TABLE)
    noise = rows.read(dataset, train, **(TABLE | {"control": "noise"}))
    assert noise.values.shape == own.values.shape and own.missing.any() and not noise.missing.any()
    assert noise.cardinalities == own.cardinalities
    codes = noise.values[:, [k > 1 for k in noise.cardinalities]]
    assert (codes == codes.astype(int)).all()
    continuous = [k == 1 for k in noise.cardinalities]
    assert abs(np.corrcoef(own.values[:, continuous].ravel(), noise.values[:, continuous].ravel())[0, 1]) < 0.5


def test_missing_numbers_may_be_told_from_the_row(data: Path) -> None:
    dataset = Dataset.open(data)
    train = np.flatnonzero(dataset.splits == "train")
    mean, told = (rows.read(dataset, train, **(TABLE | {"imputation": i})) for i in ("mean", "iterative"))
    assert (mean.missing == told.missing).all() and "imputer" in told.to_json() and "imputer" not in mean.to_json()
    np.testing.assert_array_equal(mean.values[~mean.missing], told.values[~mean.missing])
    assert (mean.values[mean.missing] != told.values[mean.missing]).any()
    with pytest.raises(ValueError, match="imputation='median' is unknown: choose one of mean, iterative"):
        rows.read(dataset, train, **(TABLE | {"imputation": "median"}))


def test_without_a_table_there_are_no_columns(data: Path) -> None:
    none = rows.read(Dataset.open(data), np.arange(3), **(TABLE | {"groups": "none"}))
    assert none.values.shape == (16, 0) and none.cardinalities == () and none.to_json() == {}


def test_only_subjects_without_any_value_are_left_out() -> None:
    missing = np.array([[False, False], [True, False], [True, True]])
    table = rows.Table(None, np.zeros((3, 2), np.float32), missing, np.zeros(3, np.int32), ())
    kept = table.with_rows(Subjects(np.arange(3), np.array([1, 2]), np.arange(3)))
    assert kept.train.tolist() == kept.pool.tolist() == [0, 1] and kept.validation.tolist() == [1]


def test_labels(data: Path) -> None:
    dataset = Dataset.open(data)
    train = np.flatnonzero(dataset.splits == "train")
    table = rows.read(dataset, train, **(TABLE | {"label": "sex"}))
    assert [table.classes[i] for i in table.label] == dataset.table["sex"].tolist()


def test_positives_and_negatives_of_every_choice() -> None:
    """Subjects 0 and 1 have one label and nearly one row; subject 2 has another of both; row 3 is
    subject 0 again.
    """
    values = np.array([[0.0, 1], [0.05, 1], [3, 2], [0, 1]], np.float32)
    info = registry.BatchInfo(
        subject=jnp.array([0, 1, 2, 0]), valid=jnp.ones(4, bool), slice_mask=jnp.ones((4, 1), bool), position=jnp.zeros((4, 1)),
        values=jnp.asarray(values), missing=jnp.zeros((4, 2), bool), masked=jnp.zeros((4, 2), bool), label=jnp.array([1, 1, 0, 1]),
    )  # fmt: skip
    labelled = dataclasses.replace(CONTEXT, classes=("well", "ill"))

    def found(**settings) -> tuple[np.ndarray | None, np.ndarray]:
        positives, negatives = Pairs(**settings)(info, labelled)
        return None if positives is None else np.asarray(positives), np.asarray(negatives) & ~np.eye(4, dtype=bool)

    others = np.array([[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]], bool)  # never a subject against itself
    alike = np.array([[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 0, 1]], bool)
    assert found()[0] is None
    np.testing.assert_array_equal(found()[1], others)
    np.testing.assert_array_equal(found(positives="same_label")[0], alike)
    for negatives in ("other_labels", "unlike"):
        np.testing.assert_array_equal(found(negatives=negatives)[1], others & ~alike)
    np.testing.assert_array_equal(found(positives="nearest", k=2)[0], alike)
    soft = found(positives="soft")[0]
    assert soft is not None and soft[0, 1] > 0.5 and soft[0, 2] < 0.1
    np.testing.assert_array_equal(found(negatives="other_labels", only="well")[1], others)  # nobody shares that label


# What is refused, before anything is computed.

CONTEXT = registry.Context(
    schema=Schema((Column("a", "continuous", "cardiac_morphometric"), Column("b", "categorical", "demographic"))),
    cardinalities=(1, 3),
    classes=(),
    table_tokens=False,
    patch=0,
    channels=1,
    image_planes=("sax", "sax"),
    dtype=jnp.float32,
)


PAIRS, SLICES = ("info_nce", "sigmoid", "nt_xent"), ("simclr", "byol", "simsiam", "barlow_twins", "vicreg", "swav")


@pytest.mark.parametrize("name", PAIRS + SLICES)
def test_padding_has_no_influence_on_an_objective(name: str) -> None:
    """Neither subjects that pad a batch nor slices that pad a stack."""
    valid, mask = np.array([True, True, True, False]), np.array([[1, 1], [1, 0], [1, 1], [1, 1]], bool)
    none = np.zeros((4, 2), bool)
    info = BatchInfo(jnp.arange(4), valid, mask, none, none, none, none, none[:, 0])  # pyrefly: ignore
    counted = valid if name in PAIRS else (mask & valid[:, None]).reshape(-1)
    arrays = ("image", "table") if name in PAIRS else ("first", "second", "prediction_first", "prediction_second")
    objective = registry.OBJECTIVES[name](CONTEXT)

    def loss(seed: int) -> float:
        own, padding = np.random.default_rng(0), np.random.default_rng(seed)
        shape = (len(counted), 8)
        out: dict = {n: jnp.where(counted[:, None], own.normal(size=shape), padding.normal(size=shape)) for n in arrays}
        out |= {"target": dict(out), "log_temperature": jnp.float32(0), "bias": jnp.float32(0)}
        return float(objective.loss(out, info)[0])

    assert loss(1) == pytest.approx(loss(2), rel=1e-5)


GEOMETRY_OF_PAIR = {
    "alignment",
    "uniformity_first",
    "uniformity_second",
    "effective_rank_first",
    "effective_rank_second",
}


def test_validation_measures_the_geometry_of_pairs() -> None:
    """Two directions at a right angle, both paired with the first; the third row is padding.

    Squared distances of the pairs: 0 and 2. Of the two first embeddings: 2, so that the uniformity
    is log exp(-2 * 2); of the two second ones: 0.
    """

    def batch(first: list, second: list, valid: list[bool]) -> dict:
        info = {name: np.zeros((len(valid), 1)) for name in BatchInfo._fields}
        info |= {"valid": np.array(valid), "slice_mask": np.ones((len(valid), 1), bool)}
        return {
            "outputs": {"vicreg": {"first": np.array(first, np.float32), "second": np.array(second, np.float32)}},
            "info": BatchInfo(**info),
            "by_batch": {},
        }

    spec = Mock(PretrainSpec, objectives={"vicreg": registry.OBJECTIVES["vicreg"](CONTEXT)})
    found = summarise(
        [batch([[3, 0]], [[1, 0]], [True]), batch([[0, 2], [7, 7]], [[5, 0], [1, 9]], [True, False])], spec
    )
    expected = {"alignment": 1.0, "uniformity_first": -4.0, "uniformity_second": 0.0}
    expected |= {"effective_rank_first": 2.0, "effective_rank_second": 1.0}
    assert {name: found[f"vicreg/{name}"] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_the_geometry_of_very_many_pairs_is_that_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "MOST_PAIRS", 2)
    x = np.array([[1, 0], [9, 9], [0, 1], [1, 1], [1, 0]], np.float32)  # valid: rows 0, 2, 3, 4; chosen: 0 and 4
    found = geometry.geometry({"first": x, "second": x}, np.array([True, False, True, True, True]))
    assert found["effective_rank_first"] == pytest.approx(1.0) and found["alignment"] == 0.0


@pytest.mark.parametrize("name", PAIRS + SLICES + ("scarf", "match"))
def test_every_contrast_of_vectors_has_a_geometry_on_validation(name: str) -> None:
    """Two views have it on validation alone, where it costs no training step."""
    valid, mask = np.array([True, True, False]), np.array([[1, 1], [1, 0], [1, 1]], bool)
    none = np.zeros((3, 2), bool)
    info = BatchInfo(jnp.arange(3), valid, mask, none, none, none, none, none[:, 0])  # pyrefly: ignore
    n = 6 if name in SLICES else 3
    x = jnp.asarray(np.random.default_rng(0).normal(size=(n, 8)))
    views = {"first": x, "second": x, "prediction_first": x, "prediction_second": x}
    out: dict = views | {"image": x, "table": x, "embedding_first": x, "embedding_second": x, "target": views}
    objective = registry.OBJECTIVES[name](CONTEXT)
    if name in PAIRS:
        _, metrics = objective.loss(out | {"log_temperature": jnp.float32(0), "bias": jnp.float32(0)}, info)
        rank = "effective_rank_first" if name == "nt_xent" else "effective_rank_image"
        assert objective.pair is None and {"alignment", "uniformity_image", rank} <= metrics.keys()
        return
    assert objective.pair is not None and objective.whole_validation_set
    pair, counted = objective.pair(out, info)
    assert np.asarray(counted).tolist() == (mask & valid[:, None] if name in SLICES else valid).ravel().tolist()
    assert geometry.geometry(pair, counted)["alignment"] == 0.0
    if name != "match":
        assert geometry.geometry(pair, counted).keys() == GEOMETRY_OF_PAIR
    if name in SLICES:
        _, metrics = objective.loss(out, info)
        assert not any("uniformity" in metric or metric == "alignment" for metric in metrics)


@pytest.mark.parametrize("name", ("info_nce", "nt_xent", "match", "planes"))
def test_rows_of_one_subject_are_no_negatives_of_each_other(name: str) -> None:
    """A batch that holds one subject twice has no negatives, so its contrast is zero."""
    valid, none = np.ones(2, bool), np.zeros((2, 2), bool)
    info = BatchInfo(jnp.zeros(2, int), valid, ~none, none, none, none, none, none[:, 0])  # pyrefly: ignore
    random = np.random.default_rng(0)
    out: dict = {n: jnp.asarray(random.normal(size=(2, 8))) for n in ("image", "table")}
    out |= {n: jnp.zeros(2) for n in ("true", "wrong_table", "wrong_image")}
    out |= {"table_exists": none[0], "image_exists": none[0], "log_temperature": jnp.float32(0)}
    out |= {"embedding": jnp.asarray(random.normal(size=(2, 2, 8))), "present": ~none}
    context = dataclasses.replace(CONTEXT, image_planes=("sax", "la_4ch"))
    loss, metrics = registry.OBJECTIVES[name](context).loss(out, info)
    assert float(metrics.get("loss_contrast", loss)) == pytest.approx(0, abs=1e-6)
    loss, metrics = registry.OBJECTIVES[name](context).loss(out, info._replace(subject=jnp.arange(2)))
    assert float(metrics.get("loss_contrast", loss)) > 0.1


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, "config.objectives is empty"),
        ({"clip": {}}, "config.objectives.clip is unknown: choose among info_nce"),
        ({"info_nce": {"sahre": 0.5}}, "sahre"),
        ({"byol": {"tau": 0.5}}, "config.objectives.byol: "),
        ({"info_nce": {"weight": 0.0}}, "weights must be 0 or more and not all 0"),
        ({"info_nce": {"weight": -1.0}, "simclr": {}}, "weights must be 0 or more"),
        ({"info_nce": {"weight": float("nan")}}, "weights must be 0 or more"),
        ({"info_nce": {"temperature": 0.0}}, "config.objectives.info_nce.temperature=0.0: give a value above 0"),
        ({"simclr": {"temperature": float("inf")}}, "config.objectives.simclr.temperature=inf: give a value above 0"),
        ({"scarf": {"temperature": float("nan")}}, "config.objectives.scarf.temperature=nan"),
        (
            {"info_nce": {"image_to_table_weight": 1.5}},
            "config.objectives.info_nce.image_to_table_weight=1.5: give a value from 0 to 1",
        ),
        ({"info_nce": {"k": 3}}, "config.objectives.info_nce.k has no effect with positives='own', negatives='all'"),
        ({"info_nce": {"only": "ill"}}, "config.objectives.info_nce.only has no effect"),
        ({"info_nce": {"positives": "nearest", "threshold": 0.0}}, "config.objectives.info_nce.threshold=0.0"),
        ({"swav": {"iterations": 0}}, "config.objectives.swav.iterations=0: give a value from 1 up"),
        ({"swav": {"epsilon": 0.0}}, "config.objectives.swav.epsilon=0.0"),
        ({"vicreg": {"variance": -1.0}}, "config.objectives.vicreg.variance=-1.0"),
        ({"barlow_twins": {"redundancy_weight": -1.0}}, "config.objectives.barlow_twins.redundancy_weight=-1.0"),
        ({"regional": {"region": 0}}, "config.objectives.regional.region=0"),
        ({"regression": {"huber_delta": -1.0}}, "config.objectives.regression.huber_delta=-1.0"),
        (
            {"regional": {}, "simclr": {}},
            "regional needs two views with the same geometry, simclr two views with different",
        ),
        (
            {"info_nce": {"positives": "same_label"}},
            "config.objectives.info_nce needs labels: name a column in config.table.label",
        ),
        ({"sigmoid": {"negatives": "other_labels"}}, "config.objectives.sigmoid needs labels"),
        ({"info_nce": {"positives": "friends"}}, "config.objectives.info_nce.positives='friends': choose one of own"),
        ({"sigmoid": {"positives": "soft"}}, "choose nearest"),
        ({"probe": {}}, "config.objectives.probe needs labels"),
        ({"masked_patches": {}}, "choose vit_tiny or vit_small"),
        ({"cross_columns": {}}, "set config.model.table.encoder=transformer"),
        ({"regression": {"columns": "b"}}, "selects no continuous column"),
        ({"byol": {"momentum": 1.0}}, "config.objectives.byol.momentum=1.0"),
        ({"simclr": {"partitions": -1}}, "config.objectives.simclr.partitions=-1"),
    ],
)
def test_an_objective_that_cannot_be_is_told_by_its_key(objectives: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        registry.from_config(objectives, CONTEXT)


def test_a_class_that_does_not_exist_is_named() -> None:
    labelled = dataclasses.replace(CONTEXT, classes=("well", "ill"))
    registry.from_config({"info_nce": {"positives": "same_label", "only": "ill"}}, labelled)
    with pytest.raises(ValueError, match="the label's classes are well, ill"):
        registry.from_config({"info_nce": {"positives": "same_label", "only": "sick"}}, labelled)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("info_nce", {"batch_size": 1}, "config.batch_size=1: contrastive losses need at least 2 subjects"),
        ("info_nce", {"table.groups": "none"}, "config.objectives.info_nce needs table columns"),
        (
            "info_nce",
            {"table.control": "swapped"},
            "config.table.control='swapped' is unknown: choose one of none, shuffled",
        ),
        ("info_nce", {"table.label": "lv_edv"}, "config.table.label='lv_edv' is continuous: choose one of sex"),
        ("info_nce", {"table.label": "nothing"}, "config.table.label='nothing' is no column of the table"),
        ("scarf", {"table.corruption_fraction": 0.0}, "config.table.corruption_fraction=0.0 changes none of"),
        ("masked_columns", {"table.mask_fraction": 1.0}, "config.table.mask_fraction=1.0"),
        ("info_nce", {"model.pooling": "max"}, "config.model.pooling='max' is unknown"),
        ("masked_patches", {"model.patch_mask_fraction": 1.0}, "config.model.patch_mask_fraction=1.0"),
        ("regression", {"table.groups": "none"}, "config.objectives.regression needs table columns"),
        ("info_nce", {"steps": -1, "epochs": 3.0}, "give one of config.steps=-1"),
        ("info_nce", {"table.mask_fraction": 1.5}, "config.table.mask_fraction=1.5"),
        (
            "info_nce",
            {"freeze": "probe_then_full"},
            "config.freeze='probe_then_full' is unknown: choose none or encoder",
        ),
        ("info_nce", {"model.table.encoder": "tree"}, "config.model.table.encoder='tree' is unknown"),
    ],
)
def test_what_a_pretraining_cannot_be_is_told_by_its_key(
    name: str, settings: dict, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(experiment.EXPECTED, match=re.escape(message)):
        experiment.run(arm(name, data, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_arm_without_a_name_lists_the_arms() -> None:
    with pytest.raises(ValueError, match=r"give one of the arms after the colon: info_nce, sigmoid"):
        pretrain_arm.get_config()

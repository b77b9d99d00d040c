"""The functions of a segmentation, on arrays made by hand: no dataset, no run directory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from morphojax import augment
from morphojax.anatomy import LABEL_ID
from morphojax.models.resnet import BasicBlock, ResNet
from morphojax.models.towers import Segmenter
from morphojax.models.unet import UNetDecoder
from morphojax.objectives.segmentation import dice_ce
from morphojax.tasks.segment import task
from morphojax.tasks.segment.networks import Networks
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step

STRUCTURES = ("lv_cavity", "rv_cavity")


def make_spec(**changes) -> task.SegmentSpec:
    encoder = ResNet(depths=(1,), block=BasicBlock, width=4)
    model = Segmenter(encoder, UNetDecoder(widths=(4, 4)), n_classes=3, measures=changes.pop("measures", 0))
    settings = dict(size=16, augmentation=augment.Augmentation(), seed=0, dice_weight=0.5)
    return task.SegmentSpec(model=model, structures=STRUCTURES, **settings | changes)


def make_batch(n: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "image": random.integers(0, 256, (n, 16, 16, 1)).astype(np.uint8),
        "label": random.choice([0, *(LABEL_ID[s] for s in STRUCTURES)], (n, 16, 16)).astype(np.uint8),
        "annotated": np.ones((n, 2), bool),
        "subject": np.arange(n, dtype=np.int32),
        "plane": np.zeros(n, np.int32),
        "valid": np.ones(n, bool),
    }


@functools.cache
def state(keep_ema: bool = False) -> TrainState:
    return TrainState.create(task.init_variables(make_spec()), optax.adam(1e-2), keep_ema)


def test_labels_become_classes_and_back() -> None:
    spec = make_spec()
    assert spec.class_of[[0, *(LABEL_ID[s] for s in STRUCTURES)]].tolist() == [0, 1, 2]
    assert spec.class_of[LABEL_ID["lv_myocardium"]] == 0  # unknown to the model: background
    assert spec.label_of.tolist() == [0, *(LABEL_ID[s] for s in STRUCTURES)]


def test_every_step_draws_its_own_augmentation_and_moves_the_label_alike() -> None:
    spec, batch = make_spec(augmentation=augment.Augmentation(flip_horizontal=0.5)), make_batch(8)
    batch["image"] = batch["label"][..., None] * 20
    drawn = [task.augmented(batch, jnp.int32(step), spec) for step in (0, 1)]
    assert not np.array_equal(drawn[0][0], drawn[1][0])
    for image, label in drawn:
        np.testing.assert_allclose(np.asarray(image)[..., 0], np.asarray(label) * 20 / 255, rtol=1e-6)


def test_the_loss_is_dice_and_cross_entropy_of_the_training_pass() -> None:
    """Without augmentation: the loss of the logits in training mode, and the statistics of that
    pass.
    """
    spec, batch, start = make_spec(), make_batch(), state()
    batch["annotated"][0, 1] = False
    value, (metrics, collections) = jax.jit(functools.partial(task.loss, spec=spec))(start.params, start, {}, batch)
    image, classes = batch["image"].astype(np.float32) / 255, jnp.asarray(spec.class_of)[batch["label"]]
    (logits, _), updated = spec.model.apply(start.variables, image, train=True, mutable=["batch_stats"])
    expected, _ = dice_ce(logits, classes, batch["annotated"], dice_weight=0.5)
    assert float(value) == pytest.approx(float(expected), rel=1e-5) and float(metrics["loss_cross_entropy"]) > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        collections["batch_stats"],
        updated["batch_stats"],
    )


def test_a_frozen_encoder_has_no_gradient_and_keeps_its_statistics() -> None:
    spec, batch, start = make_spec(train_encoder=False), make_batch(), state()
    gradient, (_, collections) = jax.jit(jax.grad(functools.partial(task.loss, spec=spec), has_aux=True))(
        start.params, start, {}, batch
    )
    assert all((g == 0).all() for g in jax.tree.leaves(gradient["encoder"]))
    assert any((g != 0).any() for g in jax.tree.leaves(gradient["decoder"]))
    jax.tree.map(
        np.testing.assert_array_equal,
        collections["batch_stats"]["encoder"],
        start.collections["batch_stats"]["encoder"],
    )


def test_the_teacher_uses_ema_weights_where_the_run_keeps_them() -> None:
    spec, image = make_spec(), jnp.asarray(make_batch()["image"], jnp.float32) / 255
    start = state(keep_ema=True)
    other = start.replace(ema=jax.tree.map(lambda x: 0.5 * x, start.ema))
    plain = Networks(spec.model, start.params, state(), 0, True).teacher(image)
    np.testing.assert_allclose(Networks(spec.model, start.params, start, 0, True).teacher(image), plain, atol=1e-5)
    expected = spec.model.apply(other.ema, image, train=False)[0]
    halved = Networks(spec.model, start.params, other, 0, True).teacher(image)
    np.testing.assert_allclose(halved, expected, atol=1e-5)
    assert np.abs(np.asarray(halved - plain)).max() > 1e-3


def test_a_second_training_pass_goes_on_from_the_statistics_of_the_first() -> None:
    spec, image = make_spec(), jnp.asarray(make_batch()["image"], jnp.float32) / 255
    start = state()
    networks = Networks(spec.model, start.params, start, 0, True)
    networks.student(image, train=True)
    once = networks.collections
    networks.student(2 * image, train=True)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(networks.collections), strict=True)
    )
    # Evaluation passes use the statistics of the last step, whatever the training passes have done.
    expected = spec.model.apply(start.variables, image, train=False)[0]
    np.testing.assert_allclose(networks.student(image, train=False)[0], expected, atol=1e-5)


def test_ema_weights_average_parameters_and_statistics_step_by_step() -> None:
    """Against a slow loop: average at step s weighs the old one by min(0.5, 1 - 1 / (s + 1))."""
    from morphojax.train import ema

    spec, batch, start = make_spec(), make_batch(), state(keep_ema=True)
    loss = functools.partial(task.loss, spec=spec)
    step = jax.jit(make_train_step(loss, optax.adam(1e-2), ema_decay=ema.constant_decay(0.5)))
    expected = jax.tree.map(np.asarray, start.variables)
    for s in range(4):
        start, _ = step(start, {}, batch)
        decay = min(0.5, 1 - 1 / (s + 1))
        expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * np.asarray(new), expected, start.variables)  # noqa: B023
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), start.ema, expected)
    averaged = start.with_ema_weights()
    jax.tree.map(np.testing.assert_array_equal, averaged.variables, start.ema)
    assert not np.array_equal(*(jax.tree.leaves(v["params"]["head"])[0] for v in (start.ema, start.variables)))


def test_draw_marks_only_known_structures() -> None:
    spec, batch = make_spec(), make_batch(6)
    drawn = task.draw(np.zeros((6, 16, 16), np.uint8), batch, spec)["label_left_prediction_right"]
    unknown = batch | {"label": np.where(batch["label"] > 0, LABEL_ID["lv_myocardium"], 0).astype(np.uint8)}
    without = task.draw(np.zeros((6, 16, 16), np.uint8), unknown, spec)["label_left_prediction_right"]
    assert drawn.dtype == np.uint8 and drawn.shape == without.shape and (drawn != without).any()


def test_spec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_spec().seed = 1  # pyrefly: ignore


def test_padding_has_no_influence_on_the_validation_loss() -> None:
    spec, batch = make_spec(), make_batch()
    padded = {name: np.concatenate([array, array[:1]]) for name, array in batch.items()}
    padded["label"][3], padded["valid"][3] = LABEL_ID["lv_cavity"], False
    alone, beside = (task.evaluate(state(), {}, b, spec) for b in (batch, padded))
    assert float(beside["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-5)


def test_the_error_of_predicted_columns_has_its_weight() -> None:
    constants = {"measures": np.ones((3, 1), np.float32), "measures_missing": np.zeros((3, 1), bool)}
    light, heavy = (
        dataclasses.replace(make_spec(measures=1), measures=("a",), measures_weight=weight) for weight in (1.0, 3.0)
    )
    start = TrainState.create(task.init_variables(light), optax.adam(1e-2), False)
    (once, (metrics, _)), (thrice, _) = (
        task.loss(start.params, start, constants, make_batch(), spec) for spec in (light, heavy)
    )
    assert float(metrics["measures/loss"]) > 0.1
    assert float(thrice - once) == pytest.approx(2 * float(metrics["measures/loss"]), rel=1e-4)


def test_the_validation_dice_by_hand() -> None:
    """Two subjects, one over two batches; a structure that a subject neither has nor is given does
    not count for it.
    """
    outputs = [
        {
            "subject": np.array([7, 7]), "valid": np.array([True, True]), "loss": 1.0, "plane": np.array([0, 0]),
            "intersection": np.array([[4, 0], [2, 0]]), "cardinality": np.array([[8, 0], [6, 0]]),
        },
        {
            "subject": np.array([9, 7]), "valid": np.array([True, False]), "loss": 3.0, "plane": np.array([0, 0]),
            "intersection": np.array([[0, 5], [99, 99]]), "cardinality": np.array([[4, 20], [99, 99]]),
        },
    ]  # fmt: skip
    found = task.summarise(outputs, make_spec())
    assert found["dice/lv_cavity"] == pytest.approx((12 / 14 + 0) / 2) and found["dice/rv_cavity"] == pytest.approx(
        10 / 20
    )
    assert found["dice"] == pytest.approx((6 / 14 + 0.5) / 2) and found["loss"] == 2.0
    outputs[0]["plane"] = np.array([0, 2])  # the two slices of the first subject are of two planes
    found = task.summarise(outputs, make_spec())
    assert found["dice/lv_cavity"] == pytest.approx((8 / 8 + 4 / 6 + 0) / 3)

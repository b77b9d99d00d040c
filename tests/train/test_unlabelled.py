"""Unlabelled stacks beside labelled slices: what the table's volumes do to a segmentation."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import segment_sax
from morphojax import augment
from morphojax.data.store.dataset import Dataset
from morphojax.inference.segmenter import load_run
from morphojax.tasks import experiment
from morphojax.tasks.segment import task as segment
from morphojax.tasks.segment import unlabelled
from tests.train import synthetic
from tests.train.test_tasks import SEGMENT

OBJECTIVES = dict(
    consistency=1.0, huber_delta=math.inf, entropy=0.0, pseudo=0.0, tolerance=0.1, confidence=0.0, start=0.0, ramp=0.0
)


@pytest.fixture(scope="module")
def data() -> Path:
    return synthetic.dataset()


def config(folder: Path, run: Path, **changes):
    made = segment_sax.get_config()
    settings = SEGMENT | {"data.dataset": str(folder), "workdir": str(run), "steps": 2, "eval_every": 2}
    settings |= {"data.fraction": 0.25, "unlabelled.batch_size": 1, "unlabelled.start": 0.0}
    made.update_from_flattened_dict(settings | changes)
    return made


def beside(augmentation: augment.Augmentation | None = None, **changes) -> unlabelled.Unlabelled:
    """Without a stream, for what needs none."""
    stream, none = None, augment.Augmentation()
    settings = OBJECTIVES | changes
    return unlabelled.Unlabelled(stream=stream, seed=0, steps=100, augmentation=augmentation or none, **settings)  # pyrefly: ignore


def stacks() -> dict[str, np.ndarray]:
    """Two stacks of three slices; the second of the first is padding. A voxel is a tenth of a ml."""
    return {
        "image": np.random.default_rng(0).integers(0, 255, (2, 3, 8, 8, 1)).astype(np.uint8),
        "slice_mask": np.array([[True, False, True], [True, True, True]]),
        "voxel_ml": np.full(2, 0.1, np.float32),
        "volume": np.array([[6.4], [np.nan]], np.float32),
        "valid": np.ones(2, bool),
    }


def logits_of(sure: np.ndarray) -> jnp.ndarray:
    """bool [B,K,H,W] -> logits of two classes, as sure as can be."""
    return jnp.stack([jnp.where(sure, -20.0, 20.0), jnp.where(sure, 20.0, -20.0)], axis=-1)


def test_volumes_are_compared_where_the_table_knows_them() -> None:
    half = np.zeros((2, 3, 8, 8), bool)
    half[:, :, :4] = True  # two slices of 32 voxels: 6.4 ml
    loss, metrics = beside().loss(logits_of(half), None, stacks(), jnp.int32(50))
    assert float(loss) == pytest.approx(0, abs=1e-6) and float(metrics["unlabelled/volume_error"]) < 1e-5
    everything = np.ones_like(half)  # 12.8 ml
    loss, metrics = beside().loss(logits_of(everything), None, stacks(), jnp.int32(50))
    assert float(loss) == pytest.approx(np.log(13.8 / 7.4) ** 2, rel=1e-4)
    assert float(metrics["unlabelled/volume_error"]) == pytest.approx(1, rel=1e-4)


def test_terms_come_in_on_a_ramp() -> None:
    everything, slow = np.ones((2, 3, 8, 8), bool), beside(start=0.2, ramp=0.4)
    at = [float(slow.loss(logits_of(everything), None, stacks(), jnp.int32(s))[0]) for s in (0, 20, 40, 60, 99)]
    full = np.log(13.8 / 7.4) ** 2
    assert at == pytest.approx([0, 0, full / 2, full, full], rel=1e-4)


def test_pseudo_labels_teach_only_where_their_volumes_agree() -> None:
    """The first stack's guess agrees with the table; of the second the table says nothing."""
    half = np.zeros((2, 3, 8, 8), bool)
    half[:, :, :4] = True
    term = beside(consistency=0.0, pseudo=1.0)

    def loss(logits, guess):
        return term.loss(logits, logits_of(guess), stacks(), jnp.int32(50))[0]

    gradient = jax.grad(loss)(jnp.zeros((2, 3, 8, 8, 2)), half)
    assert np.abs(gradient[0, 0]).min() > 0 and np.abs(gradient[0, 2]).min() > 0
    assert not np.asarray(gradient[0, 1]).any() and not np.asarray(gradient[1]).any()
    assert (np.asarray(gradient[0, 0, :4, :, 1]) < 0).all() and (np.asarray(gradient[0, 0, 4:, :, 1]) > 0).all()
    disagreeing = jax.grad(loss)(jnp.zeros((2, 3, 8, 8, 2)), np.ones_like(half))
    assert not np.asarray(disagreeing).any()


def test_pseudo_labels_move_with_the_image() -> None:
    """What is bright stays what is labelled, after the warp; beside the image there is nothing to learn."""
    bright = np.zeros((2, 3, 16, 16), bool)
    bright[:, :, 4:10, 5:9] = True
    turned = beside(augment.Augmentation(rotation_degrees=40, translation_fraction=0.3))
    batch = stacks() | {"image": (255 * bright[..., None]).astype(np.uint8)}
    image = np.asarray(turned.images(batch, jnp.int32(3)))[..., 0]
    labels = np.asarray(turned.aligned(jnp.asarray(bright.astype(np.int32) + 1), jnp.int32(3)))
    assert (labels == 0).any() and not np.allclose(image, bright)
    assert (labels[image > 0.9] == 2).all() and (image[labels == 2] > 0.3).all()


def test_a_run_with_unlabelled_stacks(data: Path, tmp_path: Path) -> None:
    made = config(data, tmp_path / "run", **{"unlabelled.pseudo": 0.5})
    assert experiment.run(made)
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    for name in ("volume_error", "loss_entropy", "pseudo_kept", "ramp"):
        assert f'"train/unlabelled/{name}"' in logged
    assert experiment.run(made)  # complete: nothing left to do, and its place in both streams is known


def test_unlabelled_subjects_are_training_subjects_without_a_label(data: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(data)
    task, _ = segment.build(config(data, tmp_path), dataset)
    seen, labelled = set(), set()
    for _ in range(20):
        batch = next(task.train_batches)
        seen |= set(batch["unlabelled"]["subject"].tolist())
        labelled |= set(batch["subject"].tolist())
    task.train_batches.close()
    assert seen and not seen & labelled
    assert set(dataset.splits[sorted(seen)]) == {"train"}


def test_shuffled_volumes_are_another_subjects(data: Path, tmp_path: Path) -> None:
    """The same volumes all in all, and nobody's own."""

    def told(shuffled: bool) -> dict[int, tuple[float, ...]]:
        task, _ = segment.build(config(data, tmp_path, **{"unlabelled.shuffled": shuffled}), Dataset.open(data))
        batches = [next(task.train_batches)["unlabelled"] for _ in range(60)]
        task.train_batches.close()
        return {int(b["subject"][0]): tuple(b["volume"][0]) for b in batches if b["position"][0, 0] == 0}

    own, other = told(False), told(True)
    assert own.keys() == other.keys() and len(own) > 2
    assert all(own[s] != other[s] for s in own)


def test_the_volume_term_teaches_by_itself(data: Path, tmp_path: Path) -> None:
    """With the labels worth nothing, the predicted volumes still come nearer to the table's."""
    made = config(data, tmp_path, **{"unlabelled.entropy": 0.0, "unlabelled.ramp": 0.0, "optimizer.warmup": 0.0})
    made.augment.update(rotation_degrees=0.0, scale=(1.0, 1.0), translation_fraction=0.0, noise_sd=0.0, bias_field=0.0)
    made.unlabelled.consistency = 1e3
    made.optimizer.update(schedule="constant", learning_rate=0.02)
    made.steps = 40
    task, _ = segment.build(made, Dataset.open(data))
    step, state, errors = jax.jit(task.phases[0][1]), jax.jit(task.init)(task.pretrained), []
    for _ in range(40):
        state, metrics = step(state, task.constants, next(task.train_batches))
        errors.append(float(metrics["unlabelled/loss_consistency"]))
    task.train_batches.close()
    assert np.mean(errors[-5:]) < 0.5 * np.mean(errors[:5]), errors


def test_stacks_are_seen_as_in_evaluation(data: Path, tmp_path: Path) -> None:
    """They teach the parameters and leave the running statistics to the labelled slices, by which they are seen."""
    made = config(data, tmp_path, **{"unlabelled.ramp": 0.0, "optimizer.warmup": 0.0})
    task, _ = segment.build(made, Dataset.open(data))
    step, state, batch = jax.jit(task.phases[0][1]), jax.jit(task.init)(task.pretrained), next(task.train_batches)
    task.train_batches.close()
    other = batch | {"unlabelled": batch["unlabelled"] | {"image": 255 - batch["unlabelled"]["image"]}}
    state = state.replace(step=state.step + 1)  # the terms have come in by then
    (one, _), (two, _) = (step(state, task.constants, b) for b in (batch, other))
    jax.tree.map(np.testing.assert_array_equal, one.batch_stats, two.batch_stats)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True))


def test_a_decoder_conditioned_on_predicted_columns(data: Path, tmp_path: Path) -> None:
    """The columns are learned from labelled slices and unlabelled stacks alike, and prediction needs the run alone."""
    dataset = Dataset.open(data)
    made = config(data, tmp_path / "run", **{"model.condition": "lv_edv,sex,rv_esv"})
    task, files = segment.build(made, dataset)
    assert files["preprocessing.json"]["measures"] == ["lv_edv", "rv_esv"]
    batch, state = next(task.train_batches), jax.jit(task.init)(task.pretrained)
    task.train_batches.close()

    def measured(values: np.ndarray) -> float:
        _, metrics = jax.jit(task.phases[0][1])(state, task.constants | {"measures": values}, batch)
        return float(metrics["measures/loss"])

    own, moved = task.constants["measures"], {}
    for name, subjects in (("labelled", batch["subject"]), ("unlabelled", batch["unlabelled"]["subject"])):
        moved[name] = own.copy()
        moved[name][subjects] += 5
    other = np.setdiff1d(np.arange(16), np.concatenate([batch["subject"], batch["unlabelled"]["subject"]]))
    moved["others"] = own.copy()
    moved["others"][other] += 5
    losses = {name: measured(values) for name, values in moved.items()}
    assert losses["others"] == measured(own) and min(losses["labelled"], losses["unlabelled"]) > losses["others"] + 1
    assert experiment.run(made)
    assert load_run(tmp_path / "run").predict_grid(np.zeros((2, 32, 32), np.uint8)).shape == (2, 32, 32, 4)


def test_conditioning_on_no_number_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(experiment.EXPECTED, match=r"config.model.condition='sex' selects no continuous column"):
        experiment.run(config(data, tmp_path / "run", **{"model.condition": "sex"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unlabelled.consistency": -1.0}, "config.unlabelled.consistency=-1.0: give a weight"),
        ({"unlabelled.consistency": 0.0, "unlabelled.entropy": 0.0}, "consistency, entropy and pseudo are all 0"),
        ({"unlabelled.huber_delta": 0.0}, "config.unlabelled.huber_delta=0.0: give an error of log volumes"),
        ({"unlabelled.start": 1.5}, "config.unlabelled.start=1.5: give a share"),
        ({"unlabelled.tolerance": -0.1}, "config.unlabelled.tolerance=-0.1"),
        ({"data.fraction": 1.0}, "none is unlabelled and has a volume of lv_cavity, lv_myocardium, rv_cavity"),
        ({"unlabelled.slices": 1}, "slices=1: the largest sax stack has"),
        ({"unlabelled.subjects": ("nobody",)}, "config.unlabelled.subjects: entry 1 is no subject"),
    ],
)
def test_what_cannot_be_is_told_by_its_key(settings: dict, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(experiment.EXPECTED, match=re.escape(message)):
        experiment.run(config(data, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_size_and_intensities_are_not_augmented(data: Path, tmp_path: Path) -> None:
    """A magnified heart has not the volume that the table tells."""
    made = config(data, tmp_path)
    assert made.augment.scale != (1.0, 1.0)
    built = segment._unlabelled(
        made, Dataset.open(data), ("lv_cavity",), np.array([0]), augment.Augmentation(**made.augment), 10
    )
    assert built is not None
    moved = augment.Augmentation(**made.augment).geometric
    assert built.augmentation == dataclasses.replace(moved, scale=(1.0, 1.0), crop=None)
    assert not built.augmentation.recolours and built.augmentation.warps

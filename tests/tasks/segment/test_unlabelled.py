"""Unlabelled images beside labelled slices: each objective by hand, and in a run."""

import dataclasses
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax import augment
from morphojax.data.store.dataset import Dataset
from morphojax.inference.segmenter import load_run
from morphojax.tasks import experiment
from morphojax.tasks.segment import build as segment
from morphojax.tasks.segment import conditioning, unlabelled
from morphojax.tasks.segment.unlabelled import base, stream
from morphojax.tasks.segment.unlabelled.batch import BatchSpec, UnlabelledBatch
from tests.tasks import synthetic, tiny


@pytest.fixture(scope="module")
def data() -> Path:
    return synthetic.dataset()


AT_ONCE = {f"unlabelled.objectives.{name}.{key}": 0.0 for name in unlabelled.OBJECTIVES for key in ("start", "ramp")}


def config(folder: Path, run: Path, **changes):
    settings = {"steps": 2, "eval_every": 2, "data.fraction": 0.25, "unlabelled.batch_size": 1} | AT_ONCE
    return tiny.config("segment_sax", folder, run, **settings | changes)


def weight(name: str, value: float) -> dict[str, float]:
    return {f"unlabelled.objectives.{name}.weight": value}


@dataclasses.dataclass
class FixedNetworks:
    """Networks that answer with given logits [B,K,H,W,C], whatever the image."""

    logits: jax.Array
    teacher_logits: jax.Array | None = None

    def student(self, image: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        assert not train
        return self.logits.reshape(-1, *self.logits.shape[2:]), jnp.zeros((len(image), 0))

    def teacher(self, image: jax.Array) -> jax.Array:
        assert self.teacher_logits is not None
        return self.teacher_logits.reshape(-1, *self.teacher_logits.shape[2:])


def spec_of(augmentation: augment.Augmentation | None = None, **objectives) -> base.UnlabelledSpec:
    chosen = unlabelled.from_config({n: {"start": 0.0, "ramp": 0.0, "weight": 1.0} | s for n, s in objectives.items()})
    weak = augmentation or augment.Augmentation()
    return base.UnlabelledSpec(chosen, BatchSpec(weak, weak, seed=0), steps=100)


def loss_of(spec: base.UnlabelledSpec, networks: FixedNetworks, step: int = 50):
    batch = UnlabelledBatch(stacks(), {}, networks, spec.batch, jnp.int32(step))  # pyrefly: ignore
    return base.loss(batch, spec, jnp.int32(step))


def stacks() -> dict[str, np.ndarray]:
    """Two stacks of three slices; the second of the first is padding. A voxel is a tenth
    of a ml.
    """
    return {
        "image": np.random.default_rng(0).integers(0, 255, (2, 3, 8, 8, 1)).astype(np.uint8),
        "slice_mask": np.array([[True, False, True], [True, True, True]]),
        "voxel_size": np.full(2, 0.1, np.float32),
        "volume": np.array([[6.4], [np.nan]], np.float32),
        "valid": np.ones(2, bool),
        "subject": np.array([4, 9], np.int32),
    }


def logits_of(sure: np.ndarray) -> jnp.ndarray:
    """bool [B,K,H,W] -> logits of two classes, as sure as can be."""
    return jnp.stack([jnp.where(sure, -20.0, 20.0), jnp.where(sure, 20.0, -20.0)], axis=-1)


def test_volumes_are_compared_where_the_table_knows_them() -> None:
    spec, half = spec_of(volume_consistency={"huber_delta": math.inf}), np.zeros((2, 3, 8, 8), bool)
    half[:, :, :4] = True  # two slices of 32 voxels: 6.4 ml
    loss, metrics = loss_of(spec, FixedNetworks(logits_of(half)))
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert float(metrics["unlabelled/volume_consistency/volume_error"]) < 1e-5
    loss, metrics = loss_of(spec, FixedNetworks(logits_of(np.ones_like(half))))  # 12.8 ml
    assert float(loss) == pytest.approx(np.log(13.8 / 7.4) ** 2, rel=1e-4)
    assert float(metrics["unlabelled/volume_consistency/volume_error"]) == pytest.approx(1, rel=1e-4)


def test_objectives_add_up_by_their_weights_and_ramps() -> None:
    networks, full = FixedNetworks(logits_of(np.ones((2, 3, 8, 8), bool))), np.log(13.8 / 7.4) ** 2
    slow = spec_of(volume_consistency={"huber_delta": math.inf, "start": 0.2, "ramp": 0.4, "weight": 3.0})
    at = [float(loss_of(slow, networks, s)[0]) for s in (0, 20, 40, 60, 99)]
    assert at == pytest.approx([0, 0, 1.5 * full, 3 * full, 3 * full], rel=1e-4)
    uniform = FixedNetworks(jnp.zeros((2, 3, 8, 8, 2)))  # entropy log 2 in every pixel
    total, metrics = loss_of(spec_of(entropy={"weight": 2.0}, volume_consistency={"weight": 0.5}), uniform)
    parts = 2 * np.log(2) + 0.5 * float(metrics["unlabelled/volume_consistency/loss"])
    assert float(total) == pytest.approx(parts, rel=1e-5)
    assert float(metrics["unlabelled/entropy/loss"]) == pytest.approx(np.log(2), rel=1e-5)


def test_slices_that_pad_a_stack_have_no_entropy() -> None:
    logits = logits_of(np.ones((2, 3, 8, 8), bool))
    logits = jnp.where(stacks()["slice_mask"][:, :, None, None, None], logits, 0.0)
    assert float(loss_of(spec_of(entropy={}), FixedNetworks(logits))[0]) == pytest.approx(0, abs=1e-5)


def test_pseudo_labels_teach_only_where_their_volumes_agree() -> None:
    """The teacher's volume of the first stack agrees with the table; for the second the table has
    none.
    """
    spec, half = spec_of(agreeing_stacks={"tolerance": 0.1, "confidence": 0.0}), np.zeros((2, 3, 8, 8), bool)
    half[:, :, :4] = True

    @jax.jit
    def gradient_for(teacher):
        return jax.grad(lambda logits: loss_of(spec, FixedNetworks(logits, teacher))[0])(jnp.zeros((2, 3, 8, 8, 2)))

    gradient = gradient_for(logits_of(half))
    assert np.abs(gradient[0, 0]).min() > 0 and np.abs(gradient[0, 2]).min() > 0
    assert not np.asarray(gradient[0, 1]).any() and not np.asarray(gradient[1]).any()
    assert (np.asarray(gradient[0, 0, :4, :, 1]) < 0).all() and (np.asarray(gradient[0, 0, 4:, :, 1]) > 0).all()
    assert not np.asarray(gradient_for(logits_of(np.ones_like(half)))).any()


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_pseudo_labels_move_with_the_image(view: str) -> None:
    """Bright pixels keep their label after the warp; outside the image there is nothing to
    learn.
    """
    bright = np.zeros((2, 3, 16, 16), bool)
    bright[:, :, 4:10, 5:9] = True
    spec = spec_of(augment.Augmentation(rotation_degrees=40, translation_fraction=0.3), entropy={})
    arrays = stacks() | {"image": (255 * bright[..., None]).astype(np.uint8)}
    networks = FixedNetworks(jnp.zeros((2, 3, 16, 16, 2)))
    batch = UnlabelledBatch(arrays, {}, networks, spec.batch, jnp.int32(3))  # pyrefly: ignore
    image = np.asarray(getattr(batch, view).images)[..., 0]
    labels = np.asarray(getattr(batch, f"to_{view}")(jnp.asarray(bright.astype(np.int32) + 1)))
    assert (labels == 0).any() and not np.allclose(image, bright)
    assert (labels[image > 0.9] == 2).all() and (image[labels == 2] > 0.3).all()


def test_the_loss_compares_with_pseudo_labels_that_have_moved() -> None:
    shift, half = augment.Augmentation(translation_fraction=0.3), np.zeros((2, 3, 8, 8), bool)
    half[:, :, :4] = True
    spec, teacher = spec_of(shift, agreeing_stacks={"tolerance": 0.1, "confidence": 0.0}), logits_of(half)
    batch = UnlabelledBatch(stacks(), {}, FixedNetworks(teacher), spec.batch, jnp.int32(7))  # pyrefly: ignore
    moved = np.asarray(batch.to_weak(jnp.asarray(half.astype(np.int32)))) == 1
    assert (moved != half).any()
    assert float(loss_of(spec, FixedNetworks(logits_of(moved), teacher), 7)[0]) == pytest.approx(0, abs=1e-5)
    assert float(loss_of(spec, FixedNetworks(teacher, teacher), 7)[0]) > 0.1


def test_the_two_views_are_drawn_apart() -> None:
    spec = spec_of(augment.Augmentation(translation_fraction=0.3), entropy={})
    batch = UnlabelledBatch(stacks(), {}, FixedNetworks(jnp.zeros((2, 3, 8, 8, 2))), spec.batch, jnp.int32(3))  # pyrefly: ignore
    assert not np.allclose(batch.weak.images, batch.strong.images)


def test_each_view_has_its_own_augmentation() -> None:
    spec = spec_of(entropy={})
    spec = dataclasses.replace(spec, batch=dataclasses.replace(spec.batch, strong=augment.Augmentation(brightness=0.5)))
    batch = UnlabelledBatch(stacks(), {}, FixedNetworks(jnp.zeros((2, 3, 8, 8, 2))), spec.batch, jnp.int32(3))  # pyrefly: ignore
    np.testing.assert_allclose(batch.weak.images, batch.plain, rtol=1e-6)
    assert not np.allclose(batch.strong.images, batch.plain)


def test_single_slices_are_stacks_of_one() -> None:
    slices = {name: stacks()[name] for name in ("valid", "subject")} | {"image": stacks()["image"][:, 0]}
    networks = FixedNetworks(jnp.zeros((2, 1, 8, 8, 2)))
    batch = UnlabelledBatch(slices, {}, networks, spec_of(entropy={}).batch, jnp.int32(0))  # pyrefly: ignore
    assert batch.image.shape == (2, 1, 8, 8, 1) and batch.valid_slices.all() and batch.volume is None
    assert batch.weak.logits.shape == (2, 1, 8, 8, 2)


def test_a_run_with_unlabelled_stacks(data: Path, tmp_path: Path) -> None:
    made = config(data, tmp_path / "run", **weight("agreeing_stacks", 0.5))
    assert experiment.run(made)
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    for name in ("volume_consistency/volume_error", "entropy/loss", "agreeing_stacks/pseudo_kept", "entropy/ramp"):
        assert f'"train/unlabelled/{name}"' in logged
    assert experiment.run(made)  # finished: nothing left to do


def test_slices_of_any_plane_where_no_objective_needs_volumes(tmp_path: Path) -> None:
    """Entropy minimisation alone, on a long-axis plane, whose subjects need no volumes."""
    data = synthetic.dataset(planes=("la_2ch",))
    changes = {"data.plane": "la_2ch", "unlabelled.batch_size": 3} | weight("volume_consistency", 0.0)
    made, dataset = config(data, tmp_path, **changes), Dataset.open(data)
    task, _ = segment.build(made, dataset)
    batch = next(task.train_batches)
    task.train_batches.close()
    assert batch["unlabelled"]["image"].shape == (3, 32, 32, 1) and "volume" not in batch["unlabelled"]
    assert not set(batch["unlabelled"]["subject"]) & set(batch["subject"])
    state = jax.eval_shape(task.init, task.pretrained)
    _, metrics = jax.eval_shape(task.stages[0][1], state, task.constants, batch)
    assert "unlabelled/entropy/loss" in metrics


def test_an_objective_that_needs_a_mean_teacher_needs_ema_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A toy objective: one function and one row of the registry, and it is trained by
    config alone.
    """

    def agreement(*, power: float = 2.0) -> base.UnlabelledObjective:
        def loss(batch: UnlabelledBatch):
            student = jax.nn.softmax(batch.weak.logits)[..., 1:]
            teacher = batch.teacher_probabilities[..., 1:].mean((2, 3))
            return jnp.mean(jnp.abs(student.mean((2, 3)) - teacher) ** power), {}

        return base.UnlabelledObjective(loss, ema=True)

    monkeypatch.setitem(unlabelled.OBJECTIVES, "agreement", agreement)
    made = config(data, tmp_path / "run", **{"ema.decay": 0.0})
    made.unlabelled.objectives = {"agreement": {"weight": 1.0, "start": 0.0, "ramp": 0.0, "power": 1.0}}
    with pytest.raises(ValueError, match=r"config.unlabelled.objectives.agreement needs EMA weights.*config.ema.decay"):
        segment.build(made, Dataset.open(data))
    made.ema.decay = 0.9
    assert experiment.run(made)
    assert '"train/unlabelled/agreement/loss"' in (tmp_path / "run" / "metrics.jsonl").read_text()


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


def test_validation_subjects_are_not_unlabelled_ones(data: Path, tmp_path: Path) -> None:
    """Even where subjects of the validation split train, and others of it validate."""
    task, _ = segment.build(config(data, tmp_path, **{"data.splits": ("train", "val")}), Dataset.open(data))
    assert task.validation_batches is not None
    validation = {s for batch in task.validation_batches() for s in batch["subject"].tolist()}
    seen = {s for _ in range(60) for s in next(task.train_batches)["unlabelled"]["subject"].tolist()}
    task.train_batches.close()
    assert validation and seen and not seen & validation


def test_shuffled_volumes_are_another_subjects(data: Path, tmp_path: Path) -> None:
    """The same volumes all in all, and nobody's own."""

    def told(shuffled: bool) -> dict[int, tuple[float, ...]]:
        task, _ = segment.build(
            config(data, tmp_path, **{"unlabelled.control": "shuffled" if shuffled else "none"}), Dataset.open(data)
        )
        batches = [next(task.train_batches)["unlabelled"] for _ in range(60)]
        task.train_batches.close()
        return {int(b["subject"][0]): tuple(b["volume"][0]) for b in batches if b["position"][0, 0] == 0}

    own, other = told(False), told(True)
    assert own.keys() == other.keys() and len(own) > 2
    assert all(own[s] != other[s] for s in own)


def test_the_volume_term_teaches_by_itself(data: Path, tmp_path: Path) -> None:
    """With the labels worth nothing, the predicted volumes still come nearer to the table's."""
    made = config(
        data, tmp_path, **weight("entropy", 0.0), **weight("volume_consistency", 1e3), **{"optimizer.warmup": 0.0}
    )
    made.augment.update(rotation_degrees=0.0, scale=(1.0, 1.0), translation_fraction=0.0, noise_sd=0.0, bias_field=0.0)
    made.optimizer.update(schedule="constant", learning_rate=0.02)
    made.steps = 40
    task, _ = segment.build(made, Dataset.open(data))
    step, state, errors = jax.jit(task.stages[0][1]), jax.jit(task.init)(task.pretrained), []
    for _ in range(40):
        state, metrics = step(state, task.constants, next(task.train_batches))
        errors.append(float(metrics["unlabelled/volume_consistency/loss"]))
    task.train_batches.close()
    assert np.mean(errors[-5:]) < 0.5 * np.mean(errors[:5]), errors


def test_stacks_are_seen_as_in_evaluation(data: Path, tmp_path: Path) -> None:
    """They teach the parameters and leave the running statistics to the labelled slices, by which
    they are seen.
    """
    made = config(data, tmp_path, **{"optimizer.warmup": 0.0})
    task, _ = segment.build(made, Dataset.open(data))
    step, state, batch = jax.jit(task.stages[0][1]), jax.jit(task.init)(task.pretrained), next(task.train_batches)
    task.train_batches.close()
    other = batch | {"unlabelled": batch["unlabelled"] | {"image": 255 - batch["unlabelled"]["image"]}}
    state = state.replace(step=state.step + 1)  # the terms have come in by then
    (one, _), (two, _) = (step(state, task.constants, b) for b in (batch, other))
    jax.tree.map(np.testing.assert_array_equal, one.collections, two.collections)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True))


def test_a_decoder_conditioned_on_predicted_columns(data: Path, tmp_path: Path) -> None:
    """The columns are learned from labelled slices and unlabelled stacks alike."""
    dataset = Dataset.open(data)
    made = config(data, tmp_path / "run", **{"model.condition": "lv_edv,sex,rv_esv"})
    task, files = segment.build(made, dataset)
    assert files["preprocessing.json"]["measures"] == ["lv_edv", "rv_esv"]
    batch, state = next(task.train_batches), jax.jit(task.init)(task.pretrained)
    task.train_batches.close()

    def measured(values: np.ndarray) -> float:
        _, metrics = step(state, task.constants | {"measures": values}, batch)
        return float(metrics["measures/loss"])

    step = jax.jit(task.stages[0][1])

    own, moved = task.constants["measures"], {}
    for name, subjects in (("labelled", batch["subject"]), ("unlabelled", batch["unlabelled"]["subject"])):
        moved[name] = own.copy()
        moved[name][subjects] += 5
    other = np.setdiff1d(np.arange(16), np.concatenate([batch["subject"], batch["unlabelled"]["subject"]]))
    moved["others"] = own.copy()
    moved["others"][other] += 5
    losses = {name: measured(values) for name, values in moved.items()}
    assert losses["others"] == measured(own) and min(losses["labelled"], losses["unlabelled"]) > losses["others"] + 1


@pytest.mark.slow
def test_a_conditioned_run_predicts_from_the_run_directory_alone(data: Path, tmp_path: Path) -> None:
    assert experiment.run(config(data, tmp_path / "run", **{"model.condition": "lv_edv,rv_esv"}))
    assert load_run(tmp_path / "run").predict_grid(np.zeros((2, 32, 32), np.uint8)).shape == (2, 32, 32, 4)


def test_predicted_columns_are_scaled_by_the_given_subjects(brightness: Path) -> None:
    dataset, subjects = Dataset.open(brightness), np.array([2, 5, 9])
    measures = conditioning.from_config(dataset, "haemodynamic", subjects)
    assert measures.names == ("bright", "twin")
    raw = dataset.table["bright"].to_numpy(float)
    expected = (raw - raw[subjects].mean()) / raw[subjects].std()
    np.testing.assert_allclose(measures.values[:, 0], expected, rtol=1e-5)


def test_conditioning_on_no_number_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(experiment.EXPECTED, match=r"config.model.condition='sex' selects no continuous column"):
        experiment.run(config(data, tmp_path / "run", **{"model.condition": "sex"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            weight("volume_consistency", -1.0),
            "config.unlabelled.objectives.volume_consistency.weight=-1.0: give a weight",
        ),
        (
            weight("volume_consistency", 0.0) | weight("entropy", 0.0),
            "config.unlabelled.objectives: all weights are 0; give one of volume_consistency, entropy, agreeing_stacks",
        ),
        (
            {"unlabelled.objectives.volume_consistency.huber_delta": 0.0},
            "volume_consistency.huber_delta=0.0: give an error of log volumes",
        ),
        ({"unlabelled.objectives.entropy.start": 1.5}, "objectives.entropy.start=1.5: give a fraction of the run"),
        (
            {"unlabelled.objectives.agreeing_stacks.tolerance": -0.1},
            "config.unlabelled.objectives.agreeing_stacks.tolerance=-0.1",
        ),
        ({"unlabelled.control": "swapped"}, "config.unlabelled.control='swapped' is unknown: choose none, shuffled"),
        (
            {"unlabelled.control": "shuffled"} | weight("volume_consistency", 0.0),
            "config.unlabelled.control='shuffled' has no effect",
        ),
        ({"unlabelled.slices": 9} | weight("volume_consistency", 0.0), "config.unlabelled.slices=9 has no effect"),
        ({"data.fraction": 1.0}, "subjects are labelled or held out"),
        ({"unlabelled.slices": 1}, "slices=1: the largest sax stack has"),
        ({"unlabelled.subjects": ("nobody",)}, "config.unlabelled.subjects: entry 1 is no subject"),
    ],
)
def test_what_cannot_be_is_told_by_its_key(settings: dict, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(experiment.EXPECTED, match=re.escape(message)):
        experiment.run(config(data, tmp_path / "run", **settings))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_weak_view_keeps_size_and_intensities(data: Path, tmp_path: Path) -> None:
    """A magnified heart does not have the volume in the table."""
    made = config(data, tmp_path)
    strong = augment.Augmentation(**made.augment)
    assert strong.scale != (1.0, 1.0)
    dataset = Dataset.open(data)
    task, _ = segment.build(made, dataset)
    task.train_batches.close()
    spec = task.summarise.keywords["spec"].unlabelled.batch
    assert spec.weak == dataclasses.replace(strong.geometric, scale=(1.0, 1.0), crop=None)
    assert not spec.weak.recolours and spec.weak.warps and spec.strong == strong


def test_no_unlabelled_subject_with_a_volume_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream.cells, "volumes", lambda table, *_: np.full((len(table), 2, 3), np.nan))
    with pytest.raises(ValueError, match="none has a volume of lv_cavity, lv_myocardium, rv_cavity in the table"):
        segment.build(config(data, tmp_path), Dataset.open(data))

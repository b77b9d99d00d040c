"""Self-training: pseudo-labels, their calibration, copy-paste and strong views, by hand and in
runs.
"""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import segment_acdc_gpu, segment_sax
from morphojax import augment
from morphojax.data.store.dataset import Dataset
from morphojax.objectives.self_training import weighted_dice_ce
from morphojax.tasks import experiment
from morphojax.tasks.segment import build as segment
from morphojax.tasks.segment import unlabelled
from morphojax.tasks.segment.unlabelled import base, stream
from morphojax.tasks.segment.unlabelled.batch import BatchSpec, UnlabelledBatch
from morphojax.tasks.segment.unlabelled.collapse import CollapseMonitor
from morphojax.tasks.segment.unlabelled.teacher import TeacherSpec
from morphojax.train import checkpoint
from morphojax.train.task import TrainingError
from tests.tasks import synthetic, tiny

STRUCTURES = ("lv_cavity", "lv_myocardium")


@pytest.fixture(scope="module")
def data() -> Path:
    return synthetic.dataset()


@dataclasses.dataclass
class Recorder:
    """Networks that remember what the student saw, and answer with the logits of its brightness."""

    teacher_logits: jax.Array
    seen: list = dataclasses.field(default_factory=list)

    def student(self, image: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        assert train  # batch statistics, and running ones that follow
        self.seen.append(image)
        return jnp.concatenate([-image, image, 0 * image], axis=-1), jnp.zeros((len(image), 0))

    def teacher(self, image: jax.Array) -> jax.Array:
        return self.teacher_logits.reshape(-1, *self.teacher_logits.shape[2:])


def batch_of(
    objective: str,
    settings: dict | None = None,
    teacher: TeacherSpec | None = None,
    strong: augment.Augmentation | None = None,
) -> tuple[UnlabelledBatch, base.UnlabelledSpec, Recorder]:
    """Two stacks of three 8 x 8 slices, the second slice of the first a padding; two labelled
    slices, the second of which is not annotated with the myocardium.
    """
    random = np.random.default_rng(0)
    chosen = unlabelled.from_config({objective: {"start": 0.0, "ramp": 0.0, **(settings or {})}})
    plain = strong or augment.Augmentation()
    spec = base.UnlabelledSpec(chosen, BatchSpec(plain, plain, 0, STRUCTURES, teacher or TeacherSpec()), 100)
    arrays = {
        "image": random.integers(1, 255, (2, 3, 8, 8, 1)).astype(np.uint8),
        "slice_mask": np.array([[True, False, True], [True, True, True]]),
        "voxel_size": np.full(2, 0.1, np.float32),
        "volume": np.array([[4.0, np.nan], [2.0, 3.0]], np.float32),
        "valid": np.ones(2, bool),
        "subject": np.array([4, 9], np.int32),
    }
    labelled = {
        "image": jnp.asarray(random.random((2, 8, 8, 1)).astype(np.float32)),
        "label": jnp.asarray(random.integers(0, 3, (2, 8, 8))),
        "annotated": np.array([[True, True], [True, False]]),
    }
    networks = Recorder(jnp.asarray(random.normal(0, 2, (2, 3, 8, 8, 3)).astype(np.float32)))
    return UnlabelledBatch(arrays, labelled, networks, spec.batch, jnp.int32(7)), spec, networks  # pyrefly: ignore


def test_pseudo_labels_are_the_teachers_classes() -> None:
    batch, _, networks = batch_of("copy_paste")
    pseudo = batch.pseudo_labels
    p = np.asarray(jax.nn.softmax(networks.teacher_logits))
    expected = np.where(batch.valid_slices[..., None, None], p.argmax(-1), 0)
    np.testing.assert_array_equal(pseudo.label, expected)
    np.testing.assert_allclose(pseudo.confidence, p.max(-1), rtol=1e-5)
    for c, name in enumerate(STRUCTURES, start=1):
        assert float(pseudo.metrics[f"fraction/{name}"]) == pytest.approx((expected == c).sum() / (5 * 64))


def test_calibrated_pseudo_labels_have_the_tables_volumes() -> None:
    """The expected volumes are the table's; an unknown one leaves its structure's logits alone."""
    batch, _, _ = batch_of("copy_paste", teacher=TeacherSpec(calibrate=True))
    assert float(batch.pseudo_labels.metrics["volume_after"]) < 2e-3
    counts = np.array([(batch.pseudo_labels.label[b] == c).sum() for b, c in ((0, 1), (1, 1), (1, 2))])
    error = np.abs(0.1 * counts / [4.0, 2.0, 3.0] - 1).mean()  # the label is the most probable class
    assert float(batch.pseudo_labels.metrics["label_volume_error"]) == pytest.approx(error, rel=1e-5)
    plain, _, _ = batch_of("copy_paste")
    assert not np.array_equal(batch.pseudo_labels.label, plain.pseudo_labels.label)
    more = batch.pseudo_labels.label[1] == 2  # 3 ml of 19.2 ml: fewer than a third of the pixels
    assert more.sum() < (plain.pseudo_labels.label[1] == 2).sum()


def test_pseudo_labels_of_the_largest_component_alone() -> None:
    batch, _, _ = batch_of("copy_paste", teacher=TeacherSpec(largest_component=True))
    plain, _, _ = batch_of("copy_paste")
    changed = np.asarray(batch.pseudo_labels.label != plain.pseudo_labels.label)
    assert changed.any() and not np.asarray(batch.pseudo_labels.label)[changed].any()
    assert not np.asarray(batch.pseudo_labels.confidence)[changed].any()


def test_copy_paste_mixes_both_ways() -> None:
    """Every pixel of the two mixtures is that of a labelled or of a chosen unlabelled slice, and
    what one mixture took from the one, the other took from the other. The loss by hand.
    """
    batch, spec, networks = batch_of("copy_paste", {"pseudo_weight": 0.25, "dice_weight": 0.3})
    value, _ = spec.objectives["copy_paste"].loss(batch)
    (image,) = networks.seen
    one, two = np.split(np.asarray(image)[..., 0], 2)
    labelled, pseudo = batch.labelled_pixels, batch.augmented_slices(2, "copy_paste", 0.0)
    from_labelled = one == np.asarray(labelled.image)[..., 0]
    np.testing.assert_array_equal(one, np.where(from_labelled, labelled.image[..., 0], pseudo.image[..., 0]))
    np.testing.assert_array_equal(two, np.where(from_labelled, pseudo.image[..., 0], labelled.image[..., 0]))
    assert from_labelled.any() and not from_labelled.all()
    losses = []
    for mixed, own in ((one, from_labelled), (two, ~from_labelled)):
        label = np.where(own, labelled.label, pseudo.label)
        weight = np.where(own, labelled.weight, 0.25 * pseudo.weight)
        z = mixed[..., None]
        logits = np.concatenate([-z, z, 0 * z], axis=-1)
        losses.append(float(weighted_dice_ce(logits, label, weight, 0.3)[0]))
    assert float(value) == pytest.approx(np.mean(losses), rel=1e-5)


def test_background_of_a_partly_annotated_slice_is_not_learned() -> None:
    batch, _, _ = batch_of("copy_paste")
    label, weight = batch.labelled_pixels.label, np.asarray(batch.labelled_pixels.weight)
    assert weight[0].all()
    np.testing.assert_array_equal(weight[1], label[1] > 0)


@pytest.mark.parametrize("count", [5, 7])
def test_chosen_slices_are_valid_and_differ(count: int) -> None:
    """No padding; none twice while there are enough; with their own pseudo-labels."""
    batch, _, _ = batch_of("strong_views")
    chosen = batch.augmented_slices(count, "any", 0.0)
    plain = np.asarray(batch.plain).reshape(6, 8, 8)
    found = [int(np.flatnonzero((plain == image[..., 0]).all((1, 2)))[0]) for image in np.asarray(chosen.image)]
    assert 1 not in found and len(set(found)) == 5
    labels = np.asarray(batch.pseudo_labels.label).reshape(6, 8, 8)
    np.testing.assert_array_equal(chosen.label, labels[found])


def test_unsure_pixels_and_pixels_outside_the_image_have_no_weight() -> None:
    batch, _, _ = batch_of("strong_views", strong=augment.Augmentation(translation_fraction=0.4))
    everywhere = batch.augmented_slices(5, "any", 0.0)
    inside = np.asarray(everywhere.image)[..., 0] > 0
    assert not np.asarray(everywhere.weight)[~inside].any() and 0 < inside.mean() < 1
    sure = batch.augmented_slices(5, "any", 0.7)
    assert 0 < float(sure.weight.sum()) < float(everywhere.weight.sum())


def test_strong_views_of_the_same_slices_are_drawn_apart() -> None:
    bright = augment.Augmentation(brightness=0.9)
    batch, spec, networks = batch_of("strong_views", {"views": 2, "slices": 3}, strong=bright)
    spec.objectives["strong_views"].loss(batch)
    one, two = np.split(np.asarray(networks.seen[0]), 2)
    assert one.shape == (3, 8, 8, 1)
    for first, second in zip(one, two, strict=True):
        unclipped = (first < 1) & (second < 1)
        ratio = (first / second)[unclipped]
        assert ratio.std() < 1e-4 * ratio[0] and abs(ratio[0] - 1) > 1e-3  # the same slice, brighter or darker


def test_the_pseudo_label_of_an_equal_student_is_confirmed() -> None:
    """Where the student already predicts the pseudo-label, surely, the loss is nearly 0."""
    batch, spec, networks = batch_of("strong_views", {"slices": 5})
    loud = 50 * jax.nn.one_hot(batch.augmented_slices(5, "strong_view0", 0.0).label, 3)
    networks.student = lambda image, train: (loud, None)  # pyrefly: ignore
    value, metrics = spec.objectives["strong_views"].loss(batch)
    assert float(value) < 1e-3 and float(metrics["agreement"]) == 1


def config(folder: Path, run: Path, objective: str = "copy_paste", **changes):
    off = {f"unlabelled.objectives.{name}.weight": 0.0 for name in unlabelled.OBJECTIVES}
    on = {
        f"unlabelled.objectives.{objective}.{key}": value
        for key, value in (("weight", 1.0), ("start", 0.3), ("ramp", 0.1))
    }
    settings = {"steps": 4, "eval_every": 4, "data.fraction": 0.25, "unlabelled.batch_size": 2, "ema.decay": 0.9}
    return tiny.config("segment_sax", folder, run, **off | on | settings | changes)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("arm", segment_sax.ARMS)
@pytest.mark.parametrize("config", [segment_sax, segment_acdc_gpu])
def test_an_arm_chooses_what_unlabelled_images_are_for(arm: str, config) -> None:
    chosen = config.get_config(arm).unlabelled
    objectives = unlabelled.from_config(chosen.objectives.to_dict())
    expected = {"copy_paste"} if arm in ("self_training", "calibrated") else {"volume_consistency", "entropy"}
    assert set(objectives) == expected
    assert bool(chosen.batch_size) == (arm != "supervised") and chosen.teacher.calibrate == (arm == "calibrated")


def test_an_unknown_arm_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"arm 'selftraining' .* supervised, volume, self_training, calibrated"):
        segment_sax.get_config("selftraining")


def test_self_training_starts_in_a_stage_of_its_own(data: Path, tmp_path: Path) -> None:
    """Before the start the labelled slices alone; on slices of any plane without a table."""
    made = config(data, tmp_path / "run")
    task, _ = segment.build(made, Dataset.open(data))
    assert [first for first, _ in task.stages] == [0, 2]
    batch = next(task.train_batches)
    task.train_batches.close()
    assert batch["unlabelled"]["image"].ndim == 4 and "volume" not in batch["unlabelled"]
    assert task.monitor is not None


@pytest.mark.parametrize("control", ["none", "mean", "noise_10"])
def test_calibrated_self_training(control: str, data: Path, tmp_path: Path) -> None:
    """On whole stacks; before and after calibration the volumes are logged."""
    made = config(data, tmp_path, **{"unlabelled.teacher.calibrate": True, "unlabelled.control": control})
    task, _ = segment.build(made, Dataset.open(data))
    batch = next(task.train_batches)
    task.train_batches.close()
    assert batch["unlabelled"]["image"].ndim == 5 and np.isfinite(batch["unlabelled"]["volume"]).all()
    state = jax.eval_shape(task.init, task.pretrained)
    _, metrics = jax.eval_shape(task.stages[-1][1], state, task.constants, batch)
    assert "unlabelled/teacher/volume_after" in metrics


def test_controls_change_the_volumes_as_they_say() -> None:
    random = np.random.default_rng(0)
    volumes = random.uniform(50, 200, (30, 2, 3)).astype(np.float32)
    volumes[3, 0, 0] = np.nan
    subjects = np.arange(1, 28)
    mean = stream.control("mean", volumes, subjects, 0)
    expected = np.exp(np.nanmean(np.log(volumes[1:28]), axis=0))
    known = np.isfinite(volumes[subjects])
    np.testing.assert_allclose(mean[subjects][known], np.broadcast_to(expected, (27, 2, 3))[known], rtol=1e-5)
    assert np.isnan(mean[3, 0, 0])  # no more constraints than the subject's own row gives
    for percent in (5, 20):
        ratio = np.log(stream.control(f"noise_{percent}", volumes, subjects, 0) / volumes)[1:28]
        assert np.nanstd(ratio) == pytest.approx(percent / 100, rel=0.25) and np.isnan(ratio[2, 0, 0])
        assert abs(np.nanmean(ratio)) < percent / 200
    np.testing.assert_array_equal(stream.control("none", volumes, subjects, 0), volumes)
    assert not np.array_equal(stream.control("mean", volumes, subjects, 0)[0], mean[1])  # others keep theirs
    with pytest.raises(ValueError, match="needs two unlabelled subjects"):
        stream.control("shuffled", volumes, subjects[:1], 0)


def test_absurd_volumes_are_reported_and_left_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 2000 ml, and of more than the whole image of 32 x 32 pixels."""
    own = stream.cells.volumes

    def absurd(*arguments):
        volumes = own(*arguments)
        volumes[:, :, 0], volumes[:, :, 1] = 2000.0, 1400.0
        return volumes

    monkeypatch.setattr(stream.cells, "volumes", absurd)
    dataset = Dataset.open(data)
    with caplog.at_level("WARNING", logger="absl"):
        task, _ = segment.build(config(data, tmp_path, **{"unlabelled.teacher.calibrate": True}), dataset)
    assert re.search(r"\d+ values of the table above 1500 ml", caplog.text)
    batch = next(task.train_batches)["unlabelled"]
    task.train_batches.close()
    image_ml = batch["slice_mask"].sum(1) * 32 * 32 * batch["voxel_size"]
    assert np.isnan(batch["volume"][:, 0]).all() and np.isfinite(batch["volume"][:, 2]).all()
    np.testing.assert_array_equal(np.isnan(batch["volume"][:, 1]), image_ml <= 1400)


def test_areas_calibrate_a_long_axis_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With areas in the table a long-axis slice is a stack of one; without, a message says which
    columns are missing.
    """
    data = synthetic.dataset(planes=("la_2ch",))
    changes = {"data.plane": "la_2ch", "unlabelled.teacher.calibrate": True, "data.structures": ("la_cavity",)}
    made = config(data, tmp_path, **changes)
    with pytest.raises(ValueError, match=r"none has an area of la_cavity in the table .* la_cavity:la_2ch:ED:cm2"):
        segment.build(made, Dataset.open(data))
    monkeypatch.setattr(stream.cells, "areas", lambda table, *_: np.full((len(table), 2, 1), 9.0))
    task, _ = segment.build(made, Dataset.open(data))
    batch = next(task.train_batches)["unlabelled"]
    task.train_batches.close()
    assert batch["image"].shape[:2] == (2, 1) and (batch["volume"] == 9).all()
    spacing_mm = Dataset.open(data).manifest.grid.spacing_mm
    np.testing.assert_allclose(batch["voxel_size"], spacing_mm**2 / 100, rtol=1e-6)


@pytest.mark.slow  # tests/train/test_loop.py resumes a task with EMA weights in the default run
def test_resumed_equals_never_stopped(data: Path, tmp_path: Path) -> None:
    """Stopped in the middle of self-training, teacher included, bit for bit."""
    changes = {"unlabelled.teacher.calibrate": True, "save_every": 1, "log_every": 1, "eval_every": 0}
    changes |= {"unlabelled.objectives.copy_paste.start": 0.0}
    whole, stopped = (config(data, tmp_path / name, **changes) for name in ("whole", "stopped"))
    assert experiment.run(whole)

    def stop(self: CollapseMonitor, step: int, metrics: dict) -> None:
        if step == 2:
            raise TrainingError("stopped")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError, match="stopped"):
        patch.setattr(CollapseMonitor, "__call__", stop)
        experiment.run(stopped)
    assert checkpoint.Checkpoints(tmp_path / "stopped").last in (2, 3)
    assert experiment.run(stopped)
    for weights in ("model", "ema"):
        states = [checkpoint.load_variables(tmp_path / name, "last", weights) for name in ("whole", "stopped")]
        jax.tree.map(np.testing.assert_array_equal, *states)
    logged = {name for row in rows(tmp_path / "whole") for name in row}
    for name in ("copy_paste/loss_dice", "copy_paste/confident", "teacher/fraction/rv_cavity", "teacher/volume_after"):
        assert f"train/unlabelled/{name}" in logged


def steps_of(fraction: float, labelled: float = 0.1, name: str = "rv_cavity") -> dict[str, float]:
    prefix = "unlabelled/teacher"
    return {f"{prefix}/fraction/{name}": fraction, f"{prefix}/labelled_fraction/{name}": labelled}


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.6])
def test_a_collapsed_teacher_stops_the_run(fraction: float) -> None:
    monitor = CollapseMonitor(("rv_cavity",), 10)
    for step in range(100):
        monitor(step, {"loss": 1.0})  # before the first unlabelled step
    for step in range(100, 110):
        monitor(step, steps_of(fraction))
    with pytest.raises(TrainingError, match=r"the teacher has collapsed: in the 10 steps up to 110 .* give rv_cavity"):
        monitor(110, steps_of(fraction))


def test_a_resumed_run_has_the_monitor_of_the_log() -> None:
    """Rows that are means over several steps count as many."""
    monitor = CollapseMonitor(("rv_cavity",), 10, first=40)
    for step in (19, 39):
        monitor(step, steps_of(0.0))  # before an objective acts
    monitor(43, steps_of(0.0))
    monitor(47, steps_of(0.0))
    for step in range(48, 53):
        monitor(step, steps_of(0.0))
    with pytest.raises(TrainingError, match="in the 10 steps up to 53"):
        monitor(53, steps_of(0.0))


def test_a_teacher_that_loses_a_structure_for_a_moment_goes_on() -> None:
    for fractions in ((0.1, *[0.0] * 9), (0.1, 0.1, 0.1, *[0.6] * 7)):
        monitor = CollapseMonitor(("rv_cavity",), 10)
        for step in range(100):
            monitor(step, steps_of(fractions[step % 10]))


def test_a_structure_that_is_not_in_the_labels_is_not_compared() -> None:
    monitor = CollapseMonitor(("rv_cavity",), 10)
    for step in range(100):
        monitor(step, steps_of(0.0, labelled=0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema.decay": 0.0}, "config.unlabelled.objectives.copy_paste needs EMA weights"),
        ({"unlabelled.teacher.band": 1.0}, "config.unlabelled.teacher.band=1.0: give a relative tolerance"),
        ({"unlabelled.teacher.limit": 0.0}, "config.unlabelled.teacher.limit=0.0: give a positive offset"),
        ({"unlabelled.objectives.copy_paste.sides": (0.5, 1.0)}, "copy_paste.sides=(0.5, 1.0): give two fractions"),
        ({"unlabelled.control": "mean"}, "config.unlabelled.control='mean' has no effect"),
        (
            {"unlabelled.control": "noise_7"},
            "config.unlabelled.control='noise_7' is unknown: choose none, shuffled, mean, noise_5, noise_10, noise_20",
        ),
        (
            {"unlabelled.objectives.copy_paste.weight": 0.0, "unlabelled.objectives.entropy.weight": 1.0}
            | {"unlabelled.teacher.calibrate": True},
            "config.unlabelled.teacher.calibrate has no effect",
        ),
        ({"data.fraction": 1.0}, "subjects are labelled or held out"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(changes: dict, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        segment.build(config(data, tmp_path, **changes), Dataset.open(data))


def test_a_structure_that_no_labelled_slice_shows_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Annotated, yet never there."""
    own = segment.slice_stream

    def without_rv(*arguments, **settings):
        stream = own(*arguments, **settings)
        at = stream.at

        def hide(step: int):
            batch = at(step)
            return batch | {"label": np.where(batch["label"] == 3, 0, batch["label"])}

        stream.at = hide
        return stream

    monkeypatch.setattr(segment, "slice_stream", without_rv)
    with pytest.raises(ValueError, match=r"config.unlabelled: no labelled slice shows rv_cavity"):
        segment.build(config(data, tmp_path), Dataset.open(data))

"""Pretraining and segmentation as a config asks for them, on a tiny cohort, in this process."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import segment_sax
from morphojax import export
from morphojax.anatomy import PLANES
from morphojax.data.store.dataset import Dataset
from morphojax.tasks import experiment
from morphojax.tasks.segment import build as segment
from morphojax.train import checkpoint
from morphojax.train.run import RunError
from morphojax.train.transfer import flatten
from tests.tasks import synthetic
from tests.tasks.tiny import config, moved, train


@pytest.fixture(scope="module")
def pretrained(acdc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pretrained"
    train("pretrain_sax", acdc, run)
    return run


# pretrain_arm takes a name; studies are tested in tests/analysis/study.
CONFIGS = sorted(
    {p.stem for p in Path(segment_sax.__file__).parent.glob("[!_]*.py") if not p.stem.startswith("study_")}
    - {"pretrain_arm"}
)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_a_whole_task(name: str, acdc: Path, tmp_path: Path) -> None:
    made = config(name, acdc, tmp_path / "run")
    if made.data.plane != "sax":
        made.data.dataset = str(synthetic.dataset(planes=PLANES))
    task, files = experiment.TASKS[made.task](made, Dataset.open(made.data.dataset))
    assert "preprocessing.json" in files
    batch = next(task.train_batches)
    state = jax.eval_shape(task.init, task.pretrained)
    after, metrics = jax.eval_shape(task.stages[0][1], state, task.constants, batch)
    assert "loss" in metrics and jax.tree.structure(after) == jax.tree.structure(state)


def test_pretraining_logs_what_it_promises(pretrained: Path) -> None:
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    found = {name for line in lines for name in line}
    directions = [f"{m}_{d}" for m in ("top1", "top5", "loss") for d in ("image_to_table", "table_to_image")]
    both = ["loss", *directions, "temperature", "embedding_norm_image", "effective_rank_image", "effective_rank_table"]
    both += ["alignment", "uniformity_image", "uniformity_table", "modality_gap"]
    both = ["loss", *(f"info_nce/{name}" for name in both)]
    assert {f"{split}/{name}" for split in ("train", "val") for name in both} <= found
    assert {
        "train/learning_rate",
        "train/examples_per_second",
        "train/grad_norm/encoder",
        "train/grad_norm/table_encoder",
    } <= found
    assert json.loads((pretrained / "table.json").read_text())  # imputation and scaling, as JSON
    assert list(pretrained.glob("events.out.tfevents*"))


def test_segmentation_starts_from_the_pretrained_encoder(acdc: Path, pretrained: Path, tmp_path: Path) -> None:
    made = config("segment_sax", acdc, tmp_path, init_from=str(pretrained))
    task, _ = segment.build(made, Dataset.open(acdc))
    state = jax.jit(task.init)(task.pretrained)
    source = checkpoint.load_variables(pretrained, "last")
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], source["params"]["encoder"])
    jax.tree.map(
        np.testing.assert_array_equal, state.collections["batch_stats"]["encoder"], source["batch_stats"]["encoder"]
    )


def test_every_task_starts_from_a_weight_file(acdc: Path, pretrained: Path, tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    assert export.main([f"--run={pretrained}", f"--output={file}", "--checkpoint=last"]) == 0
    source = flatten(checkpoint.load_variables(pretrained, "last"))
    for name in ("pretrain_sax", "segment_sax", "probe"):
        made = config(name, acdc, tmp_path / name, init_from=str(file))
        task, _ = experiment.TASKS[made.task](made, Dataset.open(acdc))
        assert {n.split("/")[1] for n in task.pretrained} == {"encoder"}
        for key, array in task.pretrained.items():
            if "stem_conv" in key:  # the frames of a task are its own
                np.testing.assert_allclose(array.sum(2), source[key].sum(2), rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(array, source[key], err_msg=key)


def test_a_frozen_encoder_is_frozen_batchnorm_and_all(acdc: Path, pretrained: Path, tmp_path: Path) -> None:
    source = checkpoint.load_variables(pretrained, "last")
    after = train("segment_sax", acdc, tmp_path, init_from=str(pretrained), freeze="encoder", steps=2)
    assert not moved(source, after, "params", "encoder") and not moved(source, after, "batch_stats", "encoder")
    assert np.abs(after["params"]["head"]["bias"]).max() > 0


def test_probing_then_training_all(acdc: Path, pretrained: Path, tmp_path: Path) -> None:
    source = checkpoint.load_variables(pretrained, "last")
    settings = dict(
        init_from=str(pretrained), freeze="probe_then_full", steps=2, probe_steps=1, eval_every=0, save_every=1
    )
    made = config("segment_sax", acdc, tmp_path, **settings)
    dataset = Dataset.open(acdc)
    task, _ = segment.build(made, dataset)
    state = jax.jit(task.init)(task.pretrained)
    batch = next(task.train_batches)
    (first, probe), (second, full) = task.stages
    assert (first, second) == (0, 1)
    state, _ = jax.jit(probe)(state, task.constants, batch)
    assert not moved(source, state.variables, "params", "encoder") and not moved(
        source, state.variables, "batch_stats", "encoder"
    )
    state, _ = jax.jit(full)(state, task.constants, batch)
    assert moved(source, state.variables, "params", "encoder") and moved(
        source, state.variables, "batch_stats", "encoder"
    )
    task.train_batches.close()


def test_the_published_recipe_runs_and_transfers(acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    small = {"model.table.mlp.hidden_units": 8}
    train("pretrain_sax_hager", acdc, tmp_path / "hager", **small)
    made = config("segment_sax", acdc, tmp_path / "segment", init_from=str(tmp_path / "hager"))
    task, _ = segment.build(made, Dataset.open(acdc))
    assert "3 input channels summed, shared among 1" in capsys.readouterr().out
    kernel = checkpoint.load_variables(tmp_path / "hager", "last")["params"]["encoder"]["stem_conv"]["kernel"]
    np.testing.assert_allclose(
        task.pretrained["params/encoder/stem_conv/kernel"], kernel.sum(2, keepdims=True), rtol=1e-6
    )


@pytest.mark.slow
def test_attention_learned_temperature_bf16_and_accumulation_run(acdc: Path, tmp_path: Path) -> None:
    settings = {
        "model.pooling": "attention",
        "objectives.info_nce.learned_temperature": True,
        "model.dtype": "bfloat16",
    }
    after = train("pretrain_sax", acdc, tmp_path, **settings, **{"optimizer.accumulate": 2, "steps": 2})
    assert (
        "slice_pool" in after["params"]
        and after["params"]["heads_info_nce"]["temperature"]["log_temperature"].shape == ()
    )
    assert {a.dtype for a in jax.tree.leaves(after["params"])} == {np.dtype("float32")}


def test_no_cardiac_morphometrics_is_one_override(acdc: Path, tmp_path: Path) -> None:
    train("pretrain_sax", acdc, tmp_path / "a", **{"table.groups": "cardiac_morphometric"})
    columns = [c["name"] for c in json.loads((tmp_path / "a" / "table.json").read_text())["schema"]]
    assert len(columns) == 9 and "group" not in columns


def test_an_encoder_of_another_preparation_is_refused(acdc: Path, pretrained: Path, tmp_path: Path) -> None:
    described = json.loads((pretrained / "preprocessing.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "checkpoints").symlink_to(pretrained / "checkpoints")
    (other / "preprocessing.json").write_text(json.dumps(described | {"grid": {"spacing_mm": 2.0, "size": 32}}))
    with pytest.raises(RunError, match=r"config.init_from=.*grid.*prepare the dataset anew"):
        segment.build(config("segment_sax", acdc, tmp_path, init_from=str(other)), Dataset.open(acdc))


def test_another_width_finds_nothing_to_transfer(acdc: Path, pretrained: Path, tmp_path: Path) -> None:
    made = config("segment_sax", acdc, tmp_path, init_from=str(pretrained), **{"model.width": 8})
    with pytest.raises(ValueError, match=r"config.init_from: nothing .* fits"):
        segment.build(made, Dataset.open(acdc))


def test_an_unlabelled_structure_is_allowed_beside_a_labelled_one(acdc: Path, tmp_path: Path) -> None:
    made = config("segment_sax", acdc, tmp_path, **{"data.structures": ("lv_cavity", "la_cavity")})
    task, files = segment.build(made, Dataset.open(acdc))
    assert files["preprocessing.json"]["structures"] == ["lv_cavity", "la_cavity"]
    assert task.best == ("dice", True)  # the highest Dice
    # No atrium is ever drawn in this plane: it is background here.
    assert next(task.train_batches)["annotated"].tolist() == [[True, True]] * 2
    assert task.summarise.keywords["spec"].class_of[[0, 1, 2, 3, 4, 5]].tolist() == [0, 1, 0, 0, 2, 0]
    with pytest.raises(ValueError, match="labels none of them"):
        segment.build(config("segment_sax", acdc, tmp_path, **{"data.structures": ("la_cavity",)}), Dataset.open(acdc))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "dream"}, "config.task='dream' is unknown: choose one of pretrain, segment, probe"),
        ({"model.encoder": "resnet19"}, "config.model.encoder='resnet19' is unknown: choose one of "),
        ({"model.dtype": "float16"}, "config.model.dtype='float16' is unknown"),
        ({"freeze": "all"}, "config.freeze='all' is unknown: choose none, encoder or probe_then_full"),
        ({"freeze": "probe_then_full", "probe_steps": 5}, "config.probe_steps=5"),
        ({"data.dataset": "nowhere"}, "nowhere"),
        ({"data.plane": "la_2ch"}, "config.data.plane='la_2ch': la_2ch not in"),
        ({"data.subjects": ("nobody",)}, "config.data.subjects: entry 1 is no subject"),
        ({"data.subjects": ("patient006",)}, "entry 1 is in the val split"),
        ({"data.splits": ("training",)}, "config.data.splits: training unknown"),
        ({"data.fraction": 0.0}, "config.data.fraction=0.0"),
        ({"epochs": 1.0}, "give one of config.steps=1 and config.epochs=1.0"),
        ({"batch_size": 0}, "config.batch_size=0"),
        ({"save_every": 0}, "config.save_every=0"),
        ({"init_from": "runs/none"}, "no run and no checkpoint here"),
        ({"augment.flip_horizontal": 0.5}, "flip"),
        ({"workdir": "/proc/nowhere"}, "config.workdir=/proc/nowhere: cannot be written"),
    ],
)
def test_what_a_config_has_wrong_is_told_by_its_key(settings: dict, message: str, acdc: Path, tmp_path: Path) -> None:
    made = config("segment_sax", acdc, tmp_path / "run", **settings)
    with pytest.raises(experiment.EXPECTED, match=re.escape(message)):
        experiment.run(made)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_table_selection_names_what_exists(acdc: Path, tmp_path: Path) -> None:
    with pytest.raises(experiment.EXPECTED, match="cardiac_morphometric"):
        experiment.run(config("pretrain_sax", acdc, tmp_path, **{"table.groups": "morphometry"}))


def test_leaking_columns_can_be_dropped(acdc: Path, tmp_path: Path) -> None:
    """Every cardiac morphometric leaks a segmentation; what is left of this cohort's table is one
    constant column.
    """
    with pytest.raises(experiment.EXPECTED, match="constant"):
        experiment.run(config("pretrain_sax", acdc, tmp_path, **{"table.without_leaks_for": "segmentation"}))


def test_layer_decay_reaches_the_encoder(acdc: Path, tmp_path: Path) -> None:
    """With a factor of 0 the encoder's layers do not move at all, and the head does."""
    task, _ = segment.build(
        config("segment_sax", acdc, tmp_path, **{"optimizer.layer_decay": 0.0, "optimizer.warmup": 0.0}),
        Dataset.open(acdc),
    )
    state = jax.jit(task.init)(task.pretrained)
    after, _ = jax.jit(task.stages[0][1])(state, task.constants, next(task.train_batches))
    task.train_batches.close()
    assert not moved(state.variables, after.variables, "params", "encoder")
    assert moved(state.variables, after.variables, "params", "head")

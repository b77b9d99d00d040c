"""Frames of a cine through the whole program: pretrain on them as channels, embed, fine-tune,
segment.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from morphojax.data.geometry import Grid
from morphojax.data.sources.synthetic import Synthetic
from morphojax.data.store.dataset import Dataset
from morphojax.inference import embed
from morphojax.tasks import experiment
from morphojax.tasks.probe import build as probe
from morphojax.tasks.segment import build as segment
from morphojax.train import checkpoint
from tests.data.preparing import prepare
from tests.tasks import synthetic
from tests.tasks.tiny import config, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort of the other tests, with all frames of its cines."""
    cohort = synthetic.dataset().parent / "cohort"
    out = tmp_path_factory.mktemp("cine") / "out"
    prepare(Synthetic(cohort, frames="all"), out, name="synthetic", grid=Grid(5.0, 32), workers=1, progress=False)
    return out


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cine") / "run"
    quick = {"eval_every": 0, "dynamics_every": 0}
    train("pretrain_sax", data, path, **{"input.channels": "cycle", "input.cycle_frames": 4}, **quick)
    return path


def kernel(variables: dict) -> np.ndarray:
    return np.asarray(variables["params"]["encoder"]["stem_conv"]["kernel"])


def test_an_encoder_of_four_frames_embeds_them(run: Path, data: Path) -> None:
    encoder, dataset = embed.load_encoder(run), Dataset.open(data)
    assert kernel(encoder.variables).shape[2] == 4
    found = embed.embed(encoder, dataset)
    assert found.subject.tolist() == list(range(16))
    stacks = dataset.stacks("sax").set_index(["subject", "phase"])
    for subject in (0, 9):
        image = []
        for phase in ("t000", "t001", "t003", "t004"):  # of six
            first, slices = stacks.loc[(subject, phase), ["first", "slices"]]
            image.append(dataset.slices("sax")[first + slices // 2]["image"])
        one = encoder.apply(np.stack(image, axis=-1)[None, None], np.ones((1, 1), bool), ("sax",))
        np.testing.assert_allclose(found.values[subject], one[0], rtol=1e-4, atol=1e-5)


def test_it_is_fine_tuned_on_four_frames_and_segments_one(run: Path, data: Path, tmp_path: Path, capsys) -> None:
    cycle = {"input.channels": "cycle", "input.cycle_frames": 4, "label": "lv_edv"}
    task, _ = probe.build(config("probe", data, tmp_path / "probe", init_from=str(run), **cycle), Dataset.open(data))
    pretrained = kernel(checkpoint.load_variables(run, "last"))
    np.testing.assert_array_equal(task.pretrained["params/encoder/stem_conv/kernel"], pretrained)
    state, batch = jax.eval_shape(task.init, task.pretrained), next(task.train_batches)
    task.train_batches.close()
    assert batch["image"].shape == (2, 1, 32, 32, 4)
    jax.eval_shape(task.stages[0][1], state, task.constants, batch)
    made = config("segment_sax", data, tmp_path / "segment", init_from=str(run))
    task, _ = segment.build(made, Dataset.open(data))
    assert "4 input channels summed, shared among 1" in capsys.readouterr().out
    adapted = task.pretrained["params/encoder/stem_conv/kernel"]
    np.testing.assert_allclose(adapted, pretrained.sum(2, keepdims=True), rtol=1e-5, atol=1e-6)


def test_frames_of_the_cine_are_examples(data: Path, tmp_path: Path) -> None:
    task, _ = experiment.build(config("pretrain_sax", data, tmp_path, **{"input.frames": ("cine",)}))
    assert task.validation_batches is not None
    assert (
        next(task.train_batches)["image"].shape == next(task.validation_batches())["image"].shape == (2, 2, 32, 32, 1)
    )
    task.train_batches.close()


def test_without_the_frames_it_is_told_how_to_get_them(tmp_path: Path) -> None:
    made = config("pretrain_sax", synthetic.dataset(), tmp_path, **{"input.frames": ("cine",)})
    with pytest.raises(experiment.EXPECTED, match="prepare the dataset with --frames=all"):
        experiment.build(made)

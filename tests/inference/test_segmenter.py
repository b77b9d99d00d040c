import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import segment_sax
from morphojax import anatomy
from morphojax.inference.segmenter import load_run
from morphojax.tasks.segment.build import build_model
from morphojax.train.checkpoint import CheckpointError, Checkpoints
from morphojax.train.run import RunError
from morphojax.train.state import TrainState
from tests.tasks.tiny import TINY
from tests.toy_run import GREY, toy_image, toy_label, toy_run

AFFINE = np.diag([-2.0, -2.0, 8.0, 1.0])


def test_labels_of_a_native_stack_are_exact():
    label = toy_label()
    run = toy_run()  # the grid has the native spacing, so nothing is interpolated
    probabilities = run.predict(toy_image(label), AFFINE)
    assert probabilities.shape == (*label.shape, 4) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(run.labels(probabilities, "sax"), label)


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1)])
def test_orientation_and_resampling_are_undone(signs):
    label = toy_label((60, 52, 4), radius=10)
    affine = np.diag([signs[0] * 1.3, signs[1] * 1.4, 8.0, 1.0])
    run = toy_run(size=64, spacing=1.25)
    labels = run.labels(run.predict(toy_image(label), affine), "sax")
    # Grey values between classes are other classes here, so compare away from the borders of
    # structures.
    for structure in run.structures:
        mask, got = (x == anatomy.LABEL_ID[structure] for x in (label, labels))
        assert 2 * (mask & got).sum() / (mask.sum() + got.sum()) > 0.7, structure


def test_outside_the_crop_is_background():
    label = np.full((40, 36, 2), anatomy.LABEL_ID["lv_cavity"], np.uint8)
    label[0] = 0  # normalising takes the darkest for background
    run = toy_run(size=16)
    probabilities = run.predict(toy_image(label), AFFINE)
    labels = run.labels(probabilities, "sax")
    assert (labels[12:28, 10:26] == anatomy.LABEL_ID["lv_cavity"]).all()
    assert (labels[:11] == 0).all() and (probabilities[:11, ..., 0] == 1).all()


def test_batches_do_not_matter_and_classes_map_to_canonical_ids():
    structures = ("la_cavity", "ra_cavity")
    slices = np.full((7, 48, 48), GREY[1], np.uint8)
    slices[3] = GREY[2]
    a = toy_run("la_4ch", structures, batch_size=4).predict_grid(slices)
    b = toy_run("la_4ch", structures, batch_size=16).predict_grid(slices)
    np.testing.assert_array_equal(a, b)
    labels = toy_run("la_4ch", structures).labels(a, "la_4ch")
    assert (labels[3] == anatomy.LABEL_ID["ra_cavity"]).all() and (labels[4] == anatomy.LABEL_ID["la_cavity"]).all()


def test_labels_are_of_structures_that_the_plane_shows():
    rv, la = (anatomy.LABEL_ID[name] for name in ("rv_cavity", "la_cavity"))
    run = toy_run("la_2ch", ("rv_cavity", "la_cavity"))
    probabilities = np.array([[0.1, 0.3, 0.6], [0.1, 0.7, 0.2], [0.3, 0.6, 0.1]])
    assert run.labels(probabilities, "la_2ch").tolist() == [la, la, 0]
    assert run.labels(probabilities, "la_4ch").tolist() == [la, rv, rv]


def test_probabilities_are_the_softmax_of_the_logits():
    run = toy_run()
    one = np.full((1, 48, 48), 100, np.uint8)
    logits = -1e3 * (100 / 255 - np.array(GREY[:4]) / 255) ** 2
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(run.predict_grid(one)[0, 5, 5], expected, rtol=1e-3, atol=1e-20)


def test_wrong_slices_and_broken_models_are_refused():
    run = toy_run()
    with pytest.raises(ValueError, match="48, 48"):
        run.predict_grid(np.zeros((2, 40, 48), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        run.predict_grid(np.zeros((2, 48, 48), np.float32))
    broken = type(run)(
        run.planes, run.grid, run.percentiles, run.structures, lambda x: np.full((4, 48, 48, 4), np.nan), batch_size=4
    )
    with pytest.raises(RunError, match="NaN"):
        broken.predict_grid(np.zeros((2, 48, 48), np.uint8))


def described(**changes):
    images = {
        "planes": ["sax"],
        "channels": "frame",
        "grid": {"spacing_mm": 2.0, "size": 48},
        "percentiles": [1, 99],
        "structures": ["lv_cavity"],
        "measures": [],
        "dataset_fingerprint": "x",
    }
    return {k: v for k, v in (images | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "preprocessing.json: not found"),
        (described(structures=[]), "no segmentation run"),
        (described(channels="phases"), "no segmentation run"),
        (described(grid=None), "preprocessing.json: not as a run writes it"),
    ],
)
def test_a_directory_that_is_no_segmentation_run_is_named(tmp_path, images, message):
    (tmp_path / "config.json").write_text("{}")
    if images is not None:
        (tmp_path / "preprocessing.json").write_text(json.dumps(images))
    with pytest.raises(RunError, match=re.escape(str(tmp_path)) + ".*" + message.rpartition(": ")[2]):
        load_run(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with two checkpoints, of which the first is the better one."""
    root = tmp_path_factory.mktemp("run")
    config = segment_sax.get_config().to_dict()
    config["model"] |= {"encoder": TINY["model.encoder"], "width": 4, "decoder_widths": (4, 4, 4)}
    model = build_model(config, 2, 0)
    # Any positive numbers will do for weights, and cost no compilation of initialisers.
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 48, 48, 1)), train=False))
    checkpoints, variables = Checkpoints(root), {}
    for step, score in enumerate((0.9, 0.1)):
        draw = np.random.default_rng(step)
        variables[step] = jax.tree.map(lambda x, d=draw: jnp.asarray(d.uniform(0.01, 0.1, x.shape), x.dtype), shapes)
        checkpoints.save(step, TrainState.create(variables[step], optax.sgd(0.1)), {}, score)
    checkpoints.close()
    (root / "config.json").write_text(json.dumps(config))
    (root / "preprocessing.json").write_text(json.dumps(described()))
    return root, jax.jit(lambda v, image: jax.nn.softmax(model.apply(v, image, train=False)[0])), variables


@pytest.mark.parametrize(("which", "step"), [("best", 0), ("last", 1)])
def test_a_run_directory_alone_is_enough(trained, which, step):
    root, reference, variables = trained
    run = load_run(root, which, batch_size=2)
    assert (run.planes, run.structures, run.percentiles) == (("sax",), ("lv_cavity",), (1.0, 99.0))
    slices = np.random.default_rng(0).integers(0, 256, (2, 48, 48), np.uint8)
    expected = reference(variables[step], jnp.asarray(slices[..., None], jnp.float32) / 255)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(run.predict_grid(slices), expected, atol=1e-5)


def test_a_config_without_its_model_is_named(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    del config["model"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"config.json: not as a run writes it \(KeyError"):
        load_run(run)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_difference(trained, tmp_path):
    root, _, _ = trained
    (tmp_path / "checkpoints").symlink_to(root / "checkpoints")
    (tmp_path / "config.json").write_text((root / "config.json").read_text())
    (tmp_path / "preprocessing.json").write_text(json.dumps(described(structures=["lv_cavity", "rv_cavity"])))
    with pytest.raises(RunError, match=r"another architecture.*head.*\(4, 8\) in the checkpoint, \(4, 12\)"):
        load_run(tmp_path)


def test_a_missing_checkpoint_is_named(trained, tmp_path):
    root, _, _ = trained
    for name in ("config.json", "preprocessing.json"):
        (tmp_path / name).write_text((root / name).read_text())
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        load_run(tmp_path)

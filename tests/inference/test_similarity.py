"""The similarity of a finished pretraining, against the forward pass of its training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.data.store.dataset import Dataset
from morphojax.inference import similarity as similarities
from morphojax.objectives.embeddings import l2_normalise
from morphojax.tasks.pretrain import task
from morphojax.tasks.pretrain.finished import rebuild
from tests.tasks import tiny


@pytest.mark.parametrize("encoder, name", [("mlp", "info_nce"), ("transformer", "match")])
def test_embeddings_are_those_of_the_training(brightness, tmp_path, encoder, name):
    changes = {"model.table.encoder": encoder, "table.control": "shuffled", "table.imputation": "iterative"}
    config = tiny.config("pretrain_sax", brightness, tmp_path, **changes).to_dict()
    config["objectives"] = {name: {"features": 8}}
    dataset = Dataset.open(brightness)
    built = rebuild(config, dataset, None)
    assert (built.table.missing == rebuild(config, dataset, built.table.encoder).table.missing).all()
    batch = {
        "image": np.random.default_rng(0).integers(0, 255, (4, *built.spec.image_shape), np.uint8),
        "slice_mask": np.array([[1, 1], [1, 0], [1, 1], [0, 1]], bool),
        "position": np.zeros((4, 2), np.float32),
        "values": built.table.values[:4],
        "missing": built.table.missing[:4],
        "subject": np.arange(4),
        "valid": np.ones(4, bool),
    }
    batch = jax.tree.map(jnp.asarray, batch)
    assert batch["missing"].any(), "the row of a subject lacks a value"
    random = np.random.default_rng(1)  # positive, because some are variances
    shapes = jax.eval_shape(lambda: task.init_variables(built.spec))
    variables = jax.tree.map(lambda x: random.uniform(0.1, 0.3, x.shape).astype(x.dtype), shapes)
    constants = built.table.constants(built.train)
    forward = jax.jit(lambda v: task.forward(v, constants, batch, built.spec, step=None, train=False).outputs[name])
    expected = forward(variables)
    embed_images, embed_rows = similarities._encoders(built, name, variables, tmp_path)
    inputs = similarities.encode_inputs(batch["values"], batch["missing"], built.table.cardinalities)
    image = embed_images(batch["image"].astype(jnp.float32) / 255, batch["slice_mask"])
    np.testing.assert_allclose(image, l2_normalise(expected["image"]), atol=1e-5)
    np.testing.assert_allclose(embed_rows(inputs), l2_normalise(expected["table"]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, rtol=1e-5)


def test_the_baseline_is_the_mean_encoded_row():
    """Of a number, of the frequency of each class, and of the missing flags."""
    values = np.array([[2, 0], [0, 1], [1, 1], [1, 2]], np.float32)
    missing = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], bool)
    inputs = similarities.encode_inputs(values, missing, (1, 3))
    np.testing.assert_array_equal(inputs[3], [1, 0, 0, 1, 0, 1])
    np.testing.assert_allclose(inputs.mean(axis=0), [1, 0.25, 0.5, 0.25, 0.25, 0.25])

"""The encoder of a run as a weight file: the same features in transformers, and the same bits when
it is loaded again.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from morphojax import export
from morphojax.inference import embed
from morphojax.models.encoders import ENCODERS
from morphojax.train import weights
from morphojax.train.checkpoint import Checkpoints
from morphojax.train.state import TrainState
from morphojax.train.transfer import flatten, transfer_published
from tests.tasks.tiny import TINY

RNG = np.random.default_rng(0)


def run_of(path, name, width):
    """A run directory of one checkpoint with an encoder drawn at random, and its variables."""
    module, image = ENCODERS[name](width=width), jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: module.init(key, x, False), jax.random.key(0), image)
    tree = jax.tree.map(lambda x: jnp.asarray(RNG.uniform(0.5, 1.5, x.shape), jnp.float32), dict(shapes))
    tree = {"params": {}, "batch_stats": {}} | {c: {"encoder": v} for c, v in tree.items()}
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"model": {"encoder": name, "width": width, "dtype": "float32"}, "input": {}})
    )
    (path / "preprocessing.json").write_text(
        json.dumps(
            {
                "channels": "frame",
                "grid": {"size": 32, "spacing_mm": 2.0},
                "planes": ["sax"],
                "percentiles": [0.5, 99.5],
            }
        )
    )
    checkpoints = Checkpoints(path)
    checkpoints.save(1, TrainState.create(tree, optax.sgd(0.1)), None, None)
    checkpoints.close()
    return tree


def test_an_exported_encoder_loads_bit_for_bit_and_is_the_same_network_in_transformers(tmp_path, capsys):
    tree = run_of(tmp_path / "run", TINY["model.encoder"], 8)
    file = tmp_path / "encoder.safetensors"
    assert export.main([f"--run={tmp_path / 'run'}", f"--output={file}"]) == 0
    assert f"written to {file}" in capsys.readouterr().out
    loaded, _ = transfer_published(str(file), tree)
    exported = flatten(tree)
    assert loaded.keys() == exported.keys()
    for key, array in exported.items():
        np.testing.assert_array_equal(loaded[key], array, err_msg=key)

    transformers = pytest.importorskip("transformers", reason="loading an export needs transformers")
    torch = pytest.importorskip("torch", reason="loading an export needs PyTorch")
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    model = transformers.ResNetModel(config).eval()
    model.load_state_dict({n: torch.tensor(a) for n, a in weights.read(file).items()}, strict=True)
    image = RNG.integers(0, 256, (1, 1, 32, 32, 1), np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(image[0]).permute(0, 3, 1, 2) / 255).pooler_output
    pooled = embed.load_encoder(tmp_path / "run").apply(image, np.ones((1, 1), bool), ("sax",))
    np.testing.assert_allclose(pooled, expected[:, :, 0, 0], rtol=1e-4)


def test_what_cannot_be_exported_is_refused(tmp_path, capsys):
    run_of(tmp_path / "vit", "vit_tiny", 8)
    run_of(tmp_path / "resnet", TINY["model.encoder"], 4)

    def refused(run, output, message):
        assert export.main([f"--run={tmp_path / run}", f"--output={tmp_path / output}"]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / output).exists()

    refused("vit", "a.safetensors", "config.model.encoder=vit_tiny: transformers has no such encoder")
    refused("resnet", "a.pt", "give a name that ends in .safetensors")
    refused("resnet", "none/a.safetensors", "does not exist; make the folder first")
    refused("nothing", "a.safetensors", "no run and no checkpoint here")

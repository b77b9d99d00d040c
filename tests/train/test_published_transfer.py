"""config.init_from=FILE: an encoder that others published becomes that of a task, whole or not at
all.
"""

import jax
import numpy as np
import pytest
import safetensors.numpy

from morphojax.models import published
from morphojax.models.encoders import ENCODERS
from morphojax.train.transfer import Origin, TransferError, flatten, load, merge, transfer_published
from morphojax.train.weights import WeightsError

RNG = np.random.default_rng(0)


def variables(name="resnet18", width=8, channels=1):
    """{"params": {"encoder", "head"}, "batch_stats": {"encoder"}} drawn at random."""
    module, image = ENCODERS[name](width=width), jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32)
    shapes = jax.eval_shape(lambda key, x: module.init(key, x, False), jax.random.key(0), image)
    tree = jax.tree.map(lambda x: RNG.standard_normal(x.shape).astype(np.float32), dict(shapes))
    tree = {collection: {"encoder": value} for collection, value in tree.items()}
    tree["params"]["head"] = {"bias": np.zeros(2, np.float32)}
    return tree


def published_file(path, tree, prefix="", **others):
    hub, _ = published.to_hugging_face(flatten({c: v["encoder"] for c, v in tree.items()}))
    safetensors.numpy.save_file({prefix + n: a for n, a in hub.items()} | others, path)
    return str(path)


def test_the_encoder_is_taken_whole_and_the_rest_is_left(tmp_path, capsys):
    source, target = variables(), variables()
    file = published_file(tmp_path / "a.safetensors", source, "model.", **{"classifier.weight": np.zeros((2, 2))})
    merged = merge(target, load(Origin(file), {}, target))
    for collection in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, merged[collection]["encoder"], source[collection]["encoder"])
    assert merged["params"]["head"]["bias"] is target["params"]["head"]["bias"]
    told = capsys.readouterr()
    assert "a ResNet, names of transformers, under model" in told.out + told.err
    assert "classifier.weight" in told.out + told.err and "loaded     " in told.out + told.err


def test_input_channels_are_adapted_and_told(tmp_path):
    source = variables(channels=3)
    taken, report = transfer_published(published_file(tmp_path / "a.safetensors", source), variables())
    kernel = taken["params/encoder/stem_conv/kernel"]
    np.testing.assert_allclose(
        kernel[:, :, 0], source["params"]["encoder"]["stem_conv"]["kernel"].sum(2), rtol=1e-5, atol=1e-6
    )
    assert "adapted    1" in report and "3 input channels summed, shared among 1" in report


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"width": 16}, r"a ResNet of another size \(config.model.encoder, config.model.width\).*of another shape"),
        ({"name": "resnet34"}, r"not in the file: .*stage\d_block3"),
        ({"name": "convnext_pico"}, r"another architecture: a ResNet .*, the encoder of the config is a ConvNeXt"),
        (
            {"name": "vit_tiny"},
            r"another architecture: a ResNet .*, the encoder of the config is of a kind that is not published",
        ),
    ],
)
def test_another_encoder_is_refused(tmp_path, target, message):
    file = published_file(tmp_path / "a.safetensors", variables())
    with pytest.raises(TransferError, match=rf"config.init_from=.*a\.safetensors: .*{message}"):
        transfer_published(file, variables(**target))


def test_a_file_without_an_encoder_or_that_is_not_there_is_told(tmp_path):
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(TransferError, match=r"x\.safetensors: no encoder of a known family .*: it holds x"):
        transfer_published(str(tmp_path / "x.safetensors"), variables())
    with pytest.raises(WeightsError, match=r"none\.ckpt: no such file"):
        transfer_published(str(tmp_path / "none.ckpt"), variables())

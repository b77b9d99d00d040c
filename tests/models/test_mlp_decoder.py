"""The all-MLP decoder against transformers' SegformerDecodeHead with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.mlp_decoder import MLPDecoder
from morphojax.models.resnet import BasicBlock, ResNet
from morphojax.models.towers import Segmenter

RNG = np.random.default_rng(0)
CHANNELS = (4, 6, 8, 10)


def maps():
    return [RNG.standard_normal((2, 16 // 2**i, 24 // 2**i, c), np.float32) for i, c in enumerate(CHANNELS)]


def test_features_equal_pytorch():
    torch = pytest.importorskip("torch", reason="the oracle for the MLP decoder needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="the oracle for the MLP decoder needs transformers")
    config = transformers.SegformerConfig(hidden_sizes=list(CHANNELS), decoder_hidden_size=12, num_labels=3)
    segformer = transformers.models.segformer.modeling_segformer
    torch.manual_seed(0)
    head = segformer.SegformerDecodeHead(config).train()
    head.dropout, head.classifier = torch.nn.Identity(), torch.nn.Identity()
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.5)
    pyramid = maps()
    expected = head([torch.from_numpy(x).permute(0, 3, 1, 2) for x in pyramid])

    def read(p):
        return p.detach().numpy()

    # transformers concatenates the levels from the coarsest.
    fuse = read(head.linear_fuse.weight)[:, :, 0, 0].reshape(12, 4, 12)[:, ::-1].reshape(12, 48).T
    params = {
        **{
            f"level{i}_project": {"kernel": read(layer.proj.weight).T, "bias": read(layer.proj.bias)}
            for i, layer in enumerate(head.linear_projections)
        },
        "fuse": {"kernel": fuse[None, None]},
        "fuse_norm": {"scale": read(head.batch_norm.weight), "bias": read(head.batch_norm.bias)},
    }
    decoder, image = MLPDecoder(12), np.zeros((2, 64, 96, 1), np.float32)
    variables = jax.jit(decoder.init, static_argnums=2)(jax.random.key(0), (image, *pyramid), True)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, dict(variables["params"]))
    ours, _ = decoder.apply({**variables, "params": params}, (image, *pyramid), True, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, expected.detach().permute(0, 2, 3, 1), atol=1e-4)


def test_segmenter_with_mlp_decoder_and_condition():
    """The condition has no effect at first, and one as soon as its linear map is not zero."""
    model = Segmenter(ResNet((1, 1, 1, 1), BasicBlock, width=4), MLPDecoder(8, "group"), n_classes=3, measures=2)
    image = RNG.standard_normal((2, 40, 32, 1), np.float32)
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), image, False)
    apply = jax.jit(model.apply, static_argnums=2)
    logits, predicted = apply(variables, image, False)
    assert logits.shape == (2, 40, 32, 3) and predicted.shape == (2, 2) and np.isfinite(logits).all()
    film = variables["params"]["decoder"]["fuse_film"]
    film["kernel"] = jnp.ones_like(film["kernel"])
    assert not np.allclose(apply(variables, image, False)[0], logits, atol=1e-3)

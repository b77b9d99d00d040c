"""The published vision transformer: learned positions and class token against transformers'
ViTModel; stochastic depth.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.attention import Block, resize_positions
from morphojax.models.encoders import ENCODERS
from morphojax.models.vit import VisionTransformer
from tests.models.test_vit import D, convert, encode_visible, normal, small_variables, torch_vit

PUBLISHED = VisionTransformer(width=8, depth=4, heads=2, patch=16, image_size=224, taps=(1, 2, 3, 4))
SMALL = VisionTransformer(width=8, depth=2, heads=2, patch=8, image_size=32, taps=(1, 2))


@pytest.mark.parametrize("size", [224, 128])
def test_tokens_of_every_tap_and_pooled_equal_pytorch(size):
    model = torch_vit(channels=3, num_hidden_layers=4, patch_size=16, image_size=224).eval()
    import torch

    image = normal(2, size, size, 3)
    outs = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, out: outs.append(out))
    with torch.no_grad():
        last = model(
            torch.from_numpy(image).permute(0, 3, 1, 2), interpolate_pos_encoding=size != 224
        ).last_hidden_state
    expected = [*(out[0] if isinstance(out, tuple) else out for out in outs), last]
    params = convert(model, lambda p: p.detach().numpy().copy(), positions=True)
    wanted = jax.eval_shape(lambda: PUBLISHED.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), False))["params"]
    pyramid = jax.tree.map(lambda p: np.ones(p.shape, np.float32), wanted["pyramid"])
    variables = {"params": {**params, "pyramid": pyramid}}
    assert jax.tree.map(np.shape, variables["params"]) == jax.tree.map(np.shape, dict(wanted))

    def both(image):
        return PUBLISHED.apply(variables, image, False, method="tokens"), PUBLISHED.apply(variables, image, False)

    ours, features = jax.jit(both)(image)
    for a, b in zip(ours, expected, strict=True):
        assert np.abs(a - b.numpy()).max() < 1e-4 * np.abs(b.numpy()).max()
    np.testing.assert_allclose(features.pooled, last[:, 0], atol=1e-4)
    assert [f.shape[1] for f in features.pyramid] == [size // 4, size // 8, size // 16, -(-size // 32)]


@pytest.mark.parametrize("size", [(5, 9), (14, 14), (3, 20), (1, 2)])
def test_positions_are_resampled_as_pytorch_does(size):
    torch = pytest.importorskip("torch", reason="the oracle for bicubic interpolation needs PyTorch")
    x = normal(14, 14, 6)
    expected = torch.nn.functional.interpolate(torch.from_numpy(x).permute(2, 0, 1)[None], size, mode="bicubic")
    np.testing.assert_allclose(resize_positions(x, *size), expected[0].permute(1, 2, 0), atol=1e-5)
    np.testing.assert_allclose(resize_positions(np.ones((3, 4, 1)), *size), 1, atol=1e-6)


@pytest.mark.parametrize(("name", "heads"), [("vit_small_16", 6), ("vit_base_16", 12)])
def test_published_encoders_have_their_parameter_counts(name, heads):
    d, image = 64 * heads, jax.ShapeDtypeStruct((2, 96, 128, 1), jnp.float32)
    encoder = ENCODERS[name]()
    features, variables = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x, True), image)
    assert [f.shape for f in features.pyramid] == [(2, 24, 32, d // 4), (2, 12, 16, d // 2), (2, 6, 8, d), (2, 3, 4, d)]
    params = variables["params"]
    assert params["class_token"].shape == (1, 1, d) and params["positions"].shape == (1, 197, d)
    of_rgb = sum(np.prod(p.shape) for n, tree in params.items() if n != "pyramid" for p in jax.tree.leaves(tree))
    of_rgb += 2 * 16 * 16 * d
    assert of_rgb == {6: 21_665_664, 12: 85_798_656}[heads]  # published networks without their classifier


def test_visible_patches_and_the_class_token():
    """All patches in order give the tokens of the full image; masked patches have no influence."""
    image = normal(2, 32, 24, 1)
    variables = small_variables(image, SMALL)
    full = jax.jit(lambda v, x: SMALL.apply(v, x, False, method="tokens"))(variables, image)[-1]
    tokens = encode_visible(variables, image, np.tile(np.arange(12), (2, 1)), SMALL)
    assert tokens.shape == (2, 12, D)
    np.testing.assert_allclose(tokens, full[:, 1:], atol=1e-5)
    other = image.copy()
    other[:, :8, :8] = np.nan
    assert np.isfinite(encode_visible(variables, other, np.array([[1, 5], [4, 11]]), SMALL)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"taps": (2, 1)}, "block numbers from 1 to 2, in ascending order"),
        ({"taps": (1, 3)}, "block numbers from 1 to 2"),
        ({"drop_path": 1.0}, "is a probability"),
        ({"image_size": 30}, "30x30 does not divide into patches of 8x8"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: SMALL.clone(**fields).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)), False))


def test_stochastic_depth_drops_or_doubles_parts_of_an_example():
    """In training a part is dropped or doubled, for all tokens of an example together; in
    evaluation it does not change.
    """
    x = jnp.asarray(np.tile(normal(1, 3, D), (64, 1, 1)))
    block = Block(2, drop_path=0.5)
    params = block.init(jax.random.key(0), x)
    apply = jax.jit(
        lambda train: block.apply(params, x, None, None, train, rngs={"draws": jax.random.key(2)}), static_argnums=0
    )
    np.testing.assert_allclose(apply(False), Block(2).apply(params, x), atol=1e-6)
    kinds = np.unique(np.round(apply(True), 3), axis=0)
    assert len(kinds) == 4 and any(np.allclose(kind, x[0], atol=1e-3) for kind in kinds)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from morphojax.models.attention import Block, sine_positions

RNG = np.random.default_rng(0)
WIDTH, HEADS = 8, 2


def random_params(variables, seed=0):
    """Random float32 values for every parameter: zero biases and unit scales would hide errors."""
    leaves, tree = jax.tree.flatten(variables["params"])
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [(0.4 * rng.standard_normal(x.shape)).astype(np.float32) for x in leaves])


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def slow_norm(p, x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def slow_attention(p, x, context, mask=None):
    """One example: x [N,D], context [M,D'], mask bool [M]; head by head and query by query."""
    out = np.tile(p["out"]["bias"], (len(x), 1))
    for h in range(p["query"]["kernel"].shape[1]):
        q, k, v = (
            a @ p[name]["kernel"][:, h] + p[name]["bias"][h]
            for a, name in ((x, "query"), (context, "key"), (context, "value"))
        )
        for n in range(len(x)):
            weight = np.exp(k @ q[n] / np.sqrt(q.shape[1]))
            weight = weight if mask is None else weight * mask
            out[n] += (weight / weight.sum()) @ v @ p["out"]["kernel"][h]
    return out


def slow_block(p, x, context=None, mask=None):
    """One example in float64."""
    y = slow_norm(p["self_norm"], x)
    x = x + slow_attention(p["self_attention"], y, y)
    if context is not None and (mask is None or mask.any()):
        x = x + slow_attention(p["context_attention"], slow_norm(p["context_norm"], x), context, mask)
    y = slow_norm(p["mlp_norm"], x) @ p["dense1"]["kernel"] + p["dense1"]["bias"]
    return x + (y * (1 + erf(y / np.sqrt(2))) / 2) @ p["dense2"]["kernel"] + p["dense2"]["bias"]


def arrays(context_width=WIDTH):
    x = RNG.standard_normal((3, 4, WIDTH)).astype(np.float32)
    context = RNG.standard_normal((3, 5, context_width)).astype(np.float32)
    return x, context, np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize("n_inputs", [0, 1, 2])
def test_block_equals_loops(n_inputs):
    """Without a context, with one of another width, and with a mask whose last row is all False."""
    x, *rest = arrays(context_width=6)
    rest = rest[:n_inputs]
    model = Block(HEADS, mlp_ratio=3)
    params = random_params(model.init(jax.random.key(0), x, *rest))
    out = model.apply({"params": params}, x, *rest)
    expected = [slow_block(wide(params), *wide(row)) for row in zip(x, *rest, strict=True)]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    assert out.dtype == jnp.float32 and params["dense1"]["kernel"].shape == (WIDTH, 3 * WIDTH)
    assert ("context_attention" in params) is (n_inputs > 0)


def to_torch(layer, params):
    """Our parameters into a TransformerDecoderLayer or, without a context, a
    TransformerEncoderLayer.
    """
    import torch

    def attention(module, p):
        kernels = [p[name]["kernel"].reshape(WIDTH, WIDTH).T for name in ("query", "key", "value")]
        biases = [p[name]["bias"].reshape(WIDTH) for name in ("query", "key", "value")]
        put(module.in_proj_weight, np.concatenate(kernels))
        put(module.in_proj_bias, np.concatenate(biases))
        put(module.out_proj.weight, p["out"]["kernel"].reshape(WIDTH, WIDTH).T)
        put(module.out_proj.bias, p["out"]["bias"])

    def put(parameter, value):
        parameter.data = torch.tensor(np.ascontiguousarray(value))

    attention(layer.self_attn, params["self_attention"])
    norms = ["self_norm", "mlp_norm"]
    if "context_attention" in params:
        attention(layer.multihead_attn, params["context_attention"])
        norms.insert(1, "context_norm")
    for i, name in enumerate(norms, start=1):
        put(getattr(layer, f"norm{i}").weight, params[name]["scale"])
        put(getattr(layer, f"norm{i}").bias, params[name]["bias"])
    for i in (1, 2):
        put(getattr(layer, f"linear{i}").weight, params[f"dense{i}"]["kernel"].T)
        put(getattr(layer, f"linear{i}").bias, params[f"dense{i}"]["bias"])


@pytest.mark.parametrize("cross", [False, True])
def test_block_and_gradients_equal_pytorch(cross):
    torch = pytest.importorskip("torch", reason="the oracle for the block needs PyTorch")
    x, context, mask = (a[:2] for a in arrays())
    rest = (context, mask) if cross else ()
    model = Block(HEADS, mlp_ratio=2)
    params = random_params(model.init(jax.random.key(0), x, *rest))
    layer_class = torch.nn.TransformerDecoderLayer if cross else torch.nn.TransformerEncoderLayer
    layer = layer_class(
        WIDTH, HEADS, 2 * WIDTH, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).train()  # in evaluation PyTorch uses another implementation
    to_torch(layer, params)

    weights = RNG.standard_normal(x.shape).astype(np.float32)
    inputs = (x, context) if cross else (x,)
    run = lambda *a: (model.apply({"params": params}, *a, *rest[1:]) * weights).sum()  # noqa: E731
    value, gradients = jax.value_and_grad(run, tuple(range(len(inputs))))(*inputs)
    tensors = [torch.tensor(a, requires_grad=True) for a in inputs]
    masks = {"memory_key_padding_mask": torch.tensor(~mask)} if cross else {}
    loss = (layer(*tensors, **masks) * torch.tensor(weights)).sum()
    loss.backward()
    assert float(value) == pytest.approx(loss.item(), rel=1e-4, abs=1e-4)
    for ours, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(ours, tensor.grad, rtol=1e-3, atol=1e-4)


def test_masked_positions_have_no_influence():
    x, context, mask = arrays()
    model = Block(HEADS)
    params = random_params(model.init(jax.random.key(0), x, context, mask))
    run = jax.value_and_grad(lambda p, c: (model.apply({"params": p}, x, c, mask) ** 2).sum(), (0, 1))
    value, (gradient, by_context) = run(params, context)
    other = np.where(mask[..., None], context, 50 * RNG.standard_normal(context.shape)).astype(np.float32)
    again, (gradient_again, _) = run(params, other)
    assert value == again
    jax.tree.map(np.testing.assert_array_equal, gradient, gradient_again)
    np.testing.assert_array_equal(np.abs(by_context).sum(-1) > 0, mask)


def test_block_in_bfloat16_and_heads_that_do_not_divide():
    x = arrays()[0]
    model = Block(HEADS, dtype=jnp.bfloat16)
    out, variables = model.init_with_output(jax.random.key(0), x)
    assert out.dtype == jnp.bfloat16
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(out.astype(jnp.float32), Block(HEADS).apply(variables, x), rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        Block(3).init(jax.random.key(0), x)


def test_sine_positions():
    table = np.asarray(sine_positions(3, 5, 8))
    assert table.shape == (3, 5, 8) and table.dtype == np.float32
    expected = [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02), np.sin(4), np.sin(0.04), np.cos(4), np.cos(0.04)]
    np.testing.assert_allclose(table[2, 4], expected, rtol=1e-5)
    assert len(np.unique(table.reshape(15, 8), axis=0)) == 15
    for features in (6, 0, -4):
        with pytest.raises(ValueError, match="multiple of 4"):
            sine_positions(3, 5, features)

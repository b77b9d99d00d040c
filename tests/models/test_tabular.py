import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.tabular import TabularMLP, TabularTransformer, one_hot
from tests.models.test_attention import random_params, slow_block, slow_norm, wide

CARDINALITIES = (1, 3, 1, 2)


def rows(batch=3, seed=0):
    """values, missing [B,4]: a missing value in each kind of column, and an unknown code."""
    rng = np.random.default_rng(seed)
    values = np.stack([rng.normal(size=batch) if k == 1 else rng.integers(0, k, batch) for k in CARDINALITIES], 1)
    values[0, 1] = 7
    missing = np.zeros(values.shape, bool)
    missing[1, :2] = True
    return values.astype(np.float32), missing


def mlp(**fields):
    return TabularMLP(cardinalities=CARDINALITIES, **{"hidden_units": 6, **fields})


def transformer(**fields):
    return TabularTransformer(cardinalities=CARDINALITIES, **{"width": 8, "heads": 2, "layers": 1, **fields})


def variables_of(model, seed=0):
    variables = model.init(jax.random.key(0), *rows(), False)
    return {**variables, "params": random_params(variables, seed)}


ENCODERS = pytest.mark.parametrize(
    "model",
    [mlp(missing_flags=True), mlp(missing_flags=True, mask_flags=True), transformer()],
    ids=["mlp", "flags", "transformer"],
)


def test_one_hot_by_hand():
    values = jnp.array([[0.5, 2.0, -1.0, 0.0], [1.5, 0.0, 3.0, 1.0]])
    expected = [[0.5, 0, 0, 1, -1.0, 1, 0], [1.5, 1, 0, 0, 3.0, 0, 1]]
    np.testing.assert_array_equal(one_hot(values, (1, 3, 1, 2)), expected)
    np.testing.assert_array_equal(one_hot(jnp.array([[3.0]]), (3,)), [[0, 0, 0]])  # an unseen category
    with pytest.raises(ValueError, match="4 columns for 3 cardinalities"):
        one_hot(values, (1, 3, 1))


def test_the_published_encoder():
    """Linear(in, 2048) - BatchNorm - ReLU - Linear(2048, 2048); He-normal: variance 2 / fan_in,
    zero bias.
    """
    model = TabularMLP(cardinalities=(1, 3, 1))
    values, missing = jnp.ones((4, 3)), jnp.zeros((4, 3), bool)
    out, variables = model.init_with_output(jax.random.key(0), values, missing, True)
    params = variables["params"]
    assert out.pooled.shape == (4, 2048)
    np.testing.assert_array_equal(out.tokens, out.pooled[:, None])
    assert {k: v["kernel"].shape for k, v in params.items() if "dense" in k} == {
        "dense1": (5, 2048),
        "dense2": (2048, 2048),
    }
    assert list(variables["batch_stats"]) == ["norm1"]
    np.testing.assert_allclose(params["dense2"]["kernel"].std(), np.sqrt(2 / 2048), rtol=0.01)
    np.testing.assert_array_equal(params["dense1"]["bias"], 0)


def test_missing_flags_distinguish_imputed_from_measured_values():
    values = jnp.zeros((2, 2))
    missing = jnp.array([[False, False], [True, False]])
    for flags in (False, True):
        model = TabularMLP(cardinalities=(1, 2), hidden_units=8, missing_flags=flags)
        variables = model.init(jax.random.key(0), values, missing, False)
        a, b = model.apply(variables, values, missing, False).pooled
        assert variables["params"]["dense1"]["kernel"].shape[0] == (5 if flags else 3)
        assert np.array_equal(a, b) is not flags


def test_layers():
    model = TabularMLP(cardinalities=(1,), hidden_units=4, layers=3)
    params = model.init(jax.random.key(0), jnp.ones((2, 1)), jnp.zeros((2, 1), bool), True)["params"]
    assert sorted(params) == ["dense1", "dense2", "dense3", "norm1", "norm2"]


@pytest.mark.parametrize("given", [False, True])
def test_gate_of_the_mlp_by_hand(given):
    """With one linear layer, so that the output shows the inputs: values, missing flags and
    gates.
    """
    model = mlp(hidden_units=1, layers=1, missing_flags=True, mask_flags=True)
    values, missing = np.array([[0.5, 2, -1, 1]], np.float32), np.array([[True, False, False, True]])
    gate = np.array([[0.25, 0.5, 1, 0]], np.float32)
    parts = [0.5, 0, 0, 1, -1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]
    if given:
        parts = [0.375, 0, 0, 0.5, 0, 0, 1], [0.75, 0, 0, 1], [0.25, 0.5, 1, 0]
    kernels = np.eye(15, dtype=np.float32)[:, :, None]
    read = [
        model.apply(
            {"params": {"dense1": {"kernel": k, "bias": np.zeros(1)}}}, values, missing, False, gate if given else None
        )
        for k in kernels
    ]
    np.testing.assert_allclose([float(out.pooled[0, 0]) for out in read], np.concatenate(parts), rtol=1e-6)


def test_zero_gate_equals_no_gate():
    for model in (mlp(missing_flags=True, mask_flags=True), transformer()):
        variables = variables_of(model)
        for nobody in (np.zeros((3, 4), np.float32), np.zeros((3, 4), bool)):
            a = model.apply(variables, *rows(), False)
            b = model.apply(variables, *rows(), False, masked=nobody)
            jax.tree.map(np.testing.assert_array_equal, a, b)


@ENCODERS
@pytest.mark.parametrize("junk", [5.0, np.nan, np.inf])
def test_masked_columns_have_no_influence(model, junk):
    """Bit for bit, on output and gradient: neither their value nor whether it is missing. Visible
    columns have influence.
    """
    values, missing = rows()
    masked = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    variables = variables_of(model)

    def run(values, missing):
        def loss(params):
            out = model.apply({**variables, "params": params}, values, missing, False, masked=masked)
            return (out.pooled**2).sum() + out.tokens.sum(), out

        return jax.grad(loss, has_aux=True)(variables["params"])

    expected = run(values, missing)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(expected))
    jax.tree.map(
        np.testing.assert_array_equal, run(np.where(masked, junk, values).astype(np.float32), missing), expected
    )
    jax.tree.map(np.testing.assert_array_equal, run(values, missing ^ masked), expected)
    seen = run(values + np.float32([0, 0, 1, 0]), missing)[1].pooled
    np.testing.assert_array_equal((seen != expected[1].pooled).any(-1), [True, False, True])


@ENCODERS
@pytest.mark.parametrize("masks", [False, True])
def test_encoded_inputs_are_the_same_function(model, masks):
    """The inputs that an encoder computes itself give its output, to a unit in the last place."""
    values, missing = rows()
    masked = np.random.default_rng(1).uniform(size=missing.shape).astype(np.float32) if masks else None
    variables = variables_of(model)
    expected = model.apply(variables, values, missing, False, masked=masked)
    inputs = one_hot(jnp.asarray(values), CARDINALITIES)
    found = model.clone(encoded_inputs=True).apply(variables, inputs, missing.astype(np.float32), False, masked=masked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_missing_values_have_no_influence_on_the_transformer():
    model = transformer()
    variables = variables_of(model)
    values, missing = rows()
    run = jax.grad(
        lambda p, v: (model.apply({"params": p}, v, missing, False).pooled ** 2).sum(),
    )
    expected = run(variables["params"], values)
    for junk in (2.0, np.nan):
        jax.tree.map(
            np.testing.assert_array_equal,
            run(variables["params"], np.where(missing, junk, values).astype(np.float32)),
            expected,
        )
    assert np.abs(expected["missing"]).max() > 0


def test_missing_nan_counts_as_zero_or_no_code_in_the_mlp():
    model = mlp()
    variables = variables_of(model)
    values, missing = rows()
    run = jax.value_and_grad(
        lambda p, v: (model.apply({**variables, "params": p}, v, missing, False).pooled ** 2).sum()
    )
    nothing = np.where(missing, [0, -1, 0, -1], values).astype(np.float32)
    expected = run(variables["params"], nothing)
    assert np.isfinite(expected[0])
    jax.tree.map(
        np.testing.assert_array_equal,
        run(variables["params"], np.where(missing, np.nan, values).astype(np.float32)),
        expected,
    )
    measured = model.apply(variables, np.full_like(values, np.nan), np.zeros_like(missing), False).pooled
    assert np.isnan(measured).all()  # a NaN that is neither missing nor masked must not go unnoticed


def slow_transformer(params, values, missing, gate):
    """Row by row and column by column, in float64."""
    p, tokens = wide(params), []
    for row in range(len(values)):
        x, start = [p["class"][0]], 0
        for f, k in enumerate(CARDINALITIES):
            value, vectors = values[row, f], p["values"][start : start + k]
            start += k
            if missing[row, f]:
                said = p["missing"][0]
            elif k == 1:
                said = value * vectors[0]
            else:
                said = vectors[int(value)] if value in range(k) else np.zeros(8)
            x.append((1 - gate[row, f]) * said + gate[row, f] * p["mask"][0] + p["columns"][f])
        x = np.stack(x)
        for block in sorted(name for name in p if name.startswith("block")):
            x = slow_block(p[block], x)
        tokens.append(slow_norm(p["norm"], x))
    return np.stack(tokens)


GATE = np.array([[0, 0.4, 0.3, 0], [0.5, 0, 0, 1], [0, 0.2, 1, 0.6]], np.float32)


def test_transformer_equals_loops():
    model = transformer(layers=2)
    variables = variables_of(model)
    out = model.apply(variables, *rows(), True, masked=GATE)
    expected = slow_transformer(variables["params"], *rows(), GATE)
    assert out.tokens.shape == (3, 5, 8) and out.tokens.dtype == jnp.float32
    np.testing.assert_allclose(out.tokens, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(out.pooled, out.tokens[:, 0])
    parts = {"class": (1, 8), "values": (7, 8), "missing": (1, 8), "mask": (1, 8), "columns": (4, 8)}
    assert {name: variables["params"][name].shape for name in parts} == parts


def test_gate_derivative_equals_loops():
    model = transformer()
    variables = variables_of(model)
    weights = np.random.default_rng(1).standard_normal((3, 5, 8))
    run = lambda gate: (model.apply(variables, *rows(), False, masked=gate).tokens * weights).sum()  # noqa: E731
    gradient = jax.grad(run)(GATE)
    assert np.abs(gradient).min() > 1e-3  # at 0 and at 1 as well
    for at in np.ndindex(GATE.shape):
        high, low = GATE.astype(np.float64), GATE.astype(np.float64)
        high[at] += 1e-5
        low[at] -= 1e-5
        up, down = ((slow_transformer(variables["params"], *rows(), g) * weights).sum() for g in (high, low))
        assert gradient[at] == pytest.approx((up - down) / 2e-5, rel=5e-3, abs=1e-3 * float(np.abs(gradient).max()))


def test_gate_derivative_of_the_mlp():
    """With one layer the output is linear in the gate: the derivative is minus the column's
    contribution.
    """
    model = mlp(hidden_units=1, layers=1)
    variables = variables_of(model)
    values, missing = rows()
    run = lambda masked: model.apply(variables, values, missing, False, masked=masked).pooled.sum()  # noqa: E731
    none = np.zeros((3, 4), np.float32)
    for gate in (none, none + 1):
        gradient = jax.grad(run)(gate)
        for f in range(4):
            without = none + np.eye(4, dtype=np.float32)[f]
            assert gradient[:, f].sum() == pytest.approx(float(run(without) - run(none)), rel=1e-4, abs=1e-5)
        assert gradient[0, 1] == 0  # an unknown code contributes nothing


@ENCODERS
def test_gate_derivative_is_finite_for_values_that_are_not(model):
    values, missing = rows()
    gate = np.zeros((3, 4), np.float32)
    gate[2] = 1
    values[missing] = values[2] = np.nan
    gradient = jax.grad(lambda g: model.apply(variables_of(model), values, missing, False, masked=g).pooled.sum())(gate)
    assert np.isfinite(gradient).all()


def test_transformer_does_not_depend_on_column_order():
    model = transformer()
    values, missing = rows()
    params = variables_of(model)["params"]
    out = model.apply({"params": params}, values, missing, False, masked=GATE)
    order = [3, 0, 2, 1]
    starts = np.cumsum(CARDINALITIES) - CARDINALITIES
    vectors = np.concatenate([params["values"][starts[f] : starts[f] + CARDINALITIES[f]] for f in order])
    moved = {**params, "columns": params["columns"][order], "values": vectors}
    other = TabularTransformer(tuple(CARDINALITIES[f] for f in order), width=8, heads=2, layers=1)
    again = other.apply({"params": moved}, values[:, order], missing[:, order], False, masked=GATE[:, order])
    np.testing.assert_allclose(again.pooled, out.pooled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again.tokens[:, 1:], out.tokens[:, 1:][:, order], rtol=1e-4, atol=1e-5)


def test_transformer_starts_small_and_computes_in_its_dtype():
    model = transformer(width=64, heads=4, dtype=jnp.bfloat16)
    out, variables = model.init_with_output(jax.random.key(0), *rows(), True)
    assert out.tokens.dtype == jnp.bfloat16 and list(variables) == ["params"]
    for name in ("class", "values", "missing", "mask", "columns"):
        parameter = np.asarray(variables["params"][name])
        assert parameter.dtype == np.float32 and 0.1 < np.abs(parameter).max() <= 1 / 8


@ENCODERS
def test_wrong_shapes_are_refused(model):
    values, missing = rows()
    variables = variables_of(model)
    with pytest.raises(ValueError, match="3 columns for 4 cardinalities"):
        model.apply(variables, values[:, :3], missing[:, :3], False)
    with pytest.raises(ValueError, match="5 columns for 4 cardinalities"):
        model.apply(variables, values, missing, False, masked=np.zeros((3, 5)))

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.tabular import TabularMLP, one_hot


def test_one_hot_by_hand():
    values = jnp.array([[0.5, 2.0, -1.0, 0.0], [1.5, 0.0, 3.0, 1.0]])
    expected = [[0.5, 0, 0, 1, -1.0, 1, 0], [1.5, 1, 0, 0, 3.0, 0, 1]]
    np.testing.assert_array_equal(one_hot(values, (1, 3, 1, 2)), expected)
    np.testing.assert_array_equal(one_hot(jnp.array([[3.0]]), (3,)), [[0, 0, 0]])  # an unseen category
    with pytest.raises(ValueError, match="4 columns, cardinalities name 3"):
        one_hot(values, (1, 3, 1))


def test_the_published_encoder():
    """Linear(in, 2048) - BatchNorm - ReLU - Linear(2048, 2048); He-normal: variance 2 / fan_in, zero bias."""
    model = TabularMLP(cardinalities=(1, 3, 1))
    values, missing = jnp.ones((4, 3)), jnp.zeros((4, 3), bool)
    out, variables = model.init_with_output(jax.random.key(0), values, missing, True)
    params = variables["params"]
    assert out.shape == (4, 2048)
    assert {k: v["kernel"].shape for k, v in params.items() if "dense" in k} == {
        "dense1": (5, 2048),
        "dense2": (2048, 2048),
    }
    assert list(variables["batch_stats"]) == ["norm1"]
    np.testing.assert_allclose(params["dense2"]["kernel"].std(), np.sqrt(2 / 2048), rtol=0.01)
    np.testing.assert_array_equal(params["dense1"]["bias"], 0)


def test_missing_flags_tell_imputed_from_measured():
    values = jnp.zeros((2, 2))
    missing = jnp.array([[False, False], [True, False]])
    for flags in (False, True):
        model = TabularMLP(cardinalities=(1, 2), hidden=8, missing_flags=flags)
        variables = model.init(jax.random.key(0), values, missing, False)
        a, b = model.apply(variables, values, missing, False)
        assert variables["params"]["dense1"]["kernel"].shape[0] == (5 if flags else 3)
        assert np.array_equal(a, b) is not flags


def test_layers():
    model = TabularMLP(cardinalities=(1,), hidden=4, layers=3)
    params = model.init(jax.random.key(0), jnp.ones((2, 1)), jnp.zeros((2, 1), bool), True)["params"]
    assert sorted(params) == ["dense1", "dense2", "dense3", "norm1", "norm2"]

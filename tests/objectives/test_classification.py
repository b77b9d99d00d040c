import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives.classification import cross_entropy
from tests.objectives import checks

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(8, 3)).astype(np.float32)
LABEL = np.array([0, 1, 2, 1, -1, 0, 2, 1])
VALID = np.array([True, True, True, False, True, True, True, True])


def slow(logits, label, valid):
    told = [i for i in range(len(label)) if valid[i] and label[i] >= 0]
    return sum(np.log(np.exp(logits[i]).sum()) - logits[i, label[i]] for i in told) / len(told)


CASES = [
    checks.Case(
        "cross_entropy",
        lambda logits, label, valid: cross_entropy(logits, label, valid)[0],
        slow,
        learned={"logits": LOGITS},
        fixed={"label": LABEL, "valid": VALID},
    )
]


def test_accuracies_by_hand() -> None:
    """Of class 0 both right, of class 1 one of two; the unknown label and the padding count nowhere."""
    logits = jnp.array([[1.0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 1]])
    _, metrics = cross_entropy(logits, jnp.array([0, 0, 1, 1, -1, 0]), jnp.arange(6) < 5)
    assert float(metrics["accuracy"]) == pytest.approx(3 / 4)
    assert float(metrics["balanced_accuracy"]) == pytest.approx(3 / 4)
    _, metrics = cross_entropy(logits, jnp.array([0, 0, 1, -1, -1, 1]), jnp.arange(6) < 4)
    assert float(metrics["accuracy"]) == float(metrics["balanced_accuracy"]) == 1


def test_nothing_known_is_zero_and_padding_is_felt_by_nobody() -> None:
    logits = jnp.array([[jnp.nan, 0.0], [1.0, 2.0]])
    loss, gradient = jax.value_and_grad(lambda x: cross_entropy(x, jnp.array([0, -1]), jnp.array([False, True]))[0])(
        logits
    )
    assert loss == 0 and not np.asarray(gradient).any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="logits must be"):
        cross_entropy(jnp.zeros((4, 1)), jnp.zeros(4, int))
    with pytest.raises(ValueError, match="label"):
        cross_entropy(jnp.zeros((4, 2)), jnp.zeros(3, int))

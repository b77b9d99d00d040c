import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.objectives import classification as objectives
from tests.objectives import checks
from tests.objectives.checks import value_and_gradient_of

cross_entropy = checks.compiled(objectives.cross_entropy)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(8, 3)).astype(np.float32)
LABEL = np.array([0, 1, 2, 1, -1, 0, 2, 1])
VALID = np.array([True, True, True, False, True, True, True, True])


def reference(logits, label, valid):
    known = [i for i in range(len(label)) if valid[i] and label[i] >= 0]
    return sum(np.log(np.exp(logits[i]).sum()) - logits[i, label[i]] for i in known) / len(known)


CASES = [
    checks.Case(
        "cross_entropy",
        lambda logits, label, valid: cross_entropy(logits, label, valid)[0],
        reference,
        learned={"logits": LOGITS},
        fixed={"label": LABEL, "valid": VALID},
    )
]


def test_accuracies_by_hand() -> None:
    """Class 0: both correct; class 1: one of two. The unknown label and padding are ignored."""
    logits = jnp.array([[1.0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 1]])
    _, metrics = cross_entropy(logits, jnp.array([0, 0, 1, 1, -1, 0]), jnp.arange(6) < 5)
    assert float(metrics["accuracy"]) == pytest.approx(3 / 4)
    assert float(metrics["balanced_accuracy"]) == pytest.approx(3 / 4)
    _, metrics = cross_entropy(logits, jnp.array([0, 0, 1, -1, -1, 1]), jnp.arange(6) < 4)
    assert float(metrics["accuracy"]) == float(metrics["balanced_accuracy"]) == 1


def test_no_known_label_gives_zero_loss_and_gradient() -> None:
    logits = jnp.array([[jnp.nan, 0.0], [1.0, 2.0]])
    loss, gradient = value_and_gradient_of(lambda x: cross_entropy(x, jnp.array([0, -1]), jnp.array([False, True]))[0])(
        logits
    )
    assert loss == 0 and not np.asarray(gradient).any()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="logits must be"):
        cross_entropy(jnp.zeros((4, 1)), jnp.zeros(4, int))
    with pytest.raises(ValueError, match="label"):
        cross_entropy(jnp.zeros((4, 2)), jnp.zeros(3, int))

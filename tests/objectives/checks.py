"""What every objective must do, checked in one way: equal its equation, have its gradient, and not care how a batch is dealt out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective on one small batch.

    loss:    keyword arrays -> scalar, in JAX.
    slow:    the same keywords, the floating ones float64 -> float: NumPy loops written from the paper's equation.
    learned: float32 arrays that the gradient is taken of, examples first.
    fixed:   the other arrays (labels, masks, ...), examples first; `examples_twice` names those that are [B,B].
    any_order: the loss is the same whatever the order of the examples; False where one is drawn by its place.
    shared:  arrays that do not belong to an example (a temperature, prototypes); the gradient is taken of these too.
    """

    name: str
    loss: Callable[..., jax.Array]
    slow: Callable[..., float]
    learned: Arrays
    fixed: Arrays = dataclasses.field(default_factory=dict)
    shared: Arrays = dataclasses.field(default_factory=dict)
    examples_twice: tuple[str, ...] = ()
    any_order: bool = True

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {**self.learned, **self.fixed, **self.shared}

    @property
    def batch(self) -> int:
        return len(next(iter(self.learned.values())))


def agrees_with_loops(case: Case) -> None:
    slow = case.slow(**_wide(case.arrays))
    assert np.isfinite(slow)
    assert float(jax.jit(case.loss)(**case.arrays)) == pytest.approx(slow, rel=2e-5, abs=1e-6)


def gradient_is_that_of_the_loops(case: Case, entries: int = 6, step: float = 1e-5) -> None:
    """Central differences of the float64 loops, at entries drawn from every array."""
    moving = {**case.learned, **case.shared}
    gradients = jax.grad(lambda m: case.loss(**{**case.arrays, **m}))({k: jnp.asarray(v) for k, v in moving.items()})
    random = np.random.default_rng(0)
    seen_any = False
    for name, value in moving.items():
        gradient = np.asarray(gradients[name])
        assert np.isfinite(gradient).all(), name
        scale = float(np.abs(gradient).max())
        for flat in random.choice(value.size, min(entries, value.size), replace=False):
            high, low = _wide(case.arrays), _wide(case.arrays)
            high[name].flat[flat] += step
            low[name].flat[flat] -= step
            expected = (case.slow(**high) - case.slow(**low)) / (2 * step)
            assert gradient.flat[flat] == pytest.approx(expected, rel=2e-3, abs=1e-3 * scale + 1e-6), (name, flat)
            seen_any |= abs(expected) > 1e-6
    assert seen_any, "a gradient that is zero wherever one looks tests nothing"


def does_not_care_about_order(case: Case) -> None:
    order = np.random.default_rng(1).permutation(case.batch)
    assert (order != np.arange(case.batch)).any()
    moved = {k: v[order] for k, v in {**case.learned, **case.fixed}.items()}
    for name in case.examples_twice:
        moved[name] = moved[name][:, order]
    before, after = (float(case.loss(**arrays)) for arrays in (case.arrays, {**moved, **case.shared}))
    assert after == pytest.approx(before, rel=1e-5, abs=1e-6)


def on_devices(case: Case, mesh: jax.sharding.Mesh) -> tuple[float, float]:
    """(loss, largest difference of a gradient) against one device, with the examples split over the mesh.

    The batch must divide among the devices. Returns relative differences; used by tests/objectives/devices.py.
    """

    def put(arrays: Arrays, *spec: Any) -> dict[str, jax.Array]:
        return {k: jax.device_put(v, jax.NamedSharding(mesh, jax.P(*spec))) for k, v in arrays.items()}

    def run(learned: Any, rest: Any) -> tuple[jax.Array, Any]:
        return jax.value_and_grad(lambda m: case.loss(**{**rest, **m}))(learned)

    alone = jax.jit(run)(dict(case.learned), {**case.fixed, **case.shared})
    split = jax.jit(run)(put(case.learned, "data"), {**put(case.fixed, "data"), **put(case.shared)})
    loss = abs(float(split[0]) - float(alone[0])) / max(abs(float(alone[0])), 1e-6)
    worst = 0.0
    for name, gradient in alone[1].items():
        one, many = np.asarray(gradient), np.asarray(split[1][name])
        worst = max(worst, float(np.abs(one - many).max() / max(np.abs(one).max(), 1e-6)))
    return loss, worst


def _wide(arrays: Arrays) -> dict[str, np.ndarray]:
    return {
        k: np.array(v, np.float64) if np.issubdtype(v.dtype, np.floating) else np.array(v) for k, v in arrays.items()
    }

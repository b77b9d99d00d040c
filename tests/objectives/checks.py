"""Checks that every objective must pass: it equals its equation, has its gradient, and ignores
order and sharding of the batch.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective on one small batch.

    loss:      keyword arrays -> scalar, in JAX.
    reference: the same keywords, floating arrays as float64 -> float. NumPy loops written from the
    paper's equation.
    learned:   float32 arrays of the examples; the gradient is taken with respect to them.
    fixed:     the other arrays of the examples (labels, masks). `examples_twice` names those of
               shape [B, B].
    shared:    arrays that belong to no example (temperature, prototypes); the gradient is taken
               with respect to them too.
    any_order: the loss does not depend on the order of the examples. False where a random draw
    depends on the position.
    """

    name: str
    loss: Callable[..., jax.Array]
    reference: Callable[..., float]
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

    @functools.cached_property
    def program(self) -> Callable[[Any, Any], tuple[jax.Array, Any]]:
        """(learned and shared arrays, fixed arrays) -> loss, gradients. Compiled once for all tests
        of this case.
        """
        return jax.jit(jax.value_and_grad(lambda learned, fixed: self.loss(**learned, **fixed)))

    def value_and_gradients(self) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self.program({**self.learned, **self.shared}, dict(self.fixed))


def agrees_with_reference(case: Case) -> None:
    expected = case.reference(**_float64(case.arrays))
    assert np.isfinite(expected)
    assert float(case.value_and_gradients()[0]) == pytest.approx(expected, rel=2e-5, abs=1e-6)


def gradient_agrees_with_reference(case: Case, entries: int = 6, step: float = 1e-5) -> None:
    """Central differences of the float64 reference, at entries drawn from every array."""
    gradients = case.value_and_gradients()[1]
    random = np.random.default_rng(0)
    any_nonzero = False
    for name, value in {**case.learned, **case.shared}.items():
        gradient = np.asarray(gradients[name])
        assert np.isfinite(gradient).all(), name
        scale = float(np.abs(gradient).max())
        for flat in random.choice(value.size, min(entries, value.size), replace=False):
            high, low = _float64(case.arrays), _float64(case.arrays)
            high[name].flat[flat] += step
            low[name].flat[flat] -= step
            expected = (case.reference(**high) - case.reference(**low)) / (2 * step)
            assert gradient.flat[flat] == pytest.approx(expected, rel=2e-3, abs=1e-3 * scale + 1e-6), (name, flat)
            any_nonzero |= abs(expected) > 1e-6
    assert any_nonzero, "all sampled gradients are zero: the case tests nothing"


def ignores_order(case: Case) -> None:
    order = np.random.default_rng(1).permutation(case.batch)
    assert (order != np.arange(case.batch)).any()
    learned = {k: v[order] for k, v in case.learned.items()}
    fixed = {k: v[order] for k, v in case.fixed.items()}
    for name in case.examples_twice:
        fixed[name] = fixed[name][:, order]
    reordered, _ = case.program({**learned, **case.shared}, fixed)
    assert float(reordered) == pytest.approx(float(case.value_and_gradients()[0]), rel=1e-5, abs=1e-6)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one compiled program for each combination of shapes and settings.

    Arrays are traced, all other arguments are static. Without it JAX compiles every operation of a
    loss on its own.
    """
    signature = inspect.signature(function)

    @functools.partial(jax.jit, static_argnums=0)
    def program(settings: tuple[tuple[str, Any], ...], arrays: dict[str, jax.Array]) -> Any:
        return function(**dict(settings), **arrays)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        arrays = {k: v for k, v in arguments.items() if isinstance(v, np.ndarray | np.generic | jax.Array)}
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items() if k not in arrays}
        return program(tuple(settings.items()), arrays)

    return call


def compiled_functions(module: types.ModuleType) -> types.SimpleNamespace:
    """The public functions that a module defines, each `compiled`."""
    functions = inspect.getmembers(module, inspect.isfunction)
    own = {n: f for n, f in functions if f.__module__ == module.__name__ and not n.startswith("_")}
    return types.SimpleNamespace(**{name: compiled(function) for name, function in own.items()})


def gradient_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """jax.grad, compiled."""
    return jax.jit(jax.grad(function, *args, **kwargs))


def value_and_gradient_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """jax.value_and_grad, compiled."""
    return jax.jit(jax.value_and_grad(function, *args, **kwargs))


def _float64(arrays: Arrays) -> dict[str, np.ndarray]:
    return {
        k: np.array(v, np.float64) if np.issubdtype(v.dtype, np.floating) else np.array(v) for k, v in arrays.items()
    }

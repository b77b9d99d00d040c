"""Calibrated logits have the table's volumes: against slow loops, a closed form and a solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from morphojax.objectives import calibration
from morphojax.objectives.calibration import calibrate

RNG = np.random.default_rng(0)
calibrated = jax.jit(calibrate, static_argnames=("band", "limit"))


def stacks(sharpness: float = 1.0, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [2,4,10,12,C] with discs of every class, slices of which the first stack has three,
    voxels.
    """
    logits = RNG.normal(0, 1, (2, 4, 10, 12, classes)).astype(np.float32)
    logits[..., 0] += 2
    for c in range(1, classes):
        logits[:, :, 2:6, 2 * c : 2 * c + 3, c] += 3
    mask = np.array([[True, True, True, False], [True] * 4])
    return sharpness * logits, mask, np.array([0.2, 0.05], np.float32)


def volumes(
    logits: np.ndarray, mask: np.ndarray, voxel_ml: np.ndarray, offsets: np.ndarray | float = 0.0
) -> np.ndarray:
    """[B,S] in ml, voxel by voxel, in float64."""
    total = np.zeros((len(logits), logits.shape[-1] - 1))
    for b, k, y, x in np.ndindex(logits.shape[:-1]):
        if mask[b, k]:
            z = logits[b, k, y, x].astype(float)
            z[1:] += np.broadcast_to(offsets, total.shape)[b]
            p = np.exp(z - z.max())
            total[b] += (p / p.sum())[1:] * voxel_ml[b]
    return total


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.3])
def test_calibrated_volumes_are_those_of_the_table(sharpness: float, ratio: float) -> None:
    logits, mask, voxel = stacks(sharpness)
    table = ratio * volumes(logits, mask, voxel)
    offsets, metrics = calibrated(logits, mask, voxel, table.astype(np.float32), limit=20.0)
    np.testing.assert_allclose(volumes(logits, mask, voxel, np.asarray(offsets)), table, rtol=2e-3)
    assert float(metrics["volume_before"]) == pytest.approx(abs(1 / ratio - 1), rel=1e-3)
    assert float(metrics["volume_after"]) < 2e-3


def test_iterations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "ITERATIONS", 1)
    logits, mask, voxel = stacks(4.0)
    table = 0.5 * volumes(logits, mask, voxel)
    _, metrics = calibrate(logits, mask, voxel, table.astype(np.float32), limit=20.0)
    assert 0.01 < float(metrics["volume_after"]) < float(metrics["volume_before"])


def test_one_structure_in_equal_logits_has_a_closed_form() -> None:
    """All voxels have the odds e^z, so the offset is log(v / (1 - v)) - z for the fraction v."""
    z, fraction = -1.5, 0.3
    logits = np.stack([np.zeros((1, 2, 4, 4)), np.full((1, 2, 4, 4), z)], axis=-1)
    table = np.array([[fraction * 32 * 0.5]], np.float32)
    offsets, _ = calibrated(logits, np.ones((1, 2), bool), np.full(1, 0.5), table)
    assert float(offsets[0, 0]) == pytest.approx(np.log(fraction / (1 - fraction)) - z, abs=2e-3)


def test_the_offsets_are_the_minimum_of_the_dual() -> None:
    """A general-purpose optimiser finds the same offsets."""
    logits, mask, voxel = stacks(2.0)
    table = volumes(logits, mask, voxel) * [[0.7, 1.4, 1.1], [1.2, 0.6, 1.5]]
    offsets, _ = calibrated(logits, mask, voxel, table.astype(np.float32))
    for b in range(2):
        z = logits[b][mask[b]].reshape(-1, 4).astype(float)

        def dual(offset: np.ndarray, z=z, target=table[b] / voxel[b]) -> float:
            return float(np.logaddexp.reduce(z + np.array([0, *offset]), axis=1).sum() - target @ offset)

        best = optimize.minimize(dual, np.zeros(3), method="BFGS", options={"gtol": 1e-4}).x
        np.testing.assert_allclose(offsets[b], best, atol=5e-3)


def test_an_unknown_volume_leaves_its_structure_alone() -> None:
    """NaN, zero, negative and infinite entries; the other structures still have their volumes."""
    logits, mask, voxel = stacks()
    table = 1.3 * volumes(logits, mask, voxel)
    table[0, 1], table[1] = np.nan, (0.0, -4.0, np.inf)
    offsets = np.asarray(calibrated(logits, mask, voxel, table.astype(np.float32))[0])
    assert offsets[0, 1] == 0 and not offsets[1].any()
    after = volumes(logits, mask, voxel, offsets)
    np.testing.assert_allclose(after[0, [0, 2]], table[0, [0, 2]], rtol=2e-3)


def test_the_band_is_a_tolerance() -> None:
    logits, mask, voxel = stacks()
    before = volumes(logits, mask, voxel)
    table = before * [[1.05, 1.3, 0.6]]
    offsets, _ = calibrated(logits, mask, voxel, table.astype(np.float32), band=0.1)
    after = volumes(logits, mask, voxel, np.asarray(offsets))
    np.testing.assert_allclose(after, np.clip(before, 0.9 * table, 1.1 * table), rtol=2e-3)


def test_offsets_stop_at_the_limit_and_the_others_still_fit() -> None:
    logits, mask, voxel = stacks(4.0)
    table = volumes(logits, mask, voxel) * [[8.0, 1.2, 1.0]]
    offsets, metrics = calibrated(logits, mask, voxel, table.astype(np.float32), limit=2.0)
    after = volumes(logits, mask, voxel, np.asarray(offsets))
    np.testing.assert_array_equal(offsets[:, 0], 2.0)
    np.testing.assert_allclose(after[:, 1:], table[:, 1:], rtol=2e-3)
    assert float(metrics["limited"]) == pytest.approx(1 / 3)


def test_padding_has_no_influence() -> None:
    """Neither slices beyond the stack, whatever they hold, nor rows that pad the batch."""
    logits, mask, voxel = stacks()
    table = (1.2 * volumes(logits, mask, voxel)).astype(np.float32)
    expected, _ = calibrated(logits, mask, voxel, table)
    logits[0, 3] = np.nan
    offsets, _ = calibrated(logits, mask, voxel, table, valid=np.array([True, False]))
    np.testing.assert_allclose(offsets[0], expected[0], atol=1e-5)
    assert not np.asarray(offsets[1]).any()


def test_what_carries_a_gradient_is_not_the_offset() -> None:
    logits, mask, voxel = stacks()
    gradient = jax.grad(lambda z: calibrate(z, mask, voxel, jnp.ones((2, 3)))[0].sum())(jnp.asarray(logits))
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": np.ones((2, 4))}, "table must be"),
        ({"voxel_ml": np.ones(3)}, "voxel_ml"),
        ({"band": 1.0}, "band must be"),
        ({"limit": 0.0}, "limit must be"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict, message: str) -> None:
    logits, mask, voxel = stacks()
    with pytest.raises(ValueError, match=message):
        calibrate(**{"logits": logits, "slice_mask": mask, "voxel_ml": voxel, "table": np.ones((2, 3))} | changes)

"""Every objective of the CASES in this folder against loops from its paper: value, gradient, batch
order, four devices.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.objectives import checks, devices, test_contrastive

CASES = devices.all_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@each_case
def test_loss_equals_the_equation_of_the_paper(case: checks.Case) -> None:
    checks.agrees_with_reference(case)


@each_case
def test_gradient_equals_finite_differences_of_the_reference(case: checks.Case) -> None:
    checks.gradient_agrees_with_reference(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.any_order], ids=[c.name for c in CASES if c.any_order])
def test_order_of_the_batch_does_not_matter(case: checks.Case) -> None:
    checks.ignores_order(case)


def test_the_contrastive_cases_have_different_losses() -> None:
    losses = [float(case.value_and_gradients()[0]) for case in test_contrastive.CASES]
    assert len(np.unique(np.round(losses, 4))) == len(losses)


# Every third case by default: all are of the same few sharded operations.
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_four_devices_give_the_same_losses_and_gradients(every: int, tmp_path: Path) -> None:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    process = subprocess.run(
        [sys.executable, "-m", "tests.objectives.devices", str(tmp_path / "results.npz"), str(every)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    results = np.load(tmp_path / "results.npz")
    assert results["devices"] == 4
    for name in ("info_nce", "sigmoid", "nt_xent"):  # no device computes the logits of all pairs
        assert results[f"pairs/{name}"].tolist() == [False, True], name
    for case in CASES[::every]:
        loss, gradients = case.value_and_gradients()
        assert abs(float(loss) - results[f"{case.name}/loss"]) < 1e-5 * max(abs(float(loss)), 1e-6), case.name
        for name, gradient in gradients.items():
            difference = np.abs(np.asarray(gradient) - results[f"{case.name}/gradient/{name}"]).max()
            assert difference < 1e-4 * max(np.abs(gradient).max(), 1e-6), (case.name, name)

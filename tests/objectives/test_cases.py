"""Every objective of the CASES in this folder against its paper's loops: value, gradient, order of the batch, and four devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.objectives import checks, devices

CASES = devices.all_cases()
each = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def test_names_tell_cases_apart() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@each
def test_equals_the_loops_of_the_paper(case: checks.Case) -> None:
    checks.agrees_with_loops(case)


@each
def test_gradient_is_that_of_the_loops(case: checks.Case) -> None:
    checks.gradient_is_that_of_the_loops(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.any_order], ids=[c.name for c in CASES if c.any_order])
def test_order_of_the_batch_changes_nothing(case: checks.Case) -> None:
    checks.does_not_care_about_order(case)


def test_every_objective_is_the_same_on_four_devices() -> None:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-m", "tests.objectives.devices"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["devices"] == 4 and told["differences"].keys() == {case.name for case in CASES}
    for name, (loss, gradient) in told["differences"].items():
        assert loss < 1e-5 and gradient < 1e-4, name

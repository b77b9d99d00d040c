import json
import os
import subprocess
import sys
from pathlib import Path


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
    assert told["devices"] == 4 and len(told["differences"]) > 10
    for name, (loss, gradient) in told["differences"].items():
        assert loss < 1e-5 and gradient < 1e-4, name

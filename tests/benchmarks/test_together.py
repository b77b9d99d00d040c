"""Several seeds in one program: each seed has the loss of its separate step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import together

GIVEN = [(jnp.float32(seed), {"seed": jnp.int32(seed)}, {"x": jnp.arange(3.0)}) for seed in (1, 2)]


def toy_step(state: jax.Array, constants: dict, batch: dict) -> tuple[jax.Array, dict]:
    loss = (state * batch["x"]).sum() + constants["seed"]
    return state + 1, {"loss": loss}


@pytest.mark.parametrize("way", ["separate", "unrolled", "vmapped"])
def test_every_seed_has_its_own_loss(way: str) -> None:
    made = together.compile_way(way, toy_step, GIVEN)  # pyrefly: ignore
    np.testing.assert_array_equal(made.losses, [4, 8])


def test_the_cost_of_separate_runs_is_their_number() -> None:
    rows = together.measure(["vmapped"], toy_step, GIVEN, repeats=2)  # pyrefly: ignore
    assert [row[0] for row in rows] == ["separate", "vmapped"] and rows[0][2] == "2.00 (2.00 to 2.00)"
    assert rows[1][-1] == "0"


@pytest.mark.slow
def test_unrolled_seeds_equal_separate_ones() -> None:
    step, given = together.members("segment_sax", seeds=2, miniature=True)
    separate, unrolled = (together.compile_way(name, step, given).losses for name in ("separate", "unrolled"))
    assert separate[0] != separate[1]
    np.testing.assert_array_equal(unrolled, separate)


@pytest.mark.parametrize(
    ("flags", "message"), [(["--ways=scan"], "scan unknown; choose unrolled, vmapped"), (["--seeds=1"], "--seeds=2")]
)
def test_wrong_flags_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        together.main(flags)
    assert message in capsys.readouterr().err

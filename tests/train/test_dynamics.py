"""Training dynamics in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from morphojax.models.features import Features
from morphojax.train import dynamics


def test_norms_of_every_level() -> None:
    """What has no level stands by its own name."""
    leaf = {"w": jnp.array([3.0, 4.0])}
    levels = {
        "encoder": {
            "stem_conv": "stem",
            "patch_embedding": "stem",
            "stage1_block1": "stage1",
            "stage1_block2": "stage1",
        },
        "decoder": {"level0_conv1": "level0", "level0_norm1": "level0"},
    }
    tree = {name: dict.fromkeys(names, leaf) for name, names in levels.items()}
    tree["encoder"]["norm"], tree["head"] = leaf, leaf
    tree["encoder"]["mask_token"] = jnp.array([2.0])  # an array of the module itself
    norms = {name: float(value) for name, value in dynamics.norms(tree, levels).items()}
    two = 5 * np.sqrt(2)
    expected = {"encoder/stem": two, "encoder/stage1": two, "encoder/norm": 5, "decoder/level0": two, "head": 5}
    expected["encoder/mask_token"] = 2
    assert norms == pytest.approx(expected)


def test_dynamics_in_closed_form() -> None:
    """Losses 3 x + y and 4 y of an encoder with parameters x and y; columns weigh 1 and -3
    in the first, 0 and 2 in the second.
    """

    def losses(encoder, gate):
        rows = jnp.mean(gate @ jnp.array([1.0, -3.0]))
        by_name = {"a": 3 * encoder["x"] + encoder["y"] + rows, "b": 4 * encoder["y"] + jnp.mean(2 * gate[:, 1])}
        return by_name, {"image_features": jnp.eye(3)}

    found = dynamics.measure(
        losses, {"x": jnp.float32(1), "y": jnp.float32(2)}, jnp.zeros((3, 2)), ("one", "three"), jnp.ones(3, bool)
    )
    expected = {"grad_norm/a": np.sqrt(10), "grad_norm/b": 4, "grad_cosine/a_b": 1 / np.sqrt(10)}
    expected |= {"column/one": 0.5, "column/three": 0.5, "rank_image_features": 3}
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=1e-5)


def test_drift_by_hand() -> None:
    random = np.random.default_rng(0)
    maps, pooled = random.normal(size=(3, 4, 4, 2)).astype(np.float32), random.normal(size=(9, 2)).astype(np.float32)
    initial = {"encoder": {"stem": {"w": jnp.array([3.0, 4.0])}}, "head": {"b": jnp.zeros(2)}}
    params = {"encoder": {"stem": {"w": jnp.array([3.0, 5.0])}}, "head": {"b": jnp.ones(2)}}
    before, now = (
        Features((jnp.asarray(maps),), jnp.asarray(pooled)),
        Features((2 * maps[..., ::-1] + 1,), pooled[::-1]),
    )
    out = dynamics.drift(initial, params, before, now, {"encoder": {"stem": "stem"}})
    assert out["distance/encoder/stem"] == pytest.approx(0.2) and np.isnan(out["distance/head"])
    assert out["cka/level1"] == pytest.approx(1, abs=1e-5) and out["cka/pooled"] < 0.9

"""The smaller parts of training: optimizers, schedules, transfer, randomness, the run directory, the log."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from morphojax.train import dynamics, optimizer, rng, run
from morphojax.train.logger import Logger
from morphojax.train.state import TrainState
from morphojax.train.step import make_train_step
from morphojax.train.transfer import TransferError, flatten, merge, transfer_modules

SETTINGS = dict(
    name="adam",
    learning_rate=0.1,
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    clip_norm=0.0,
    accumulate=1,
    steps=10,
)


def test_schedule_warms_up_then_falls_as_a_cosine() -> None:
    rate = optimizer.make_schedule(learning_rate=2.0, schedule="cosine", warmup=0.2, updates=50)
    assert [float(rate(i)) for i in (0, 5, 10)] == pytest.approx([0.0, 1.0, 2.0])
    assert float(rate(30)) == pytest.approx(2.0 * 0.5 * (1 + np.cos(np.pi * 20 / 40)))
    assert float(rate(50)) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "step"}, "config.optimizer.schedule='step'"),
        ({"warmup": 1.0}, "config.optimizer.warmup=1.0"),
        ({"name": "sgd"}, "config.optimizer.name='sgd'"),
        ({"accumulate": 3}, "config.optimizer.accumulate=3"),
    ],
)
def test_wrong_settings_name_their_key(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer.build(**(SETTINGS | change))


def test_adam_is_pytorchs_with_decay_in_the_gradient() -> None:
    """One step by hand: m = (1 - b1) g, v = (1 - b2) g^2, both unbiased, so the step is lr * g / (|g| + eps)."""
    opt, _ = optimizer.build(**(SETTINGS | {"weight_decay": 0.5}))
    params = {"m": {"w": jnp.full((2, 2), 2.0), "b": jnp.full((2,), 2.0)}}
    grads = jax.tree.map(lambda p: jnp.full_like(p, -0.9), params)
    updates, _ = opt.update(grads, opt.init(params), params)
    # The matrix's gradient is -0.9 + 0.5 * 2 = 0.1: its sign turns. The vector is not decayed.
    np.testing.assert_allclose(updates["m"]["w"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["m"]["b"], 0.1, rtol=1e-5)


def test_accumulating_two_batches_is_one_update_with_their_mean() -> None:
    params = {"m": {"w": jnp.ones((2, 2))}}
    first, second = ({"m": {"w": jnp.array([[a, 1.0], [0.5, -1.0]])}} for a in (1.0, 3.0))
    accumulating, rate = optimizer.build(**(SETTINGS | {"accumulate": 2, "schedule": "cosine"}))
    state = accumulating.init(params)
    nothing, state = accumulating.update(first, state, params)
    moved, _ = accumulating.update(second, state, params)
    assert float(jnp.abs(nothing["m"]["w"]).max()) == 0.0
    once, _ = optimizer.build(**(SETTINGS | {"steps": 5, "schedule": "cosine"}))
    expected, _ = once.update(jax.tree.map(lambda a, b: (a + b) / 2, first, second), once.init(params), params)
    np.testing.assert_allclose(moved["m"]["w"], expected["m"]["w"], rtol=1e-6)
    assert rate(0) == rate(1) != rate(2)


def test_layer_scales_by_hand() -> None:
    names = ("stem_conv", "stem_norm", "stage1_block1", "stage2_block2")
    params = {
        "encoder": {n: {"kernel": jnp.zeros(1)} for n in names},
        "decoder": {"level0_conv1": {"kernel": jnp.zeros(1)}},
    }
    scales = optimizer.layer_scales(params, decay=0.5)
    found = {n: scales["encoder"][n]["kernel"] for n in names}
    assert found == {"stem_conv": 0.125, "stem_norm": 0.125, "stage1_block1": 0.25, "stage2_block2": 0.5}
    assert scales["decoder"]["level0_conv1"]["kernel"] == 1.0


def test_what_follows_the_last_block_of_a_transformer_counts_with_the_decoder() -> None:
    encoder = {key: {"w": jnp.ones(1)} for key in ("patch_embedding", "block1", "block2", "norm", "pyramid")}
    scales = optimizer.layer_scales({"encoder": encoder, "decoder": {"w": jnp.ones(1)}}, decay=0.5)
    assert {name: s["w"] for name, s in scales["encoder"].items()} == {
        "patch_embedding": 0.125, "block1": 0.25, "block2": 0.5, "norm": 1.0, "pyramid": 1.0,
    }  # fmt: skip
    assert scales["decoder"]["w"] == 1.0


def test_layer_scales_read_the_layers_of_an_encoder_for_each_plane() -> None:
    one = {"stem": {"w": jnp.ones(1)}, "stage1_block1": {"w": jnp.ones(1)}, "stage2_block1": {"w": jnp.ones(1)}}
    own = {"encoder": {"encoders_la_2ch": one, "encoders_la_4ch": one}, "head": {"w": jnp.ones(1)}}
    expected = optimizer.layer_scales({"encoder": one, "head": {"w": jnp.ones(1)}}, decay=0.5)["encoder"]
    scales = optimizer.layer_scales(own, decay=0.5)["encoder"]
    assert scales == {"encoders_la_2ch": expected, "encoders_la_4ch": expected}
    found = dynamics.norms(own)
    assert set(found) == {"encoder/stem", "encoder/stage1", "encoder/stage2", "head"}
    assert float(found["encoder/stem"]) == pytest.approx(2**0.5)


def test_layer_scales_reach_the_updates() -> None:
    params = {"encoder": {"stem_conv": {"w": jnp.ones((2, 2))}}, "head": {"w": jnp.ones((2, 2))}}
    opt, _ = optimizer.build(**SETTINGS, scales=lambda p: optimizer.layer_scales(p, decay=0.5))
    updates, _ = opt.update(params, opt.init(params), params)
    np.testing.assert_allclose(updates["encoder"]["stem_conv"]["w"], 0.5 * updates["head"]["w"])


def test_frozen_modules_do_not_move_even_with_momentum_and_decay() -> None:
    opt, _ = optimizer.build(**(SETTINGS | {"name": "adamw", "weight_decay": 0.1}))

    def loss(params, state, constants, batch):
        return sum(jnp.sum(p["w"] ** 2) for p in params.values()), ({}, state.batch_stats)

    variables = {"params": {"encoder": {"w": jnp.ones((2, 2))}, "head": {"w": jnp.ones((2, 2))}}}
    state = TrainState.create(variables, opt)
    state, _ = make_train_step(loss, opt)(state, {}, {})  # momentum for both
    after, metrics = make_train_step(loss, opt, frozen=("encoder",))(state, {}, {})
    np.testing.assert_array_equal(after.params["encoder"]["w"], state.params["encoder"]["w"])
    assert float(jnp.abs(after.params["head"]["w"] - state.params["head"]["w"]).min()) > 0
    assert int(after.step) == 2
    assert set(metrics) == {"loss", "grad_norm/encoder", "grad_norm/encoder/stem", "grad_norm/head"}
    assert float(metrics["grad_norm/head"]) == pytest.approx(float(jnp.linalg.norm(2 * state.params["head"]["w"])))


def test_random_keys_differ_by_seed_name_and_step_only() -> None:
    data = [
        jax.random.key_data(k).tolist()
        for k in (rng.key(0, "a"), rng.key(1, "a"), rng.key(0, "b"), rng.key(0, "a", 0), rng.key(0, "a", 1))
    ]
    assert len({tuple(d) for d in data}) == 5
    assert jax.random.key_data(rng.key(0, "a", jnp.int32(1))).tolist() == data[4]


def encoder(channels: int, width: int, extra: bool = False) -> dict:
    random = np.random.default_rng(width + channels)
    stem = {"kernel": random.normal(size=(3, 3, channels, width)).astype(np.float32)}
    params = {"stem": stem, "stage1": {"kernel": random.normal(size=(1, 1, width, 4)).astype(np.float32)}}
    if extra:
        params["stage2"] = {"kernel": np.ones((2, 2), np.float32)}
    return {
        "params": {"encoder": params, "head": {"kernel": np.ones((4, 2), np.float32)}},
        "batch_stats": {"encoder": {"norm": {"mean": random.normal(size=4).astype(np.float32)}}},
    }


def test_transfer_takes_the_encoder_and_says_what_became_of_the_rest() -> None:
    source, target = encoder(1, 8), encoder(1, 8, extra=True)
    target["params"]["encoder"]["stem"]["kernel"] = np.zeros((3, 3, 1, 8), np.float32)
    taken, report = transfer_modules(source, target)
    merged = merge(target, taken)
    np.testing.assert_array_equal(
        merged["params"]["encoder"]["stem"]["kernel"], source["params"]["encoder"]["stem"]["kernel"]
    )
    np.testing.assert_array_equal(
        merged["batch_stats"]["encoder"]["norm"]["mean"], source["batch_stats"]["encoder"]["norm"]["mean"]
    )
    np.testing.assert_array_equal(merged["params"]["head"]["kernel"], target["params"]["head"]["kernel"])
    assert len(report.loaded) == 3 and report.absent == ("params/encoder/stage2/kernel",)
    assert report.unused == ("params/head/kernel",) and not report.adapted and not report.differing
    text = report.text("runs/x")
    assert "runs/x" in text and "params/encoder/stage2/kernel" in text and "head" in text
    assert flatten(merged).keys() == flatten(target).keys()


@pytest.mark.parametrize(("source_channels", "target_channels"), [(3, 1), (1, 3), (8, 1)])
def test_transfer_adapts_the_input_channels_of_a_grey_image(source_channels: int, target_channels: int) -> None:
    source, target = encoder(source_channels, 8), encoder(target_channels, 8)
    taken, report = transfer_modules(source, target)
    kernel, old = taken["params/encoder/stem/kernel"], source["params"]["encoder"]["stem"]["kernel"]
    assert kernel.shape == (3, 3, target_channels, 8) and len(report.adapted) == 1
    np.testing.assert_allclose(kernel.sum(2), old.sum(2), rtol=1e-5)  # the answer to a grey image stays


def test_transfer_reports_other_shapes_and_refuses_when_nothing_fits() -> None:
    source, target = encoder(1, 8), encoder(1, 16)
    _, report = transfer_modules(source, target)  # the running mean alone fits
    assert len(
        report.differing
    ) == 2 and "stem/kernel: (3, 3, 1, 8) in the checkpoint, (3, 3, 1, 16) in the model" in "".join(report.differing)
    with pytest.raises(TransferError, match=r"config.init_from: nothing .* fits .*config.model.width"):
        transfer_modules({"params": source["params"], "batch_stats": {}}, target)


def test_a_run_directory_refuses_another_config_and_data(tmp_path: Path) -> None:
    config = {"seed": 0, "workdir": "a", "data": {"fraction": 0.1, "workers": 0}}
    files = {"preprocessing.json": {"dataset_fingerprint": "x"}}
    run.create(tmp_path, config, files)
    (tmp_path / "checkpoints").mkdir()
    run.create(tmp_path, config | {"workdir": "b", "data": {"fraction": 0.1, "workers": 2}}, files)
    with pytest.raises(run.RunError, match=r"another config \(data.fraction, seed\)"):
        run.create(tmp_path, config | {"seed": 1, "data": {"fraction": 0.2, "workers": 0}}, files)
    with pytest.raises(run.RunError, match="another dataset"):
        run.create(tmp_path, config, {"preprocessing.json": {"dataset_fingerprint": "y"}})
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__ and environment["devices"]


def test_a_run_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(run.RunError, match=r"config.workdir=.*cannot be written"):
        run.create(tmp_path / "file" / "run", {}, {})
    with pytest.raises(run.RunError, match=r"is .* the directory of a run"):
        run.read_json(tmp_path, "config.json")


def test_the_log_takes_up_where_it_is_told(tmp_path: Path) -> None:
    log = Logger(tmp_path, start=0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": float(step)})
    log.scalars(4, {"loss": float("nan")})
    log.close()
    Logger(tmp_path, start=2).close()
    assert [json.loads(x)["step"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_gradient_clipping_bounds_the_norm() -> None:
    opt, _ = optimizer.build(**(SETTINGS | {"clip_norm": 1.0}))
    params = {"w": jnp.ones((2, 2))}
    state = opt.init(params)
    _, state = opt.update({"w": jnp.full((2, 2), 50.0)}, state, params)
    first_moment = optax.tree_utils.tree_get(state, "mu")["w"]
    np.testing.assert_allclose(first_moment, 0.1 * 0.5, rtol=1e-5)  # (1 - b1) * g / |g|, |g| = 100

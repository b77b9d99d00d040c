"""The choices of config.model, and the table of a model."""

import re

import jax
import numpy as np
import pytest

from configs import segment_sax
from morphojax.models.encoders import ENCODERS
from morphojax.tasks import describe, experiment, from_config
from tests.tasks.tiny import config

MODEL = {"encoder": "resnet18", "width": 8, "dtype": "float32", "decoder_widths": (4, 4, 4, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "fpn"}, r"config.model.decoder='fpn' is unknown: choose one of mlp, unet"),
        ({"encoder": "alexnet"}, r"config.model.encoder='alexnet' is unknown: choose one of convnext_pico"),
        ({"norm": "layer"}, r"config.model.norm='layer' is unknown: choose one of batch, group"),
        ({"norm": "group", "encoder": "vit_tiny"}, r"config.model.norm='group': vit_tiny has no norm .* resnet18"),
        (
            {"encoder_options": {"drop_path": 0.1}},
            r"config.model.encoder_options.drop_path=0.1: resnet18 has no such option; it takes remat$",
        ),
        (
            {"encoder_options": {"drop_path": 1.0}, "encoder": "vit_tiny"},
            r"config.model.encoder_options.drop_path=1.0: give a probability",
        ),
        (
            {"encoder_options": {"dropout": 0.1}, "encoder": "convnext_pico"},
            r"config.model.encoder_options.dropout=0.1: convnext_pico has no such option; it takes drop_path, remat$",
        ),
        ({"decoder_widths": ()}, r"config.model.decoder_widths=\(\): give numbers"),
    ],
)
def test_what_a_model_has_wrong_is_told_by_its_key(change: dict, message: str) -> None:
    model = MODEL | change
    with pytest.raises(ValueError, match=message):
        from_config.encoder(model), from_config.decoder(model)


def test_choices_reach_the_modules_and_old_runs_have_the_defaults() -> None:
    model = MODEL | {"encoder": "vit_tiny", "encoder_options": {"drop_path": 0.2, "remat": True}}
    assert (from_config.encoder(model).drop_path, from_config.encoder(model).remat) == (0.2, True)
    shipped = segment_sax.get_config().model.encoder_options.to_dict()
    for name in ENCODERS:  # the values in the shipped configs suit every encoder
        from_config.encoder(MODEL | {"encoder": name, "width": 12, "encoder_options": shipped})
    model = MODEL | {"norm": "group", "decoder": "mlp"}
    assert (from_config.encoder(model).norm, from_config.decoder(model).norm, from_config.decoder(model).width) == (
        "group",
        "group",
        4,
    )
    assert (from_config.encoder(MODEL).norm, type(from_config.decoder(MODEL)).__name__) == ("batch", "UNetDecoder")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (
            "segment_sax",
            {
                "encoder": "swin_micro",
                "width": 8,
                "decoder_widths": (4, 4, 4, 4),
                "encoder_options.drop_path": 0.5,
                "encoder_options.remat": True,
                "decoder": "mlp",
            },
        ),
        ("segment_sax", {"encoder": "unet_small", "norm": "group", "decoder_widths": (4, 4, 4, 4)}),
        pytest.param("pretrain_sax", {"encoder": "vit_tiny", "encoder_options.drop_path": 0.5}, marks=pytest.mark.slow),
        pytest.param("probe", {"encoder": "vit_small_16", "encoder_options.drop_path": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_steps_with_the_choices_trace(name: str, change: dict, acdc, tmp_path) -> None:
    made = config(name, acdc, tmp_path / "run", **{f"model.{key}": value for key, value in change.items()})
    task, _ = experiment.build(made)
    state = jax.eval_shape(task.init, task.pretrained)
    after, metrics = jax.eval_shape(task.stages[0][1], state, task.constants, next(task.train_batches))
    assert "loss" in metrics and jax.tree.structure(after) == jax.tree.structure(state)


def test_an_array_without_a_module_counts() -> None:
    params = {"encoder": {"dense": {"kernel": np.zeros((2, 3))}}, "plane_embedding": np.zeros((3, 4))}
    lines = describe.table(params, {}).splitlines()
    assert any(line.startswith("plane_embedding") and "12" in line for line in lines)
    assert lines[-1].split()[:2] == ["all", "18"]


@pytest.mark.parametrize("name", ["segment_sax", "pretrain_sax", "probe"])
def test_a_model_is_described(name: str, acdc, tmp_path) -> None:
    made = config(name, acdc, tmp_path / "run")
    text = describe.describe(made)
    task, _ = experiment.build(made)
    state = jax.eval_shape(task.init, task.pretrained)
    total = sum(x.size for x in jax.tree.leaves(state.params))
    encoder = sum(x.size for x in jax.tree.leaves(state.params["encoder"]))
    assert re.search(rf"{total:,} +100.0%", text) and f"{encoder:,}" in text and not (tmp_path / "run").exists()
    costs = [float(line.split(": ")[1].split()[0]) for line in text.splitlines() if "GFLOP" in line]
    assert 0 < 1.5 * costs[0] < costs[1]
    stem = next(line for line in text.splitlines() if "stem_conv" in line)
    assert re.search(r"\b\d+x16x16x4\b", stem)  # half of 32 pixels

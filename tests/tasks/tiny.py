"""Configs and a cohort that make a whole run small: two residual blocks, images of 32 pixels, a
step or two.
"""

import functools
import importlib
from pathlib import Path

import jax
import numpy as np

from morphojax.models import encoders
from morphojax.models.resnet import BasicBlock, ResNet
from morphojax.tasks import experiment
from morphojax.train import checkpoint

encoders.ENCODERS["two_blocks"] = functools.partial(ResNet, depths=(1, 1), block=BasicBlock)  # pyrefly: ignore

TINY = {"batch_size": 2, "log_every": 1, "images_every": 100, "save_every": 100, "steps": 1, "eval_every": 1}
TINY |= {"model.encoder": "two_blocks", "model.width": 4}
PRETRAIN = TINY | {"epochs": 0.0, "input.slices": 2, "model.table.mlp.hidden_units": 8, "dynamics_every": 0}
SEGMENT = TINY | {"model.decoder_widths": (4, 4, 4), "data.fraction": 1.0, "dynamics_every": 0}
PROBE = TINY | {"epochs": 0.0, "input.slices": 2, "label": "lv_edv_ml"}
DEFAULTS = {"pretrain": PRETRAIN, "segment": SEGMENT, "probe": PROBE}


def config(name: str, data: Path, run: Path, **changes):
    """The shipped config `name`, made small, with changes by dotted key."""
    made = importlib.import_module(f"configs.{name}").get_config()
    settings = DEFAULTS[made.task] | {"data.dataset": str(data), "workdir": str(run)}
    made.update_from_flattened_dict(settings | changes)
    return made


def train(name: str, data: Path, run: Path, **changes) -> dict:
    """Runs the config; returns the variables of the last checkpoint."""
    assert experiment.run(config(name, data, run, **changes))
    return checkpoint.load_variables(run, "last")


def moved(before: dict, after: dict, collection: str, module: str) -> bool:
    """Whether any array of a module changed."""
    pairs = zip(jax.tree.leaves(before[collection][module]), jax.tree.leaves(after[collection][module]), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)

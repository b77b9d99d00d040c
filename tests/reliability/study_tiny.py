"""A study of one pretraining and one cell with it. commands.py gives its dataset."""

import ml_collections

SMALL = {
    "batch_size": 4, "steps": 4, "epochs": 0.0, "log_every": 1, "eval_every": 0, "save_every": 1, "images_every": 100,
    "dynamics_every": 0,
}  # fmt: skip


def get_config() -> ml_collections.ConfigDict:
    segment = {"config": "configs/segment_sax.py"}
    pretraining = {"config": "configs/pretrain_sax.py"}
    config = ml_collections.ConfigDict()
    config.question = "Does it survive?"
    config.folder = ""
    config.axes = {
        "arm": {"pretrained": {"segment": segment, "pretrain": pretraining}},
        "labelled": {"all": {"segment": {"data": {"fraction": 1.0}}}},
        "seed": {"0": {}},
    }
    config.base = {
        "pretrain": SMALL | {"data": {"dataset": ""}, "input": {"slices": 2}, "model": {"width": 4}},
        "segment": SMALL | {"data": {"dataset": ""}, "model": {"width": 4, "decoder_widths": (4, 4, 4, 4)}},
    }
    config.cells = ()
    config.baseline = "pretrained"
    config.contrasts = ()
    config.evaluate = {"split": "test", "checkpoint": "last", "weights": "ema"}
    return config

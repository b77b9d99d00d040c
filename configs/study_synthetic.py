"""A small study on the embedded synthetic cohort: does pretraining against the table help, and does
that need each subject's own row?

    morphojax study --config=study_synthetic --workers=2

It shows every part of a study in a few minutes. It is no evidence about real hearts: the synthetic
hearts are drawn from their table.
"""

import ml_collections

COHORT = {"synthetic_subjects": 120, "synthetic_spacing_mm": 2.5, "synthetic_size": 64}
ENCODER = {"encoder": "unet_half", "width": 16}


def pretraining(control: str) -> dict:
    return {"config": "configs/pretrain_sax.py", "table": {"groups": "cardiac_morphometric", "control": control}}


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.question = "Does pretraining against the table's shape columns help to segment synthetic hearts?"
    config.folder = "runs/studies/synthetic"  # of runs and report
    segment = {"config": "configs/segment_sax.py"}
    # Every value of an axis overrides keys of the configs of a cell's pretraining and segmentation.
    # arm is what is compared; labelled and seed are repeated; any other axis is reported apart.
    config.axes = {
        "arm": {
            "scratch": {"segment": segment},
            "pretrained": {"pretrain": pretraining("none"), "segment": segment},
            "shuffled": {"pretrain": pretraining("shuffled"), "segment": segment},
        },
        "labelled": {"tenth": {"segment": {"data": {"fraction": 0.1}}}},
        "seed": {str(s): {"pretrain": {"seed": s}, "segment": {"seed": s}} for s in (0, 1)},
    }
    config.base = {  # of every cell
        "pretrain": {
            "data": COHORT, "model": ENCODER, "steps": 300, "epochs": 0.0, "batch_size": 32, "eval_every": 0,
            "save_every": 100, "images_every": 300, "dynamics_every": 100,
        },
        "segment": {
            "data": COHORT, "model": ENCODER | {"decoder_widths": (16, 32, 64, 128)}, "steps": 300, "eval_every": 0,
            "save_every": 100, "images_every": 300, "dynamics_every": 100,
        },
    }  # fmt: skip
    config.cells = ()  # parts of the matrix, as {"arm": ("scratch",), "seed": ("0",)}; empty: all of it
    config.baseline = "scratch"
    config.contrasts = (("pretrained", "scratch"), ("pretrained", "shuffled"))  # planned before any run
    config.evaluate = {"split": "test", "checkpoint": "last", "weights": "ema"}
    return config

"""Encoder families on ACDC with eight labelled patients: from scratch, pretrained against the
table, and pretrained with rows shuffled.

    launch/prepare_acdc.sh ACDC_FOLDER      # once
    morphojax study --config=study_acdc_encoders --workers=2

Learning rates are the best of a few tried, not searched for: attention and LayerNorm need lower
ones. Scores of an earlier recipe: docs/results.md.
"""

import ml_collections

from configs import study_acdc

ENCODERS = {  # encoder -> width, learning rate of the segmentation
    "unet_half": (24, 2e-3),
    "resnet18": (32, 5e-3),
    "convnext_pico": (32, 2e-3),
    "swin_micro": (32, 1e-3),
}


def get_config() -> ml_collections.ConfigDict:
    config = study_acdc.get_config()
    config.question = (
        "ACDC, eight labelled patients: which encoder family, and does pretraining against the table help it?"
    )
    config.folder = "runs/studies/acdc_encoders"
    segment = {"config": "configs/segment_acdc_many.py"}
    pretrained = {"config": "configs/pretrain_acdc.py"}
    config.axes.arm = {
        "scratch": {"segment": segment},
        "pretrained": {"segment": segment, "pretrain": pretrained},
        "shuffled": {"segment": segment, "pretrain": pretrained | {"table": {"control": "shuffled"}}},
    }
    config.axes.encoder = {
        name: {
            "pretrain": {"model": {"encoder": name, "width": width}},
            "segment": {"model": {"encoder": name, "width": width}, "optimizer": {"learning_rate": rate}},
        }
        for name, (width, rate) in ENCODERS.items()
    }
    del config.base.pretrain["model"]  # the encoders give it
    config.base.segment.update(steps=2000)
    config.cells = ({"labelled": ("8a", "8b", "8c"), "seed": ("0",)},)
    config.baseline = "scratch"
    config.contrasts = (("pretrained", "scratch"), ("pretrained", "shuffled"))
    return config

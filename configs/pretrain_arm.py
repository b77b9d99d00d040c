"""Pretraining with other objectives than the default: one arm of a comparison, selected by name.

    morphojax train --config=pretrain_arm:byol
    morphojax train --config=pretrain_arm:sigmoid --config.data.dataset=DIR

All other settings are those of configs/pretrain_sax.py, so the arms differ in the objective only
(and in what it needs: see the end of this file). Every key can be set on the command line. Heads
are smaller than the published ones, to fit a small encoder; comments give the published sizes.
The arms supcon and remove_fn need a label (config.table.label), here a diagnosis of the synthetic
cohort. docs/objectives.md describes every objective.

Cost and scores of the arms on ACDC: docs/results.md.
"""

import ml_collections

from configs import pretrain_sax

LABEL = "cardiomyopathy"  # of the synthetic cohort

# Objectives of each arm. Settings that are not given have their defaults in
# morphojax/tasks/pretrain/objectives.
OBJECTIVES = {
    # image-table contrast
    "info_nce": {"info_nce": {}},
    "sigmoid": {"sigmoid": {}},
    "nt_xent": {"nt_xent": {}},
    "supcon": {"info_nce": {"positives": "same_label"}},
    "remove_fn": {"info_nce": {"negatives": "other_labels"}},
    "remove_similar": {"info_nce": {"negatives": "unlike", "threshold": 0.7}},
    "nearest": {"info_nce": {"positives": "nearest", "threshold": 0.7}},
    "soft": {"info_nce": {"positives": "soft"}},
    "match": {"match": {}},
    # images only
    "simclr": {"simclr": {}},
    "position": {"simclr": {"partitions": 4}},
    "byol": {
        "byol": {"hidden_units": 512, "features": 128, "momentum": 0.99}
    },  # published: 4096, 256, 0.9996 (for longer runs)
    "simsiam": {
        "simsiam": {"hidden_units": 512, "features": 512, "predictor_hidden_units": 128}
    },  # published: 2048, 2048, 512
    "barlow_twins": {"barlow_twins": {"hidden_units": 512, "features": 512}},  # published: 8192
    "vicreg": {
        "vicreg": {"hidden_units": 512, "features": 512, "weight": 0.04}
    },  # published: 8192; the weight scales the loss to about 1
    "swav": {"swav": {"hidden_units": 512, "prototypes": 64}},  # published: 2048, 3000 (for ImageNet)
    "regional": {
        "regional": {}
    },  # trains the encoder too; for two stages set config.init_from and config.freeze=encoder
    "masked_patches": {"masked_patches": {}},
    # table only: trains the table encoder, not the image encoder
    "scarf": {"scarf": {}},
    "masked_columns": {"masked_columns": {}},
    # table columns predicted from images
    "regression": {"regression": {}},
    "cross_columns": {"cross_columns": {}},
    # sums
    "info_nce_regression": {"info_nce": {}, "regression": {}},
    "info_nce_cross": {"info_nce": {}, "cross_columns": {}, "regression": {}},
    "simclr_regression": {"simclr": {}, "regression": {}},
}
IMAGES_ONLY = ("simclr", "position", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "regional", "masked_patches")
TOKENS = ("match", "masked_columns", "cross_columns", "info_nce_cross")  # arms that need a token per column
LABELLED = ("supcon", "remove_fn")


def get_config(arm: str = "") -> ml_collections.ConfigDict:
    if arm not in OBJECTIVES:
        raise ValueError(f"give one of the arms after the colon: {', '.join(OBJECTIVES)}")
    config = pretrain_sax.get_config()
    config.workdir = f"runs/pretrain_{arm}"
    config.objectives = ml_collections.ConfigDict({name: {"weight": 1.0, **s} for name, s in OBJECTIVES[arm].items()})
    if arm in IMAGES_ONLY:
        config.table.groups = "none"
    if arm in TOKENS:
        config.model.table.encoder = "transformer"
    if arm in LABELLED:
        config.table.label = LABEL
    if arm == "masked_patches":
        config.model.encoder = "vit_tiny"
    return config

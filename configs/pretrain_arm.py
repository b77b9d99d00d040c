"""Pretraining by other objectives than the default: one arm of a comparison, by its name.

    python -m morphojax.main --config=configs/pretrain_arm.py:byol
    python -m morphojax.main --config=configs/pretrain_arm.py:sigmoid --config.data.dataset=data/acdc

Everything but the objective is that of configs/pretrain_sax.py, so that arms differ in nothing else; every key can be set on
the command line as there. The sizes of heads are cut down from the published ones to what a small encoder needs; each says where.
Arms with labels (supcon, remove_fn) need config.table.label, here a diagnosis of the synthetic cohort.
"""

import ml_collections

from configs import pretrain_sax

LABEL = "cardiomyopathy"  # of the synthetic cohort

# Objectives by arm; the settings that are not named have their defaults in morphojax/train/terms.
OBJECTIVES = {
    # image against table
    "info_nce": {"info_nce": {}},
    "sigmoid": {"sigmoid": {}},
    "nt_xent": {"nt_xent": {}},
    "supcon": {"info_nce": {"positives": "same_label"}},
    "remove_fn": {"info_nce": {"negatives": "other_labels"}},
    "remove_similar": {"info_nce": {"negatives": "unlike", "threshold": 0.7}},
    "nearest": {"info_nce": {"positives": "nearest", "threshold": 0.7}},
    "soft": {"info_nce": {"positives": "soft"}},
    "match": {"match": {}},
    # images alone
    "simclr": {"simclr": {}},
    "position": {"simclr": {"partitions": 4}},
    "byol": {
        "byol": {"hidden_units": 512, "features": 128, "momentum": 0.99}
    },  # published: 4096, 256, 0.9996 (of a longer run)
    "simsiam": {
        "simsiam": {"hidden_units": 512, "features": 512, "predictor_hidden_units": 128}
    },  # published: 2048, 2048, 512
    "barlow_twins": {"barlow_twins": {"hidden_units": 512, "features": 512}},  # published: 8192
    "vicreg": {
        "vicreg": {"hidden_units": 512, "features": 512, "weight": 0.04}
    },  # published: 8192; the weight makes it a loss of about 1
    "swav": {
        "swav": {"hidden_units": 512, "prototypes": 64}
    },  # published: 2048, 3000 (ImageNet has more to tell apart)
    "regional": {"regional": {}},  # the encoder too; in two stages: config.init_from and config.freeze=encoder
    "masked_patches": {"masked_patches": {}},
    # the table alone: its encoder learns, the image encoder does not
    "scarf": {"scarf": {}},
    "masked_columns": {"masked_columns": {}},
    # morphometry into the pixels
    "regression": {"regression": {}},
    "cross_columns": {"cross_columns": {}},
    # sums
    "info_nce_regression": {"info_nce": {}, "regression": {}},
    "info_nce_cross": {"info_nce": {}, "cross_columns": {}, "regression": {}},
    "simclr_regression": {"simclr": {}, "regression": {}},
}
IMAGES_ALONE = ("simclr", "position", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "regional", "masked_patches")
TOKENS = ("match", "masked_columns", "cross_columns", "info_nce_cross")  # arms that look at columns one by one
LABELLED = ("supcon", "remove_fn")


def get_config(arm: str = "") -> ml_collections.ConfigDict:
    if arm not in OBJECTIVES:
        raise ValueError(
            f"--config=configs/pretrain_arm.py:{arm}: name an arm after the colon: {', '.join(OBJECTIVES)}"
        )
    config = pretrain_sax.get_config()
    config.workdir = f"runs/pretrain_{arm}"
    config.objectives = ml_collections.ConfigDict({name: {"weight": 1.0, **s} for name, s in OBJECTIVES[arm].items()})
    if arm in IMAGES_ALONE:
        config.table.groups = "none"
    if arm in TOKENS:
        config.model.table.encoder = "transformer"
    if arm in LABELLED:
        config.table.label = LABEL
    if arm == "masked_patches":
        config.model.encoder = "vit_tiny"
    return config

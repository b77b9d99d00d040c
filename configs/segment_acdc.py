"""Segmentation of ACDC with one or two labelled patients, from scratch or pretrained.

    morphojax train --config=segment_acdc:self_training \\
        --config.data.dataset=data/acdc --config.data.subjects="('data/labelled.txt',)"

The arms are those of segment_sax.py. Protocol, cost and scores: docs/results.md.
"""

import ml_collections

from configs import segment_sax


def get_config(arm: str = "supervised") -> ml_collections.ConfigDict:
    config = segment_sax.get_config(arm)
    config.workdir = "runs/acdc/segment"
    config.steps = 2000
    config.data.dataset = "data/acdc"
    config.data.fraction = 1.0
    config.augment.translation_fraction = 0.15
    config.eval_every = 500
    config.save_every = 500
    config.images_every = 500
    return config

"""Pretraining on ACDC patients against their nine cardiac morphometric values.

    morphojax train --config=pretrain_acdc --config.data.dataset=data/acdc \\
        --config.data.subjects="('data/acdc_pretrain.txt',)"

The morphometric values were measured on expert masks: they are weak labels of the pretraining
patients, and every result that uses them says so. See docs/results.md for the whole protocol.
"""

import ml_collections

from configs import pretrain_sax


def get_config() -> ml_collections.ConfigDict:
    config = pretrain_sax.get_config()
    config.workdir = "runs/acdc/pretrain"
    config.steps = 600
    config.epochs = 0.0
    config.batch_size = 24
    config.data.dataset = "data/acdc"
    config.input.slices = 3
    config.table.groups = "cardiac_morphometric"
    config.table.corruption_fraction = 0.3
    config.model.table.mlp.hidden_units = 256
    config.eval_every = 0  # two validation patients say nothing about retrieval: the last checkpoint counts
    config.save_every = 200
    config.images_every = 200
    config.dynamics_every = 100
    return config

"""Pretraining on the 2-chamber view and table rows, on the embedded synthetic cohort.

    morphojax train --config=pretrain_la_2ch

An example is a subject: its one long-axis slice, at ED or ES, against the subject's table row.
"""

import ml_collections

from configs import pretrain_sax

PLANE = "la_2ch"


def get_config() -> ml_collections.ConfigDict:
    config = pretrain_sax.get_config()
    config.workdir = f"runs/pretrain_{PLANE}"
    config.data.plane = PLANE
    config.epochs = 80.0  # an epoch has one slice of a subject, where that of the short axis has four
    config.eval_every = config.save_every = config.images_every = config.dynamics_every = 80
    return config

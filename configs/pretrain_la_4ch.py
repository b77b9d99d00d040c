"""Pretraining on the 4-chamber view and table rows: configs/pretrain_la_2ch.py in another plane.

morphojax train --config=pretrain_la_4ch
"""

import ml_collections

from configs import pretrain_la_2ch

PLANE = "la_4ch"


def get_config() -> ml_collections.ConfigDict:
    config = pretrain_la_2ch.get_config()
    config.workdir = f"runs/pretrain_{PLANE}"
    config.data.plane = PLANE
    return config

"""Image-only segmentation of the 4-chamber view: both atria, and the ventricles and myocardium
where they are annotated.

morphojax train --config=segment_la_4ch --config.init_from=runs/pretrain_la_4ch
"""

import ml_collections

from configs import segment_la_2ch

PLANE = "la_4ch"


def get_config(arm: str = "supervised") -> ml_collections.ConfigDict:
    config = segment_la_2ch.get_config(arm)
    config.workdir = f"runs/segment_{PLANE}"
    config.data.plane = PLANE
    return config

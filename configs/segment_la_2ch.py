"""Image-only segmentation of the 2-chamber view: the left atrium, and LV cavity and myocardium
where they are annotated.

    morphojax train --config=segment_la_2ch \\
        --config.init_from=runs/pretrain_la_2ch

A subject has two labelled slices (ED and ES), where the short axis has some twenty: hence more
subjects.
"""

import ml_collections

from configs import segment_sax

PLANE = "la_2ch"


def get_config(arm: str = "supervised") -> ml_collections.ConfigDict:
    config = segment_sax.get_config(arm)
    config.workdir = f"runs/segment_{PLANE}"
    config.data.plane = PLANE
    config.data.fraction = 0.2
    return config

"""Pretraining on all planes of a subject at once, against its table row and plane against plane.

    morphojax train --config=pretrain_multiplane
    morphojax train --config=segment_la_4ch \\
        --config.init_from=runs/pretrain_multiplane

An example is a subject: four short-axis slices and both long-axis views of one frame, by one
encoder that serves all planes (or config.model.plane_encoders=own: one for each), pooled. Planes
are left out at random, so that a subject who lacks one is no stranger. Fine-tuning takes the
encoder to any one plane.
"""

import ml_collections

from configs import pretrain_sax


def get_config() -> ml_collections.ConfigDict:
    config = pretrain_sax.get_config()
    config.workdir = "runs/pretrain_multiplane"
    config.data.plane = "sax,la_2ch,la_4ch"
    config.input.plane_dropout = 0.3
    config.objectives.planes = ml_collections.ConfigDict({"weight": 0.5, "temperature": 0.1, "features": 128})
    return config

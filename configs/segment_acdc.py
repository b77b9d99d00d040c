"""Segmentation of ACDC with few labelled patients, from scratch or from a pretrained encoder.

    python -m morphojax.main --config=configs/segment_acdc.py --config.data.dataset=data/acdc \\
        --config.data.subjects="('data/labelled.txt',)"

See docs/results.md for the whole protocol.
"""

import ml_collections

from configs import segment_sax


def get_config() -> ml_collections.ConfigDict:
    config = segment_sax.get_config()
    config.workdir = "runs/acdc/segment"
    config.steps = 800
    config.data.dataset = "data/acdc"
    config.data.fraction = 1.0
    config.eval_every = 400
    config.save_every = 400
    config.images_every = 400
    return config

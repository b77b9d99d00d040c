"""Segmentation of ACDC with one or two labelled patients, for a GPU: as segment_acdc, with a
U-Net at the image's full size, in bfloat16.

    morphojax train --config=segment_acdc_gpu:calibrated \\
        --config.data.dataset=data/acdc --config.data.subjects="('data/labelled.txt',)"

The arms are those of segment_sax.py.
"""

import ml_collections

from configs import segment_acdc


def get_config(arm: str = "supervised") -> ml_collections.ConfigDict:
    config = segment_acdc.get_config(arm)
    config.workdir = "runs/acdc/segment_gpu"
    config.model.encoder = "unet"
    config.model.dtype = "bfloat16"
    return config

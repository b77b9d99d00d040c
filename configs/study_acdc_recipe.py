"""What matters in the recipe of configs/segment_acdc.py: changes of one part at a time, supervised,
with two labelled ACDC patients.

    launch/prepare_acdc.sh ACDC_FOLDER      # once
    morphojax study --config=study_acdc_recipe --workers=2

About 9 min for a run on one core of a two-core machine; full_size takes over an hour. Scores:
docs/results.md.
"""

import ml_collections

from configs import study_acdc

CHANGES = {
    "recipe": {},
    "group_norm": {"model": {"norm": "group"}},
    "resnet18": {"model": {"encoder": "resnet18", "width": 32}},  # the encoder of earlier versions
    "full_size": {"model": {"encoder": "unet"}},  # a U-Net at the image's size; the recipe's is at half of it
    "batch_8": {"batch_size": 8},
    "steps_800": {"steps": 800},
    "steps_4000": {"steps": 4000},
    "no_augmentation": {
        "augment": {
            "rotation_degrees": 0.0, "scale": (1.0, 1.0), "translation_fraction": 0.0, "gamma": (1.0, 1.0), "brightness": 0.0,
            "contrast": 0.0, "noise_sd": 0.0, "bias_field": 0.0,
        }
    },
}  # fmt: skip


def get_config() -> ml_collections.ConfigDict:
    config = study_acdc.get_config()
    config.question = "ACDC, two labelled patients: which part of the supervised recipe matters?"
    config.folder = "runs/studies/acdc_recipe"
    config.axes.arm = {
        name: {"segment": {"config": "configs/segment_acdc.py:supervised"} | change} for name, change in CHANGES.items()
    }
    config.cells = ({"labelled": ("2a", "2d"), "seed": ("0",)},)
    config.baseline = "recipe"
    config.contrasts = tuple((name, "recipe") for name in CHANGES if name != "recipe")
    return config

"""Every pretraining objective, and every use of the table in fine-tuning, under one small budget on
ACDC with two labelled patients.

    launch/prepare_acdc.sh ACDC_FOLDER      # once
    morphojax study --config=study_acdc_screening --workers=2

A pretraining takes 150 steps of 12 patients x 3 slices: about 4 min on one core of a two-core
machine. A segmentation takes 800 steps: 3 min, 8 with unlabelled stacks. This screens ideas: a
budget so small hides effects that a longer one shows (docs/results.md).
"""

import ml_collections

from configs import pretrain_arm, study_acdc

CONTROLS = {"info_nce": ("shuffled", "noise"), "regression": ("shuffled",)}
VIT = {"encoder": "vit_tiny"}


def pretraining(objective: str, control: str = "none") -> dict:
    groups = "none" if objective in pretrain_arm.IMAGES_ONLY else "cardiac_morphometric"
    table = {"groups": groups, "control": control}
    table |= {"label": "group"} if objective in pretrain_arm.LABELLED else {}
    model = VIT if objective == "masked_patches" else {"encoder": "unet_half"}
    return {"config": f"configs/pretrain_arm.py:{objective}", "table": table, "model": model}


def arms() -> dict[str, dict]:
    supervised, volume = ({"config": f"configs/segment_acdc.py:{arm}"} for arm in ("supervised", "volume"))
    made = {
        "scratch": {"segment": supervised},
        "scratch_vit": {"segment": supervised | {"model": VIT}},
        "volume": {"segment": volume},
        "volume_shuffled": {"segment": volume | {"unlabelled": {"control": "shuffled"}}},
        "agreeing_stacks": {"segment": volume | {"unlabelled": {"objectives": {"agreeing_stacks": {"weight": 0.5}}}}},
    }
    image_encoders = [name for name in pretrain_arm.OBJECTIVES if name not in ("scarf", "masked_columns")]
    for name in image_encoders:
        model = {"model": VIT} if name == "masked_patches" else {}
        made[name] = {"pretrain": pretraining(name), "segment": supervised | model}
        for control in CONTROLS.get(name, ()):
            made[f"{name}_{control}"] = {"pretrain": pretraining(name, control), "segment": supervised}
        if name in CONTROLS:
            made[f"{name}_volume"] = {"pretrain": pretraining(name), "segment": volume}
    return made


def get_config() -> ml_collections.ConfigDict:
    config = study_acdc.get_config()
    config.question = "ACDC, two labelled patients, a small budget: which pretraining, and which use of the table?"
    config.folder = "runs/studies/acdc_screening"
    config.axes.arm = arms()
    config.base.pretrain.update(batch_size=12, steps=150, save_every=150, images_every=150, dynamics_every=30)
    config.base.pretrain.input.slices = 3
    del config.base.pretrain["model"]  # the arms give it
    config.base.segment.update(steps=800, images_every=800)
    config.cells = ({"labelled": ("2a", "2d"), "seed": ("0",)},)
    config.baseline = "scratch"
    config.contrasts = (("info_nce", "scratch"), ("info_nce", "info_nce_shuffled"), ("volume", "volume_shuffled"))
    return config

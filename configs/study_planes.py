"""The synthetic cohort: plane x encoder x arm, with the permutation control.

    morphojax study --config=study_planes --plan
    morphojax study --config=study_planes --workers=2
    morphojax study --config=study_planes:multiplane --workers=2

After the colon: `single` (the default) pretrains on the plane that is segmented, `multiplane` on
all planes at once. The hearts are drawn from their table, so a gain is expected where the table's
columns are visible. `--only=encoder=resnet18 --only=seed=0` runs a part.

Images are small, and networks narrow, so that the 180 runs take hours on two cores, not days.
"""

import ml_collections

ENCODERS = {  # encoder -> width, learning rate of the segmentation
    "unet_half": (16, 2e-3),
    "resnet18": (16, 5e-3),
    "convnext_pico": (16, 2e-3),
    "swin_micro": (16, 1e-3),
}
COHORT = {"synthetic_subjects": 200, "synthetic_spacing_mm": 2.5, "synthetic_size": 64}
FRACTIONS = {"sax": 0.03, "la_2ch": 0.05, "la_4ch": 0.05}  # labelled: a long axis has two slices of a subject


def get_config(planes: str = "single") -> ml_collections.ConfigDict:
    """Raises ValueError for another word than single and multiplane."""
    if planes not in ("single", "multiplane"):
        raise ValueError(f"{planes!r} after the colon of --config is unknown: choose single or multiplane")
    single = planes == "single"
    config = ml_collections.ConfigDict()
    config.question = (
        "Synthetic hearts: in which plane, and with which encoder, does pretraining against the table help?"
    )
    config.folder = f"runs/studies/planes_{planes}"
    segment = {"config": "configs/segment_sax.py"}
    pretrained = {
        "config": "configs/pretrain_sax.py" if single else "configs/pretrain_multiplane.py",
        "table": {"groups": "cardiac_morphometric"},
    }
    config.axes = {
        "arm": {
            "scratch": {"segment": segment},
            "pretrained": {"segment": segment, "pretrain": pretrained},
            "shuffled": {"segment": segment, "pretrain": _shuffled(pretrained)},
        },
        "encoder": {
            name: {
                "pretrain": {"model": {"encoder": name, "width": width}},
                "segment": {"model": {"encoder": name, "width": width}, "optimizer": {"learning_rate": rate}},
            }
            for name, (width, rate) in ENCODERS.items()
        },
        "labelled": {"few": {}},
        "plane": {
            plane: {
                "segment": {"data": {"plane": plane, "fraction": fraction}},
                **({"pretrain": {"data": {"plane": plane}}} if single else {}),
            }
            for plane, fraction in FRACTIONS.items()
        },
        "seed": {str(s): {"pretrain": {"seed": s}, "segment": {"seed": s}} for s in (0, 1, 2)},
    }
    config.base = {
        "pretrain": {
            "data": COHORT, "steps": 300, "epochs": 0.0, "batch_size": 32, "eval_every": 0, "save_every": 150,
            "images_every": 300, "dynamics_every": 100,
        },
        "segment": {
            "data": COHORT, "model": {"decoder_widths": (16, 32, 64, 128)}, "eval_every": 0, "images_every": 400,
            "dynamics_every": 100,
        },
    }  # fmt: skip
    config.cells = ()
    config.baseline = "scratch"
    config.contrasts = (("pretrained", "scratch"), ("pretrained", "shuffled"))
    config.evaluate = {"split": "test", "checkpoint": "last", "weights": "ema"}
    return config


def _shuffled(pretraining: dict) -> dict:
    return pretraining | {"table": {**pretraining["table"], "control": "shuffled"}}

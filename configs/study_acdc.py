"""ACDC with few labelled patients: pretraining, learning from unlabelled patients, and controls.

    launch/prepare_acdc.sh ACDC_FOLDER      # once: the dataset and its lists of patients
    morphojax study --config=study_acdc --workers=2

The labelled sets hold one, two, eight or all patients (Chaitanya et al. 2020). The other patients
of the protocol's pretraining list are unlabelled; 19 patients are the test. Sets of one and two
patients have two seeds. `all` (59 of the 80 patients at hand) has milder augmentation and more
steps. At test time every arm sees images alone. Cost and scores: docs/results.md. On a GPU:

    morphojax study --config=study_acdc:gpu
"""

import ml_collections

DATA = "data/acdc"
PRETRAIN = {"simclr": {"groups": "none"}, "info_nce": {}, "info_nce_shuffled": {"control": "shuffled"}}
UNLABELLED = ("volume", "self_training", "calibrated")
CONTROLS = ("shuffled", "mean", "noise_10")  # of the volumes of unlabelled patients
# Strong augmentation underfits when many patients are labelled: this is that of segment_acdc_many.
MILD = {
    "augment": {
        "rotation_degrees": 30.0, "scale": (0.8, 1.25), "translation_fraction": 0.08, "gamma": (0.7, 1.5), "brightness": 0.1,
        "contrast": 0.3, "noise_sd": 0.03, "bias_field": 0.3,
    }
}  # fmt: skip
SETS = {1: ("1a", "1c", "1d"), 2: ("2a", "2b", "2d"), 8: ("8a", "8b", "8c")}


def pretraining(name: str) -> dict:
    table = {"groups": "cardiac_morphometric"} | PRETRAIN[name]
    return {"config": f"configs/pretrain_arm.py:{name.removesuffix('_shuffled')}", "table": table}


def arms(segment: str) -> dict[str, dict]:
    """Name -> overrides. segment: the config of the segmentations, which takes an arm."""
    made: dict[str, dict] = {"supervised": {"segment": {"config": f"{segment}:supervised"}}}
    for name in UNLABELLED:
        made[name] = {"segment": {"config": f"{segment}:{name}"}}
        for control in CONTROLS if name != "self_training" else ():
            made[f"{name}_{control}"] = {"segment": {"config": f"{segment}:{name}", "unlabelled": {"control": control}}}
    for name in PRETRAIN:
        for then in ("supervised", "self_training", "calibrated"):
            made[f"{name}_{then}"] = {"pretrain": pretraining(name), "segment": {"config": f"{segment}:{then}"}}
    return made


def get_config(device: str = "cpu") -> ml_collections.ConfigDict:
    """device: cpu, or gpu for a U-Net at the image's full size, in bfloat16."""
    if device not in ("cpu", "gpu"):
        raise ValueError(f"{device!r} after the colon of --config is unknown: choose cpu or gpu")
    config = ml_collections.ConfigDict()
    config.question = "ACDC, few labelled patients: what do unlabelled images, and their table, add?"
    config.folder = "runs/studies/acdc" if device == "cpu" else "runs/studies/acdc_gpu"
    config.axes = {
        "arm": arms("configs/segment_acdc.py" if device == "cpu" else "configs/segment_acdc_gpu.py"),
        "labelled": {
            name: {"labels": labels, "segment": {"data": {"subjects": (f"{DATA}.lists/{name}.txt",)}}}
            for labels, names in SETS.items()
            for name in names
        }
        | {"all": {"labels": 59, "segment": {"data": {"subjects": (f"{DATA}.lists/all.txt",)}, "steps": 6000} | MILD}},
        "seed": {str(s): {"pretrain": {"seed": s}, "segment": {"seed": s}} for s in (0, 1)},
    }
    config.base = {
        "pretrain": {
            "data": {"dataset": DATA, "subjects": (f"{DATA}.lists/pretraining.txt",)}, "steps": 1200, "epochs": 0.0,
            "batch_size": 24, "input": {"slices": 4}, "eval_every": 0, "save_every": 400, "images_every": 400,
            "dynamics_every": 200, "model": {"encoder": "unet_half" if device == "cpu" else "unet"},
        },
        "segment": {
            "data": {"dataset": DATA}, "unlabelled": {"subjects": (f"{DATA}.lists/pretraining.txt",)},
            "eval_every": 0, "images_every": 2000, "dynamics_every": 0,
        },
    }  # fmt: skip
    main = (
        "supervised", "simclr_supervised", "info_nce_supervised", "info_nce_shuffled_supervised", "volume",
        "self_training", "calibrated", "calibrated_shuffled",
    )  # fmt: skip
    # The main arms; the others by --config.cells or in a study of one's own.
    few = SETS[1] + SETS[2]
    config.cells = (
        {"arm": main, "labelled": few + SETS[8], "seed": ("0",)},
        {"arm": main, "labelled": few, "seed": ("1",)},
        {"arm": ("supervised",), "labelled": ("all",), "seed": ("0",)},
    )
    config.baseline = "supervised"
    config.contrasts = (
        ("info_nce_supervised", "supervised"),
        ("info_nce_supervised", "info_nce_shuffled_supervised"),
        ("info_nce_supervised", "simclr_supervised"),
        ("volume", "supervised"),
        ("self_training", "supervised"),
        ("calibrated", "self_training"),
        ("calibrated", "calibrated_shuffled"),
    )
    config.evaluate = {"split": "test", "checkpoint": "last", "weights": "ema"}
    return config

"""A tiny synthetic study without an effect: pretraining against two columns that say nothing about
the heart (ethnicity and diet are drawn at random), right rows against shuffled rows.

    python -m analysis.null_studies --studies=40 --output=runs/null_studies

repeats it with other seeds and other hearts, and counts how often an effect is claimed. The word
after the colon of the config is the number of the repeat.
"""

import ml_collections

MODEL = {"encoder": "unet_half", "width": 4}
OFTEN = {"epochs": 0.0, "eval_every": 0, "save_every": 1000, "images_every": 1000, "dynamics_every": 0}


def get_config(number: str = "0") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.question = "Does a study claim an effect where there is none?"
    config.folder = f"runs/null_studies/{number}"
    cohort = {
        "synthetic_subjects": 80,
        "synthetic_spacing_mm": 5.0,
        "synthetic_size": 32,
        "synthetic_seed": int(number),
    }
    segment = {"config": "configs/segment_sax.py"}
    pretrained = {"config": "configs/pretrain_sax.py"}
    seeds = [1000 * int(number) + repeat for repeat in range(3)]
    config.axes = {
        "arm": {
            "right": {"segment": segment, "pretrain": pretrained},
            "shuffled": {"segment": segment, "pretrain": pretrained | {"table": {"control": "shuffled"}}},
        },
        "labelled": {"tenth": {"segment": {"data": {"fraction": 0.1}}}},  # another tenth for each seed
        "seed": {str(seed): {"pretrain": {"seed": seed}, "segment": {"seed": seed}} for seed in seeds},
    }
    config.base = {
        "pretrain": OFTEN
        | {"data": cohort, "model": MODEL, "steps": 40, "batch_size": 16, "table": {"groups": "ethnicity,diet"}},
        "segment": OFTEN
        | {"data": cohort, "model": MODEL | {"decoder_widths": (4, 8, 16, 32)}, "steps": 80, "batch_size": 8},
    }
    config.cells = ()
    config.baseline = "shuffled"
    config.contrasts = (("right", "shuffled"),)
    config.evaluate = {"split": "test", "checkpoint": "last", "weights": "model"}
    return config

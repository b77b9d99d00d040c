"""The number of pretraining subjects: how many does a gain need, right rows against shuffled rows?

    morphojax study --config=study_subjects --plan          # for a GPU
    morphojax study --config=study_subjects:small --workers=2

One synthetic cohort; each pretraining reads a nested part of its training subjects, for the same
number of steps. All segmentations have the same few labelled subjects and the same test subjects.
By default the parts have about 50, 200, 1,000 and 5,000 subjects. `small` has 20 and 100, tiny
networks, and takes minutes on two cores; it checks the pipeline.
"""

import dataclasses
from typing import Any

import ml_collections


@dataclasses.dataclass(frozen=True)
class Size:
    """parts: name of a number of subjects -> fraction of the training subjects, 70 % of the cohort.
    labelled: fraction of them with labels.
    """

    cohort: dict[str, Any]
    parts: dict[str, float]
    labelled: float
    seeds: tuple[int, ...]
    width: int
    pretrain_steps: int
    batch_size: int
    segment_steps: int


SIZES = {
    "full": Size(
        cohort={"synthetic_subjects": 7150},
        parts={"50": 0.01, "200": 0.04, "1000": 0.2, "5000": 1.0},
        labelled=0.001,
        seeds=(0, 1, 2),
        width=24,
        pretrain_steps=4000,
        batch_size=48,
        segment_steps=400,
    ),
    "small": Size(
        cohort={"synthetic_subjects": 145, "synthetic_spacing_mm": 2.5, "synthetic_size": 64},
        parts={"20": 0.2, "100": 1.0},
        labelled=0.05,
        seeds=(0, 1),
        width=8,
        pretrain_steps=200,
        batch_size=16,
        segment_steps=200,
    ),
}


def get_config(name: str = "full") -> ml_collections.ConfigDict:
    """Raises ValueError for another word than full and small."""
    if name not in SIZES:
        raise ValueError(f"{name!r} after the colon of --config is unknown: choose {' or '.join(SIZES)}")
    size = SIZES[name]
    config = ml_collections.ConfigDict()
    config.question = "Synthetic hearts: how many pretraining subjects does a gain need?"
    config.folder = f"runs/studies/subjects_{name}"
    segment = {"config": "configs/segment_sax.py"}
    arms: dict[str, dict[str, Any]] = {"scratch": {"segment": segment}}
    for part, fraction in size.parts.items():
        for arm, control in (("right", "none"), ("shuffled", "shuffled")):
            pretrain = {
                "config": "configs/pretrain_sax.py",
                "data": {"fraction": fraction},
                "table": {"groups": "cardiac_morphometric", "control": control},
            }
            arms[f"{arm}_{part}"] = {"pretrain": pretrain, "segment": segment}
    config.axes = {
        "arm": arms,
        "labelled": {"few": {"segment": {"data": {"fraction": size.labelled}}}},
        "seed": {str(s): {"pretrain": {"seed": s}, "segment": {"seed": s}} for s in size.seeds},
    }
    widths = tuple(size.width * factor for factor in (1, 2, 4, 8))
    config.base = {
        "pretrain": {
            "data": size.cohort, "model": {"width": size.width}, "steps": size.pretrain_steps, "epochs": 0.0,
            "batch_size": size.batch_size, "eval_every": 0, "save_every": size.pretrain_steps // 4,
            "images_every": size.pretrain_steps, "dynamics_every": size.pretrain_steps // 4,
        },
        "segment": {
            "data": size.cohort, "model": {"width": size.width, "decoder_widths": widths},
            "steps": size.segment_steps, "eval_every": 0, "images_every": size.segment_steps,
        },
    }  # fmt: skip
    config.cells = ()
    config.baseline = "scratch"
    config.contrasts = tuple(
        (f"right_{part}", other) for part in size.parts for other in ("scratch", f"shuffled_{part}")
    )
    config.evaluate = {"split": "test", "checkpoint": "last", "weights": "ema"}
    return config

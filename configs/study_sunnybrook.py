"""Sunnybrook, the LV cavity alone, two labelled subjects: does pretraining against the table help?

    morphojax prepare --source=sunnybrook --input=SUNNYBROOK_FOLDER \\
        --output=data/sunnybrook --spacing=1.5 --size=128 --split_fractions=0.6,0.1,0.3 --key=none
    morphojax study --config=study_sunnybrook --workers=2

The labelled subjects are a tenth of the training subjects, drawn anew for each seed. `no_masks` has
only the columns that were not measured on masks. Seven test subjects are too few to tell an effect
from none (docs/results.md).
"""

import ml_collections

from configs import study_acdc


def get_config() -> ml_collections.ConfigDict:
    config = study_acdc.get_config()
    config.question = "Sunnybrook, LV cavity, two labelled subjects: does pretraining against the table help?"
    config.folder = "runs/studies/sunnybrook"
    segment = {"config": "configs/segment_acdc.py", "data": {"fraction": 0.1}}
    pretrained = {"config": "configs/pretrain_acdc.py", "table": {"groups": "all"}}
    config.axes.arm = {
        "scratch": {"segment": segment},
        "pretrained": {"segment": segment, "pretrain": pretrained},
        "shuffled": {"segment": segment, "pretrain": pretrained | {"table": {"groups": "all", "control": "shuffled"}}},
        "no_masks": {"segment": segment, "pretrain": pretrained | {"table": {"groups": "-cardiac_morphometric"}}},
    }
    config.axes.labelled = {"tenth": {"labels": 2}}
    config.axes.seed = {str(s): {"pretrain": {"seed": s}, "segment": {"seed": s}} for s in (0, 1, 2)}
    pretrain, segmentation = config.base.pretrain, config.base.segment
    pretrain.data.update(dataset="data/sunnybrook", subjects=())
    pretrain.update(batch_size=16)
    segmentation.data.dataset = "data/sunnybrook"
    segmentation.unlabelled.subjects = ()
    config.cells = ()
    config.baseline = "scratch"
    config.contrasts = (("pretrained", "scratch"), ("pretrained", "shuffled"))
    return config

"""Which columns of the table must pretraining see? Groups of columns, and controls, short axis.

    morphojax study --config=study_morphometry --workers=2

The synthetic cohort of study_planes.py, whose hearts are drawn from the table: cardiac columns are
measured on the heart, body columns correlate with it, the rest says little or nothing. `noise` has
as many random columns as there are cardiac ones. 39 cells and 36 pretrainings.
"""

import ml_collections

from configs import study_planes

GROUPS = {
    "all_columns": "all",
    "cardiac": "cardiac_morphometric",
    "body": "body_morphometric",
    "no_cardiac": "-cardiac_morphometric",
    "no_morphometric": "-cardiac_morphometric,-body_morphometric",
    "haemodynamic": "haemodynamic",
    "demographic": "demographic",
    "lifestyle": "lifestyle",
    "medical_history": "medical_history",
}
CONTROLS = {"shuffled": "shuffled", "noise": "noise"}  # of the cardiac columns


def get_config() -> ml_collections.ConfigDict:
    config = study_planes.get_config()
    config.question = "Synthetic hearts, short axis: which columns must pretraining see?"
    config.folder = "runs/studies/morphometry"
    segment = {"config": "configs/segment_sax.py"}
    tables = {name: {"groups": groups} for name, groups in GROUPS.items()}
    tables |= {name: {"groups": GROUPS["cardiac"], "control": control} for name, control in CONTROLS.items()}
    arms = {
        name: {"segment": segment, "pretrain": {"config": "configs/pretrain_sax.py", "table": table}}
        for name, table in tables.items()
    }
    simclr = {"config": "configs/pretrain_arm.py:simclr", "table": {"groups": "none"}}
    config.axes.arm = {
        "scratch": {"segment": segment},
        "simclr": {"segment": segment, "pretrain": simclr},
    } | arms
    config.axes.encoder = {"unet_half": config.axes.encoder.unet_half}
    config.axes.plane = {"sax": config.axes.plane.sax}
    config.contrasts = (
        ("cardiac", "scratch"),
        ("cardiac", "simclr"),
        ("cardiac", "shuffled"),
        ("cardiac", "noise"),
        ("all_columns", "no_cardiac"),
        ("no_cardiac", "no_morphometric"),
        ("all_columns", "cardiac"),
    )
    return config

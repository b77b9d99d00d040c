"""Image-only segmentation of short-axis slices, from a pretrained encoder or from scratch.

    morphojax train --config=segment_sax --config.init_from=runs/pretrain_sax
    morphojax train --config=segment_sax:self_training

The arm after the colon says what the run learns from unlabelled images:
    supervised     nothing (the default)
    volume         whole stacks must have the volumes of the table; a little entropy minimisation
    self_training  pseudo-labels of an EMA teacher, mixed with labelled slices; images alone
    calibrated     the same on whole stacks, pseudo-labels calibrated to the table's volumes
"""

from typing import Any

import ml_collections

from configs import pretrain_sax

ARMS = ("supervised", "volume", "self_training", "calibrated")


def get_config(arm: str = "supervised") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "segment"
    config.workdir = "runs/segment_sax"
    config.seed = 0
    config.steps = 400  # batches; or
    config.epochs = 0.0  # passes over the labelled slices; one of the two is 0
    config.batch_size = 12  # slices, over all devices; more updates are worth more than larger batches: docs/results.md

    config.init_from = ""  # a run, a checkpoint folder, or a weight file (docs/segmentation.md); empty: from scratch
    config.init_checkpoint = "last"  # of that run: last, or best by its validation loss
    config.init_weights = "model"  # of that checkpoint: model, or ema (its EMA weights)
    config.freeze = "none"  # none, encoder, or probe_then_full
    config.probe_steps = 100  # probe_then_full only: steps with the encoder frozen

    config.data = pretrain_sax.get_config().data  # the same dataset, hence the same splits
    config.data.fraction = 0.1  # of the training subjects: few labels
    config.data.structures = ()  # empty: all that are annotated in the plane
    config.input = ml_collections.ConfigDict({"frames": ("ED", "ES")})  # "cine": all frames that prepare --frames kept
    # Unlabelled images beside each batch of labelled slices (docs/segmentation.md). At test time
    # the network sees the image alone. Objectives that read the table's volumes need whole stacks;
    # weights were chosen by pilots of one seed (docs/results.md).
    config.unlabelled = ml_collections.ConfigDict(
        {
            "batch_size": 0,  # stacks (or slices) beside each batch, over all devices; 0: no unlabelled images
            "subjects": (),  # as data.subjects; empty: all subjects of data.splits that are neither labelled nor held out
            "slices": 0,  # stacks are padded to this number of slices; 0: to the largest stack
            # The volumes: none for the subject's own, shuffled for another's, mean for everybody's,
            # noise_5, noise_10 or noise_20 for its own with that noise in per cent.
            "control": "none",
            "objectives": unlabelled_objectives(),
            "teacher": {  # how the pseudo-labels of copy_paste and strong_views are made
                "calibrate": False,  # offsets of the logits, so that a stack has the table's volumes
                "band": 0.0,  # relative tolerance of the table's volumes
                "limit": 6.0,  # largest offset
                "largest_component": False,  # keep only that of each structure of a stack
                "collapse_steps": 300,  # a structure lost or flooded for so long stops the run; 0: never
            },
        }
    )
    config.augment = augmentation()
    config.allow_unanatomical_flips = False

    config.model = ml_collections.ConfigDict(
        {
            "encoder": "unet_half",  # this and the width must be those of the pretraining
            "width": 24,
            "dtype": "float32",
            "norm": "batch",  # or group; of resnets, unets and decoders
            # Keyword arguments of the encoder. An encoder that lacks an option accepts only the
            # value given here. A config file can add further options, such as "patch" of a ViT
            # (models/encoders.py: encoder_options).
            "encoder_options": {
                "drop_path": 0.0,  # stochastic depth at the last block, a probability; of vit, swin and convnext
                "remat": False,  # compute blocks again for the gradient: less memory, more time; of every encoder
            },
            "decoder": "unet",  # or mlp, lighter: one width, the last of decoder_widths
            "decoder_widths": (
                24,
                48,
                96,
                192,
            ),  # channels at strides 2, 4, 8, 16; an encoder with fewer levels takes the first
            "condition": "",  # columns (groups or names) predicted from the image that condition the decoder; empty: none
        }
    )
    config.objective = ml_collections.ConfigDict({"dice_weight": 0.5})  # the rest is cross-entropy
    config.objective.measures_weight = 1.0  # of the squared error of the columns of model.condition
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup": 0.05,  # fraction of the run
            "clip_norm": 1.0,  # 0: no clipping
            "accumulate": 1,  # batches per update
            "layer_decay": 1.0,  # learning-rate factor from one encoder level to the level before it; 1: off
        }
    )
    config.ema = ml_collections.ConfigDict({"decay": 0.99})  # of the EMA weights; 0: none are kept
    config.log_every = 20  # steps, as are the next three
    config.eval_every = 200  # on the validation subjects; 0 never
    config.save_every = 200
    config.keep_checkpoints = 2  # of the last ones, besides the best
    config.images_every = 200
    config.dynamics_every = 80  # distance of weights and features from the start, costs 0.7 steps; 0 never
    use_arm(config, arm)
    return config


def use_arm(config: ml_collections.ConfigDict, arm: str) -> None:
    """Switches on what the arm learns from unlabelled images. Raises ValueError if unknown."""
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r} after the colon of --config is unknown: choose one of {', '.join(ARMS)}")
    unlabelled = config.unlabelled
    if arm == "volume":
        unlabelled.batch_size = 1
    elif arm in ("self_training", "calibrated"):
        unlabelled.objectives.volume_consistency.weight = unlabelled.objectives.entropy.weight = 0.0
        unlabelled.objectives.copy_paste.weight = 1.0
        unlabelled.teacher.calibrate = arm == "calibrated"
        config.batch_size = 8  # and twice as many mixed slices: as good as 12, in two thirds of the time
        unlabelled.batch_size = 2 if unlabelled.teacher.calibrate else config.batch_size  # stacks, or slices


def unlabelled_objectives() -> dict[str, dict[str, Any]]:
    """The rows of morphojax/tasks/segment/unlabelled; weight 0 switches one off. start, ramp:
    fractions of the run.
    """
    ramp = {"start": 0.1, "ramp": 0.15}  # weight 0 until `start`, then linearly up over `ramp`
    return {
        "volume_consistency": {"weight": 0.1, **ramp, "huber_delta": 0.3},  # log volumes; linear beyond huber_delta
        "entropy": {"weight": 0.01, **ramp},  # entropy minimisation
        # Cross-entropy to the teacher's confident classes, in stacks whose volumes agree with the
        # table (relative tolerance).
        "agreeing_stacks": {"weight": 0.0, **ramp, "tolerance": 0.15, "confidence": 0.9},
        # Labelled and pseudo-labelled slices exchange rectangles, both ways (needs ema.decay).
        "copy_paste": {
            "weight": 0.0,
            **ramp,
            "sides": (0.3, 0.8),  # of the rectangles, as a fraction of the image
            "pseudo_weight": 0.5,  # of a pixel with a pseudo-label
            "confidence": 0.0,  # lowest probability of a pseudo-label
            "dice_weight": 0.5,
        },
        # Pseudo-labels on strongly augmented slices (needs ema.decay).
        "strong_views": {
            "weight": 0.0,
            **ramp,
            "views": 1,
            "slices": 12,
            "confidence": 0.0,
            "dice_weight": 0.5,
        },
    }


def augmentation() -> ml_collections.ConfigDict:
    """Stronger than in pretraining: with two labelled ACDC patients it raised the mean test Dice
    from 0.65 to 0.72 (one seed each).
    """
    config = pretrain_sax.augmentation()
    config.rotation_degrees = 60.0
    config.scale = (0.7, 1.4)
    config.translation_fraction = 0.12
    config.gamma = (0.5, 2.0)
    config.brightness = 0.3
    config.contrast = 0.5
    config.noise_sd = 0.06
    config.bias_field = 0.5
    return config

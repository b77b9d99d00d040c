"""Pretraining on short-axis slices and table rows: the default, on the embedded synthetic cohort.

    morphojax train --config=pretrain_sax

An example is a subject: a few slices of one frame are encoded and pooled, and contrasted with the
subject's table row.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "pretrain"
    config.workdir = "runs/pretrain_sax"
    config.seed = 0
    config.steps = 0  # batches; or
    config.epochs = 40.0  # passes over the subjects; one of the two is 0
    config.batch_size = 32  # subjects, over all devices

    config.init_from = ""  # a run or checkpoint folder (encoder, and decoder if both have one), or a weight file
    config.init_checkpoint = "last"  # of that run: last, or best by its validation loss
    config.init_weights = "model"  # of that checkpoint: model, or ema (its EMA weights)
    config.freeze = "none"  # or encoder: for local contrast of a decoder on a frozen encoder

    config.data = ml_collections.ConfigDict(
        {
            "dataset": "synthetic",  # or the folder that prepare wrote
            "plane": "sax",  # or la_2ch, la_4ch; several with commas: sax,la_4ch
            "splits": ("train",),  # "test" is allowed, with a warning
            "subjects": (),  # ids, or one path to a file with an id a line; empty: all of the splits
            "fraction": 1.0,  # of these; with one seed a smaller fraction is a subset of a larger
            "workers": 0,  # processes that read; 0 reads in a thread
            "synthetic_subjects": 200,
            "synthetic_seed": 0,
            "synthetic_spacing_mm": 2.0,
            "synthetic_size": 96,  # pixels
        }
    )
    config.input = ml_collections.ConfigDict(
        {
            "channels": "slices",  # slices: K slices of one frame; cycle: the middle slice, its frames as channels
            "frames": ("ED", "ES"),  # slices only: the frames drawn from; "cine": all that prepare --frames kept
            "cycle_frames": 0,  # cycle only: so many of those as channels, evenly spaced; 0: ED, mid and ES
            "slices": 4,  # of the short axis; a long-axis plane has one
            "plane_dropout": 0.0,  # probability that a plane of a subject is left out, where there are several
        }
    )
    config.table = ml_collections.ConfigDict(
        {
            "groups": "all",  # groups or columns to take, or with a leading '-' to drop: "-cardiac_morphometric"; none: images alone
            "without_leaks_for": "",  # also drop the columns that leak this task's label
            "label": "",  # a categorical column, for the objectives that need one; it may be among `groups` too
            "control": "none",  # shuffled: another subject's row; noise: random numbers
            "imputation": "mean",  # of missing numbers; iterative: predicted from the row's other numbers
            "corruption_fraction": 0.3,  # of a row's columns, replaced by draws from the training rows (SCARF)
            "mask_fraction": 0.5,  # of a row's columns, masked for the objectives that need it
        }
    )
    config.augment = augmentation()
    config.allow_unanatomical_flips = False

    config.model = ml_collections.ConfigDict(
        {
            "encoder": "unet_half",  # the contracting half of a U-Net, at half the image's size
            "width": 24,  # channels of the first stage
            "dtype": "float32",  # of the computation; or bfloat16
            "plane_encoders": "shared",  # one for all planes; or own: one for each
            "norm": "batch",  # or group; of resnets, unets and decoders
            # Keyword arguments of the encoder. An encoder that lacks an option accepts only the
            # value given here. A config file can add further options, such as "patch" of a ViT
            # (models/encoders.py: encoder_options).
            "encoder_options": {
                "drop_path": 0.0,  # stochastic depth at the last block, a probability; of vit, swin and convnext
                "remat": False,  # compute blocks again for the gradient: less memory, more time; of every encoder
            },
            "pooling": "mean",  # of the slices; or attention
            "decoder": "unet",  # or mlp, lighter: one width, the last of decoder_widths
            "decoder_widths": (24, 48, 96, 192),  # as in segmentation; for the objectives that need a decoder
            "patch_mask_fraction": 0.75,  # of the patches, for the objectives that mask them
            "table": {
                "encoder": "mlp",  # or transformer: a token for every column
                "mlp": {"hidden_units": 512, "layers": 2, "missing_flags": True},
                "transformer": {"width": 64, "layers": 2, "heads": 4},
            },
        }
    )
    # Any sum of the objectives in morphojax/tasks/pretrain/objectives, each with its settings; the
    # others have defaults.
    config.objectives = ml_collections.ConfigDict(
        {
            "info_nce": {
                "weight": 1.0,
                "image_to_table_weight": 0.5,  # the rest is the weight of table -> image
                "temperature": 0.1,
                "learned_temperature": False,
                "features": 128,
                "positives": "own",  # or same_label, nearest, soft
                "negatives": "all",  # or other_labels, unlike
            }
        }
    )
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup": 0.1,  # fraction of the run
            "clip_norm": 0.0,  # 0: no clipping
            "accumulate": 1,  # batches per update
        }
    )
    config.ema = ml_collections.ConfigDict({"decay": 0.0})  # of the EMA weights, 0.99 for example; 0: none are kept
    config.log_every = 10  # steps, as are the next four
    config.eval_every = 40  # on the validation subjects; 0 never
    config.save_every = 40
    config.keep_checkpoints = 2  # of the last ones, besides the best
    config.images_every = 80
    config.dynamics_every = 80  # gradients per objective and column, ranks of the features; 0 never
    return config


def augmentation() -> ml_collections.ConfigDict:
    """Ranges that keep the heart's anatomy and its size, which the morphometric columns measure.

    No flips: in a mirrored short axis the right ventricle is on the wrong side.
    """
    return ml_collections.ConfigDict(
        {
            "probability": 1.0,  # that an example is augmented at all
            "rotation_degrees": 45.0,
            "scale": (0.95, 1.05),
            "translation_fraction": 0.1,
            "crop": (1.0, 1.0),  # fraction of the area that is kept and enlarged
            "crop_aspect": (1.0, 1.0),  # width / height of that part
            "flip_horizontal": 0.0,  # probability
            "flip_vertical": 0.0,
            "gamma": (0.7, 1.5),
            "brightness": 0.1,
            "contrast": 0.3,
            "noise_sd": 0.03,
            "bias_field": 0.3,
        }
    )

"""Fine-tunes a pretrained image encoder to predict a table column from short-axis images alone.

    morphojax train --config=probe --config.init_from=runs/pretrain_sax \\
        --config.label=lv_ef
    morphojax probe --run=runs/probe

The second scores the test subjects. A linear probe of the frozen encoder needs no training of this
kind: morphojax.probe alone.
"""

import ml_collections

from configs import pretrain_sax


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.task = "probe"
    config.workdir = "runs/probe"
    config.seed = 0
    config.steps = 0  # batches; or
    config.epochs = 20.0  # passes over the subjects; one of the two is 0
    config.batch_size = 16  # subjects, over all devices

    config.label = ""  # a column of the dataset's table
    config.init_from = ""  # a run, a checkpoint folder, or a weight file (README); empty: from scratch
    config.init_checkpoint = "last"  # of that run: last, or best by its validation loss
    config.init_weights = "model"  # of that checkpoint: model, or ema (its EMA weights)
    config.freeze = "none"  # none, or encoder: only the head learns

    config.data = pretrain_sax.get_config().data  # the same dataset, hence the same splits
    config.input = ml_collections.ConfigDict(
        {
            "channels": "slices",  # slices: K slices of one frame; cycle: the middle slice, its frames as channels
            "frames": ("ED",),  # slices only: training draws among them, scoring takes the first that a subject has
            "cycle_frames": 0,  # cycle only: frames of the cine as channels, as in pretraining; 0: ED, mid and ES
            "slices": 6,  # K
        }
    )
    config.augment = pretrain_sax.augmentation()
    config.allow_unanatomical_flips = False

    config.model = ml_collections.ConfigDict(
        {
            "encoder": "unet_half",
            "width": 24,  # must be that of the pretraining
            "plane_encoders": "shared",  # as in pretraining
            "dtype": "float32",
            "norm": "batch",  # or group; of resnets and unets; as in pretraining
            # Keyword arguments of the encoder. An encoder that lacks an option accepts only the
            # value given here. A config file can add further options, such as "patch" of a ViT
            # (models/encoders.py: encoder_options).
            "encoder_options": {
                "drop_path": 0.0,  # stochastic depth at the last block, a probability; of vit, swin and convnext
                "remat": False,  # compute blocks again for the gradient: less memory, more time; of every encoder
            },
        }
    )
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup": 0.1,  # fraction of the run
            "clip_norm": 1.0,  # 0: no clipping
            "accumulate": 1,  # batches per update
            "layer_decay": 1.0,  # learning-rate factor from one encoder level to the level before it; 1: off
        }
    )
    config.ema = ml_collections.ConfigDict({"decay": 0.0})  # of the EMA weights, 0.99 for example; 0: none are kept
    config.log_every = 10  # steps, as are the next three
    config.eval_every = 40  # on the validation subjects; 0 never
    config.save_every = 40
    config.keep_checkpoints = 2  # of the last ones, besides the best
    config.images_every = 200
    return config

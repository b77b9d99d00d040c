"""The published recipe of Hager et al., CVPR 2023 (arXiv:2303.14080): the baseline that everything
is compared with.

    morphojax train --config=pretrain_sax_hager --config.data.dataset=DIR

The middle slice with ED, mid and ES as channels, ResNet-50, 500 epochs of 512 subjects. Made for
tens of thousands of subjects and a GPU; on a laptop it runs, slowly, with smaller values of
batch_size and epochs.
"""

import ml_collections

from configs import pretrain_sax


def get_config() -> ml_collections.ConfigDict:
    config = pretrain_sax.get_config()
    config.workdir = "runs/pretrain_sax_hager"
    config.epochs = 500.0
    config.batch_size = 512
    config.input.channels = "cycle"
    config.model.encoder = "resnet50"
    config.model.width = 64
    config.model.table.mlp.hidden_units = 2048
    config.model.table.mlp.layers = 2
    config.model.table.mlp.missing_flags = False  # the published rows are imputed, without a mark
    config.objectives.info_nce.update(
        image_to_table_weight=0.5, temperature=0.1, learned_temperature=False, features=128
    )
    config.table.corruption_fraction = 0.3
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = 10 / 500
    config.augment.probability = 0.95
    config.augment.rotation_degrees = 45.0
    config.augment.scale = (1.0, 1.0)
    config.augment.translation_fraction = 0.0
    config.augment.crop = (0.2, 1.0)
    config.augment.crop_aspect = (3 / 4, 4 / 3)
    config.augment.flip_horizontal = 0.5
    config.allow_unanatomical_flips = True  # the published recipe mirrors hearts
    config.augment.gamma = (1.0, 1.0)
    config.augment.brightness = 0.5
    config.augment.contrast = 0.5
    config.augment.noise_sd = 0.0
    config.augment.bias_field = 0.0
    config.eval_every = 500
    config.save_every = 500
    config.dynamics_every = 500
    return config

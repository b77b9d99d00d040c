"""Writes a finished run to publish it, or its image encoder for the transformers library.

    morphojax export --run=runs/segment_sax --output=DIR
    morphojax export --run=runs/pretrain_sax --output=encoder.safetensors

The folder holds the weights (safetensors), the description of the run without subjects, and a
model card to fill in. morphojax.load, evaluate, predict and config.init_from read it as they
read a run. Nothing of a subject is in it; whether the weights may be shared is for the terms of the
data to say.

The file fits ResNetModel, ConvNextModel, SwinModel or ViTModel (without pooling layer; the ViT has
a class token and learned positions):
    ResNetModel.from_pretrained(None, config=CONFIG, state_dict=safetensors.torch.load_file(FILE))
CONFIG has the sizes of the run, and layer_norm_eps=1e-6 for ConvNext and ViT. Intensities are in
0..1. A run starts from the file with config.init_from=FILE.
"""

import argparse
import sys
from collections.abc import Sequence

from morphojax import flags


def parser() -> argparse.ArgumentParser:
    made = flags.make_parser("export", __doc__)
    made.add_argument("--run", required=True, help="directory of a run, or one of the folders in its checkpoints/")
    made.add_argument("--output", required=True, help="folder, or file that ends in .safetensors")
    flags.add_checkpoint(made)
    made.add_argument("--plane", help="plane whose encoder is written, for a run with one encoder per plane")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("morphojax.commands.export", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

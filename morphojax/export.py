"""Writes the image encoder of a run as a weight file for the transformers library.

    morphojax export --run=runs/pretrain_sax --output=encoder.safetensors

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
    made.add_argument("--output", required=True, help="file to write; ends in .safetensors")
    flags.add_checkpoint(made)
    made.add_argument("--plane", help="plane whose encoder is written, for a run with one encoder per plane")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return flags.run("export", parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

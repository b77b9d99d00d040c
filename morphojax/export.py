"""Writes the image encoder of a run as a weight file that transformers loads.

    python -m morphojax.export --run=runs/pretrain_sax --output=encoder.safetensors

ResNet, ConvNeXt, Swin, and a ViT with class token and learned positions, under the names of ResNetModel, ConvNextModel, SwinModel and
ViTModel (without pooling layer): `from_pretrained(None, config=..., state_dict=safetensors.torch.load_file(FILE))`. The matching config has
the run's sizes and, of ConvNext and ViT, layer_norm_eps=1e-6. Images enter as 0..1. `config.init_from=FILE` takes the file as well.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax.inference import embed
from morphojax.models.published import PublishedError, to_hugging_face
from morphojax.train import weights
from morphojax.train.transfer import flatten, of_plane


def export(run: str | Path, output: Path, checkpoint: str = "best", plane: str | None = None) -> list[str]:
    """Writes the encoder of a run, or of a checkpoint folder in one, and returns lines for people.

    plane: whose encoder, where the run has one for each.

    Raises RunError, CheckpointError, TransferError, PublishedError, WeightsError: no whole run, a plane that is needed and not given, an
    encoder that transformers does not have, a file that cannot be written.
    """
    encoder = embed.load_encoder(run, checkpoint)
    variables = of_plane(encoder.variables, () if plane is None else (plane,), "--plane")
    own = {c: tree["encoder"] for c, tree in variables.items() if "encoder" in tree}
    try:
        tensors, kept = to_hugging_face(flatten(own))
    except PublishedError as error:
        raise PublishedError(f"{run}: config.model.encoder={encoder.config['model']['encoder']}: {error}") from error
    weights.write(output, tensors)
    lines = [f"{len(tensors)} tensors of {encoder.checkpoint} written to {output}"]
    return lines + ([f"left out, as transformers has no place for them: {', '.join(kept)}"] if kept else [])


def main(argv: Sequence[str] | None = None) -> int:
    description, epilog = (__doc__ or "").split("\n\n", 1)
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("morphojax.export", description=description, epilog=epilog, formatter_class=raw)
    parser.add_argument("--run", required=True, help="directory of a run, or one of the folders in its checkpoints/")
    parser.add_argument("--output", required=True, help="file to write; ends in .safetensors")
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help="by validation, or the last")
    parser.add_argument("--plane", help="whose encoder, of a run that has one for each plane")
    args = parser.parse_args(argv)
    try:
        print("\n".join(export(args.run, Path(args.output), args.checkpoint, args.plane)))
    except (ValueError, OSError) as error:  # every error of the package that a user can mend is a ValueError
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

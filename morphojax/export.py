"""Writes the image encoder of a run as a weight file for the transformers library.

    python -m morphojax.export --run=runs/pretrain_sax --output=encoder.safetensors

The file fits ResNetModel, ConvNextModel, SwinModel or ViTModel (without pooling layer; the ViT has
a class token and learned positions):
    ResNetModel.from_pretrained(None, config=CONFIG, state_dict=safetensors.torch.load_file(FILE))
CONFIG has the sizes of the run, and layer_norm_eps=1e-6 for ConvNext and ViT. Intensities are in
0..1. A run starts from the file with config.init_from=FILE.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from morphojax.inference import embed
from morphojax.inference.flags import add_checkpoint, make_parser
from morphojax.models.published import PublishedError, to_hugging_face
from morphojax.train import weights as weight_files
from morphojax.train.transfer import flatten, of_plane


def export(
    run: str | Path, output: Path, checkpoint: str = "best", plane: str | None = None, weights: str = "model"
) -> list[str]:
    """Writes the image encoder of a run or of a checkpoint folder. Returns the lines to print.

    Args:
        plane: whose encoder, for a run with one encoder per plane.
        weights: `model` or `ema`, as in `checkpoint.load_variables`.

    Raises:
        RunError, CheckpointError: no complete run, no usable checkpoint, or no EMA weights in it.
        TransferError: the run has one encoder per plane, and `plane` names none of them.
        PublishedError: transformers has no such encoder.
        WeightsError: the file cannot be written.
    """
    encoder = embed.load_encoder(run, checkpoint, weights)
    variables = of_plane(encoder.variables, () if plane is None else (plane,), "--plane")
    own = {c: tree["encoder"] for c, tree in variables.items() if "encoder" in tree}
    try:
        tensors, kept = to_hugging_face(flatten(own))
    except PublishedError as error:
        raise PublishedError(f"{run}: config.model.encoder={encoder.config['model']['encoder']}: {error}") from error
    weight_files.write(output, tensors)
    kind = " (EMA weights)" if weights == "ema" else ""
    lines = [f"{len(tensors)} tensors of {encoder.checkpoint}{kind} written to {output}"]
    return lines + (
        [f"left out, because the model in transformers has no such arrays: {', '.join(kept)}"] if kept else []
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("morphojax.export", __doc__)
    parser.add_argument("--run", required=True, help="directory of a run, or one of the folders in its checkpoints/")
    parser.add_argument("--output", required=True, help="file to write; ends in .safetensors")
    add_checkpoint(parser)
    parser.add_argument("--plane", help="plane whose encoder is written, for a run with one encoder per plane")
    args = parser.parse_args(argv)
    try:
        print("\n".join(export(args.run, Path(args.output), args.checkpoint, args.plane, args.weights)))
    except (ValueError, OSError) as error:  # errors of the package that a user can mend are ValueErrors
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

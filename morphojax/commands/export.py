"""Writes a run as a folder to publish, or its image encoder for the transformers library."""

import argparse
from pathlib import Path

from morphojax.commands.output import OutputError
from morphojax.commands.release import release
from morphojax.exit_codes import COMPLETE
from morphojax.inference import embed
from morphojax.models.published import PublishedError, to_hugging_face
from morphojax.train import weights as weight_files
from morphojax.train.transfer import flatten, of_plane


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if output.suffix:
        lines = export(args.run, output, args.checkpoint, args.plane, args.weights)
    elif args.plane is not None:
        raise OutputError("--plane: is for a file; a folder holds the encoders of all planes")
    else:
        lines = release(args.run, output, args.checkpoint, args.weights)
    print("\n".join(lines))
    return COMPLETE


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

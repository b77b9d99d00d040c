"""A finished run as a folder to publish: weights, their description, and a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from morphojax import __version__
from morphojax.commands.output import OutputError, writable
from morphojax.data.store.records import write_atomically
from morphojax.train import checkpoint, portable
from morphojax.train.run import read_json

COPIED = ("preprocessing.json", "environment.json", "sizes.json")  # they name no subject and no path
CARD = """\
---
library_name: morphojax
tags: [cardiac-mri, jax, {task}]
---

# MODEL NAME

{what} morphojax {version} made it with `--config={task}` settings that are in `config.json`.

## Use

```python
import morphojax

model = morphojax.load("THIS FOLDER")
{use}
```

Inputs: grey values in any unit with their affine; {planes}; resampled to {size} x {size} pixels of
{spacing:g} mm. `docs/library.md` of morphojax has the details.

## Training data

Fill in: cohort, number of subjects, scanners, annotators, and under which terms its models may be
shared. The fingerprint of the prepared dataset is `{fingerprint}`.

## Scores

{scores}

## Limits

Fill in: on which images it was not tested. It is a research model, and no medical device.
"""


def release(run: str | Path, folder: Path, which: str, weights: str) -> list[str]:
    """Writes the folder, which `morphojax.load`, evaluate, predict and config.init_from read as
    they read a run. The config is `without_paths`. Returns the lines to
    print.

    Raises:
        OutputError: the folder is not empty or cannot be written.
        RunError, CheckpointError: no complete run, no usable checkpoint, or no EMA weights in it.
    """
    chosen = checkpoint.find(run, which)
    directory = chosen.parent.parent
    config = read_json(directory, "config.json", {"task": str})
    variables = checkpoint.load_variables(chosen, weights=weights)
    images = read_json(directory, "preprocessing.json", {"planes": [str], "structures": [str], "grid": object})
    if writable(folder).exists() and any(folder.iterdir()):
        raise OutputError(f"--output={folder}: is not empty; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (directory / name).is_file():
            write_atomically(folder / name, (directory / name).read_bytes())
    write_atomically(folder / "config.json", (json.dumps(without_paths(config), indent=1) + "\n").encode())
    write_atomically(folder / "README.md", _card(directory, config, images).encode())
    portable.write(folder / "checkpoints" / chosen.name, variables)  # last: it makes the folder a run
    kind = " (EMA weights)" if weights == "ema" else ""
    return [f"{chosen}{kind} written to {folder}", f"fill in the model card: {folder / 'README.md'}"]


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without subjects, and with the last part of paths alone: a report says what the
    run started from.
    """
    clean: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            clean[key] = without_paths(value)
        elif key == "subjects":
            clean[key] = []
        else:
            clean[key] = Path(value).name if key in ("workdir", "init_from", "dataset") else value
    return clean


def _card(run: Path, config: Mapping[str, Any], images: Mapping[str, Any]) -> str:
    structures = [name.replace("_", " ") for name in images["structures"]]
    planes = ", ".join(images["planes"])
    segments = f"A network that segments {', '.join(structures)} in {planes} cardiac MRI."
    return CARD.format(
        task=config["task"],
        what=segments if structures else f"An image encoder of {planes} cardiac MRI.",
        use="mask = model.segment(array, affine)" if structures else "vector = model.embed(array, affine)",
        version=__version__,
        planes=planes,
        size=images["grid"]["size"],
        spacing=images["grid"]["spacing_mm"],
        fingerprint=images.get("dataset_fingerprint", "unknown"),
        scores=_scores(run),
    )


def _scores(run: Path) -> str:
    """A table of the run's own test scores, where it was evaluated."""
    path = run / "evaluation" / "summary_test.json"
    if not path.is_file():
        return "Fill in: the run was not evaluated on test subjects (`morphojax evaluate`)."
    rows = [row for row in json.loads(path.read_text())["rows"] if row["phase"] == "pooled"]
    table = ["| plane | structure | subjects | Dice [95 % interval] |", "| --- | --- | --- | --- |"]
    for row in rows:
        dice = "".join(f"{row[key]:.3f}{end}" for key, end in (("dice", " ["), ("dice_low", ", "), ("dice_high", "]")))
        table.append(f"| {row['plane']} | {row['structure']} | {row['n_subjects']} | {dice} |")
    return "\n".join(["On the test subjects of the same dataset, which took no part in training:", "", *table])

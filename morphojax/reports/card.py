"""What a run is: a short model card, and the commands that make it again."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from morphojax import anatomy
from morphojax.data import json_text
from morphojax.data.store.splits import SPLITS
from morphojax.reports.datasets import manifest_of, who
from morphojax.reports.document import Block, Section
from morphojax.reports.evaluated import Evaluated, Trained
from morphojax.tasks import config_files
from morphojax.train import lineage
from morphojax.train.run import FREE_KEYS, RunError


def section(evaluated: Evaluated) -> Section:
    several = len(evaluated.runs) > 1
    lines = [f"{run.folder}: {line}" if several else line for run in evaluated.runs for line in _lines(run, evaluated)]
    gone = [folder for folder in evaluated.about.get("runs", [])[1:] if not Path(folder).is_dir()]
    lines += [f"Scored together with {folder}, which is not there any more." for folder in gone]
    return Section("The run" if not several else "The runs", [Block("list", lines=[*lines, scoring(evaluated)])])


def _lines(run: Trained, evaluated: Evaluated) -> Iterator[str]:
    config, images = run.config, run.images
    data, model = config["data"], config["model"]
    structures = ", ".join(anatomy.LABEL_NAME.get(s, s) for s in images["structures"])
    yield f"Task: segmentation of {', '.join(images['planes'])} slices, from images alone: {structures}."
    yield f"Config: {_config(config)}."
    options = [f"{key} {model[key]}" for key in ("decoder", "width", "norm") if key in model]
    yield f"Model: encoder {model['encoder']}, {', '.join(options)}. First weights: {start(config)}."
    yield (
        f"Training: {config['steps']} steps of {config['batch_size']} labelled slices, seed {config['seed']}. "
        f"Labelled: {who(data['splits'], data['subjects'], data['fraction'])}. Unlabelled: {unlabelled(config)}."
    )
    yield from _dataset(run)
    yield _unseen(run, evaluated)


def start(config: Mapping[str, Any]) -> str:
    """Where a run's first weights come from, in words."""
    if not config["init_from"]:
        return "random"
    frozen = config.get("freeze", "none")
    which = f"{config.get('init_checkpoint', 'last')} checkpoint, weights {config.get('init_weights', 'model')}"
    return f"{config['init_from']} ({which}{'' if frozen == 'none' else f', freeze {frozen}'})"


def unlabelled(config: Mapping[str, Any]) -> str:
    """The unlabelled subjects of a run, and its objectives on them, in words."""
    settings = config.get("unlabelled", {"batch_size": 0})
    if not settings["batch_size"]:
        return "none"
    objectives = settings.get("objectives", {})
    used = [name for name, values in objectives.items() if values.get("weight")] or ["none"]
    return (
        f"{settings['batch_size']} a step of {who(config['data']['splits'], settings['subjects'])}; {', '.join(used)}"
    )


def _dataset(run: Trained) -> Iterator[str]:
    data, images = run.config["data"], run.images
    manifest, why = manifest_of(data, images)
    grid = f"{images['grid']['size']} x {images['grid']['size']} pixels of {images['grid']['spacing_mm']:g} mm"
    source = "" if manifest is None else f", source {manifest.source}"
    yield f"Dataset: {data['dataset']}{source}, fingerprint {images['dataset_fingerprint']}, grid {grid}."
    counts = {} if manifest is None else manifest.counts.get("subjects", {})
    if counts:
        yield f"Subjects of the dataset: {', '.join(f'{split} {counts.get(split, 0)}' for split in SPLITS)}."
    if why:
        yield why


def _unseen(run: Trained, evaluated: Evaluated) -> str:
    """Whether the run, or one that it started from, was trained on the scored split."""
    split = evaluated.split
    try:
        seen = lineage.trained_on(run.folder, evaluated.about["dataset_fingerprint"])
    except RunError as error:
        return f"Not known whether it was trained on the {split} split ({error})."
    if split in seen:
        return f"Trained on subjects of the {split} split: these are not scores of unseen hearts."
    return f"Neither it, nor a run that it started from and that is still there, was trained on the {split} split of the scored dataset."


def scoring(evaluated: Evaluated) -> str:
    """How a run was scored, in words."""
    about = evaluated.about
    subjects = evaluated.scores["index"].nunique()
    kept = "largest component of each structure" if about.get("largest_component") else "all components"
    tolerance = about["conventions"].get("surface_dice_tolerance_mm")
    surface = "" if tolerance is None else f"; surface Dice at {tolerance:g} mm"
    return (
        f"Scored: {subjects} subjects of the {evaluated.split} split (dataset {about['dataset_fingerprint']}); "
        f"{about['checkpoint']} checkpoint, weights {about['weights']}, {kept}{surface}."
    )


def _config(config: Mapping[str, Any]) -> str:
    nearest = _nearest(config)
    if nearest is None:
        return "of another version, or not shipped; all its keys are in config.json"
    name, changed = nearest
    keys = [key for key in changed if key not in FREE_KEYS]
    return f"{name} with other values of {', '.join(keys)}" if keys else f"{name} as shipped"


def _nearest(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The shipped segmentation config with the fewest other values, and the values that differ;
    None where none has the same keys. FREE_KEYS may be absent: they change no weights.
    """
    own, found = _flat(config), []
    for name in config_files.shipped_names():
        if name.startswith("segment_"):
            shipped = _flat(config_files.load(name).to_dict())
            if own.keys() <= shipped.keys() and shipped.keys() - own.keys() <= {*FREE_KEYS}:
                found.append((name, {key: value for key, value in own.items() if value != shipped[key]}))
    return min(found, key=lambda each: len(each[1])) if found else None


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, with lists as tuples, as in a config."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in json_text.flat(tree)}


def commands(evaluated: Evaluated) -> Section:
    """How the runs were trained and scored, and with which versions."""
    blocks = []
    for run in evaluated.runs:
        blocks += [Block("code", train(run)), Block("text", f"Trained with {versions(run.environment)}.")]
    about = evaluated.about
    blocks.append(Block("code", about.get("command") or _evaluate(evaluated)))
    with_what = f"Scored with {versions(about['environment'])}." if "environment" in about else ""
    blocks.append(
        Block("text", with_what or "An earlier version scored it: its command is put together from its summary.")
    )
    return Section("Commands and versions", blocks)


def train(run: Trained) -> str:
    """The command of a training, as far as its config tells. It names no subjects."""
    nearest = _nearest(run.config)
    if nearest is None:
        return f"# no shipped config has the keys of {run.folder / 'config.json'}"
    name, changed = nearest
    flags = [f"--config.{key}={_value(key, value)}" for key, value in changed.items()]
    return shlex.join(["morphojax", "train", f"--config={name}", *flags])


def _value(key: str, value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if key.endswith("subjects") and isinstance(value, tuple):
        return value[0] if len(value) == 1 and Path(value[0]).is_file() else f"({len(value)} names, see config.json)"
    return value


def _evaluate(evaluated: Evaluated) -> str:
    about = evaluated.about
    flags = [f"--run={run.folder}" for run in evaluated.runs]
    flags += [f"--split={evaluated.split}", f"--checkpoint={about['checkpoint']}", f"--weights={about['weights']}"]
    flags += [] if about.get("largest_component", True) else ["--no-largest_component"]
    return shlex.join(["morphojax", "evaluate", *flags])


def versions(environment: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    commit = f", commit {environment['commit']}" if environment.get("commit") else ""
    return f"Python {environment.get('python', 'of unknown version')}; {packages}; {', '.join(environment['devices'])}{commit}"

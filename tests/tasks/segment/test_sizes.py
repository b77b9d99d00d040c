"""Sizes of structures in training: sizes.json of a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import clinical
from morphojax.inference.segmenter import load_run
from morphojax.tasks.segment import sizes
from morphojax.train.run import DIGESTS, RunError

STRUCTURES = ("lv_cavity", "rv_cavity", "la_cavity")


def volumes(dataset: Dataset, subjects: list[int], phase: str, structure: str = "rv_cavity") -> list[float]:
    stacks = dataset.stacks("sax").query("phase == @phase and subject in @subjects")
    native = [dataset.native("sax", i) for i in stacks.index]
    return [clinical.volume_ml(label, structure, p.native_spacing) for label, p in native]


def test_the_range_is_that_of_the_subjects_and_frames(brightness: Path) -> None:
    dataset, chosen = Dataset.open(brightness), [1, 2, 5]
    found = sizes.of_training(dataset, np.array(chosen), ("sax",), STRUCTURES, ("ED",))
    expected = volumes(dataset, chosen, "ED")
    assert len(expected) == 3 and min(expected) < max(expected)
    assert found["sax"]["rv_cavity"] == {"min": min(expected), "max": max(expected), "subjects": 3}
    assert list(found["sax"]) == ["lv_cavity", "rv_cavity"], "a structure that nobody annotated is left out"
    both = sizes.of_training(dataset, np.array([0, 1]), ("sax",), STRUCTURES, ("ED", "ES"))
    assert both["sax"]["rv_cavity"]["subjects"] == 2
    only_es = sizes.of_training(dataset, np.array([0]), ("sax",), STRUCTURES, ("ED",))
    assert only_es == {"sax": {}}, "subject 0 has no ED"


def test_a_run_stores_the_sizes_of_its_training_subjects(segmented: Path, brightness: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(brightness)
    train = [int(i) for i in np.flatnonzero(dataset.splits == "train")]
    settings = json.loads((segmented / "config.json").read_text())
    assert settings["data"]["fraction"] == 1
    expected = [v for phase in ("ED", "ES") for v in volumes(dataset, train, phase)]
    stored = load_run(segmented).sizes
    assert stored is not None
    assert stored["sax"]["rv_cavity"] == {"min": min(expected), "max": max(expected), "subjects": len(train)}


@pytest.mark.parametrize("text", ["{", '{"sax": {"lv_cavity": {"min": 1.0}}}'])
def test_damaged_sizes_are_refused(segmented: Path, tmp_path: Path, text: str) -> None:
    for path in segmented.iterdir():
        if path.name not in ("sizes.json", DIGESTS):
            (tmp_path / path.name).symlink_to(path)
    assert load_run(tmp_path).sizes is None, "as in a run of an older version"
    (tmp_path / "sizes.json").write_text(text)
    with pytest.raises(RunError, match=r"sizes.json: (cannot be read|not as a run writes it)"):
        load_run(tmp_path)

import json
from pathlib import Path

import pytest

from analysis import probes


def write(folder: Path, name: str, **values: float) -> None:
    (folder / name).mkdir(parents=True)
    results = {k: {"scores": {"auc": {"value": v}, "balanced_accuracy": {"value": v / 2}}} for k, v in values.items()}
    (folder / name / "scores.json").write_text(json.dumps({"probes": results}))


def test_probes_are_ranked_within_a_labelled_fraction(tmp_path: Path) -> None:
    for seed, auc in enumerate((0.7, 0.9)):
        write(tmp_path, f"image_only_frozen_0.1_s{seed}", linear=auc, constant=0.5)
        write(tmp_path, f"multimodal_frozen_0.1_s{seed}", linear=auc + 0.05, knn=auc - 0.1, constant=0.5)
    write(tmp_path, "supervised_finetuned_1.0_s0", head=0.99, constant=0.5)
    lines = probes.markdown(probes.read(tmp_path)).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == 7
    assert lines[2:] == [
        "| 10% | multimodal | frozen, linear | 2 | 0.850 [0.750, 0.950] | 0.425 [0.375, 0.475] |",
        "| 10% | image_only | frozen, linear | 2 | 0.800 [0.700, 0.900] | 0.400 [0.350, 0.450] |",
        "| 10% | multimodal | frozen, knn | 2 | 0.700 [0.600, 0.800] | 0.350 [0.300, 0.400] |",
        "| 100% | supervised | fine-tuned | 1 | 0.990 [0.990, 0.990] | 0.495 [0.495, 0.495] |",
    ]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no <encoder>"):
        probes.read(tmp_path)

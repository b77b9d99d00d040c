"""The command on a tiny run, and what it refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.attribution import __main__ as program
from analysis.attribution import command
from morphojax.inference import similarity as similarities
from morphojax.train.run import DIGESTS
from tests.brightness import SPLITS
from tests.tasks import tiny


@pytest.fixture(scope="module")
def run(brightness, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "pretrained"
    tiny.train("pretrain_sax", brightness, path, **{"eval_every": 0, "optimizer.warmup": 0.0})
    return path


def test_the_command_writes_all_rows(run, tmp_path, capsys):
    flags = ["--steps=512", "--permutations=2", "--patch=16", "--occluded_subjects=2"]
    assert program.main([f"--run={run}", f"--output={tmp_path}", "--split=val", *flags]) == 0
    assert "largest error of completeness" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["attribution.csv", "attribution.md", "attribution.png"]
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes(), "an id of a subject"
    found = pd.read_csv(tmp_path / "attribution.csv")
    counts = found.groupby(["method", "kind"], sort=False)["name"].nunique().to_dict()
    assert counts == {
        ("intact", "all"): 1,
        ("integrated_gradients", "column"): 5,
        ("permutation", "column"): 5,
        ("integrated_gradients", "group"): 3,
        ("permutation", "group"): 3,
        ("group_replaced", "group"): 3,
        ("occlusion", "structure"): 3,
    }
    tables = found[found["method"] != "occlusion"]
    assert set(tables["n"]) == {(SPLITS == "val").sum()} and set(found.loc[tables.index[-1] + 1 :, "n"]) == {2}
    bounded = found.dropna()
    assert (bounded["low"] <= bounded["mean"] + 1e-6).all() and (bounded["mean"] <= bounded["high"] + 1e-6).all()
    gradients = found[(found["method"] == "integrated_gradients") & (found["measure"] == "similarity")]
    by_group = gradients[gradients["kind"] == "column"].groupby("group")["mean"].sum()
    of_groups = gradients[gradients["kind"] == "group"].set_index("name")["mean"]
    np.testing.assert_allclose(by_group, of_groups[by_group.index], atol=1e-5)
    text = (tmp_path / "attribution.md").read_text()
    assert text.count("| haemodynamic |") == 1 and "| twin |" in text and "LV cavity: effect per area" in text


def with_config(run: Path, copy: Path, **changes) -> Path:
    """A copy of a run whose config differs."""
    shutil.copytree(run, copy)
    (copy / DIGESTS).unlink()  # as in a run of an older version, whose files nobody vouches for
    config = json.loads((run / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


def test_what_is_refused(run, tmp_path, capsys, monkeypatch):
    def error(*flags):
        assert program.main([f"--output={tmp_path / 'out'}", *flags]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1
        return message

    segmented = with_config(run, tmp_path / "segmented", task="segment")
    assert "is no pretraining (config.task='segment')" in error(f"--run={segmented}")
    for arm in ("simclr", "scarf"):  # images only, table only
        alone = with_config(run, tmp_path / arm, objectives={arm: {}, "info_nce": {"weight": 0.0}})
        assert f"its objectives ({arm}) do not compare images with table rows" in error(f"--run={alone}")
    both = with_config(run, tmp_path / "both", objectives={"info_nce": {}, "match": {}})
    assert "choose --objective=info_nce or match" in error(f"--run={both}")
    assert "its weights are not those of" in error(f"--run={both}", "--objective=match")
    assert "--objective=sigmoid: " in error(f"--run={run}", "--objective=sigmoid")
    assert "--patch=7 does not divide images of 32 pixels" in error(f"--run={run}", "--patch=7")
    opened = command.cohort.open_configured
    with monkeypatch.context() as patch:
        made = opened(json.loads((run / "config.json").read_text())["data"])
        without = dataclasses.replace(made, table=made.table.drop(columns="twin"))
        patch.setattr(command.cohort, "open_dataset", lambda **_: without)
        assert "its table lacks twin, which" in error(f"--run={run}")
    load = command.load_similarity

    def with_split(splits):
        def loaded(*arguments, **settings):
            similarity, dataset = load(*arguments, **settings)
            return similarity, dataclasses.replace(dataset, splits=splits)

        monkeypatch.setattr(command, "load_similarity", loaded)
        return error(f"--run={run}", "--split=val")

    assert "--split=val: 0 subjects have images and a table row" in with_split(
        np.where(SPLITS == "val", "test", SPLITS)
    )
    one = SPLITS.copy()
    one[np.flatnonzero(SPLITS == "val")[1:]] = "test"
    assert "--split=val: 1 subjects have images" in with_split(one)
    assert not (tmp_path / "out").exists()


def test_the_subjects_of_a_split(run):
    similarity, dataset = similarities.load_similarity(
        run, lambda config: command.cohort.open_configured(config["data"])
    )
    rows = np.zeros((4, similarity.inputs.shape[1]), np.float32)
    rows[3, -len(similarity.columns) :] = 1  # without a row
    splits = np.array(["train", "val", "val", "val"])
    made = dataclasses.replace(similarity, inputs=rows, train=np.array([0, 2]))
    of = dataclasses.replace(dataset, splits=splits)
    assert similarities.subjects_of(made, of, "train").tolist() == [0]
    assert similarities.subjects_of(made, of, "val").tolist() == [1], "2 trained, 3 has no row"

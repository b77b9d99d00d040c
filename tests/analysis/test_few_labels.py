from pathlib import Path

import pytest

from analysis import few_labels
from analysis.scores import read_scores
from tests.analysis.test_scores import write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write(tmp_path, "scratch_2a_s0", {0: 0.6, 1: 0.8})
    write(tmp_path, "scratch_2b_s0", {0: 0.5, 1: 0.7})
    write(tmp_path, "pretrained_2a_s0", {0: 0.7, 1: 0.8})
    write(tmp_path, "pretrained_2b_s1", {0: 0.9, 1: 0.9})  # no scratch run of this set and seed: not in the difference
    write(tmp_path, "scratch_all_s0", {0: 0.9, 1: 0.9})
    (tmp_path / "pretrain_s0").mkdir()
    return tmp_path


def test_the_difference_is_paired_by_set_and_seed(runs: Path) -> None:
    table = few_labels.summarise(read_scores(runs, "scratch|pretrained")).set_index(["labels", "arm"])
    assert table.loc[("2", "scratch"), "dice"] == pytest.approx((0.6 + 0.8 + 0.5 + 0.7) / 4)
    assert table.loc[("2", "scratch"), "sets"] == 2
    difference = table.loc[("2", "difference")]
    assert (difference["runs"], difference["dice"]) == (1, pytest.approx(0.05)) and difference["runs_above_0"] == 1
    assert (difference["low"], difference["high"]) == (pytest.approx(0.0), pytest.approx(0.1))
    assert (
        list(table.index.get_level_values("labels").unique()) == ["2", "all"]
        and ("all", "difference") not in table.index
    )


def test_tables_and_figure_are_written(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["few_labels", f"--runs={runs}", f"--output={tmp_path / 'out'}"])
    few_labels.main()
    text = (tmp_path / "out" / "few_labels.md").read_text()
    assert "| 2 | pretrained - scratch | 1 (1 x 1) | +0.050 [+0.000, +0.100]; above 0 in 1 of 1 |" in text
    assert (tmp_path / "out" / "few_labels.png").stat().st_size > 1000

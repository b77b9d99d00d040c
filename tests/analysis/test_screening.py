from pathlib import Path

import pytest

from analysis import screening
from analysis.scores import by_run, read_scores
from tests.analysis.test_scores import write


def scored(runs: Path):
    write(runs, "scratch_2a_s0", {0: 0.5, 1: 0.7})
    write(runs, "scratch_2d_s0", {0: 0.6, 1: 0.6})
    write(runs, "info_nce_shuffled_2a_s0", {0: 0.4, 1: 0.6})
    write(runs, "volume_2a_s0", {0: 0.6, 1: 0.9})
    write(runs, "volume_2d_s0", {0: 0.7, 1: 0.8})
    return read_scores(runs, arms=r"\w+")


def test_arms_are_ranked_and_compared_pair_by_pair(tmp_path: Path) -> None:
    table = screening.summarise(scored(tmp_path)).set_index("arm")
    assert table.index.tolist() == ["volume", "scratch", "info_nce_shuffled"]
    assert table.loc["volume", "difference"] == pytest.approx((0.1 + 0.2 + 0.1 + 0.2) / 4)
    assert table.loc["info_nce_shuffled", "difference"] == pytest.approx(-0.1)  # against the scratch run of its own set
    assert table.loc["volume", "low"] >= 0.1 - 1e-9 and table.loc["volume", "high"] <= 0.2 + 1e-9


def test_the_arm_with_the_smallest_volume_error_ranks_first(tmp_path: Path) -> None:
    table = screening.summarise(scored(tmp_path), "volume_error_ml").set_index("arm")
    assert table.index.tolist() == ["volume", "scratch", "info_nce_shuffled"]
    assert table.loc["volume", "volume_error_ml"] == pytest.approx((40 + 10 + 30 + 20) / 4)
    assert table.loc["info_nce_shuffled", "difference"] == pytest.approx(10)


def test_a_plane_without_volumes_is_ranked_by_dice(tmp_path: Path) -> None:
    """Runs of another plane, on other subjects."""
    write(tmp_path, "scratch_10la4ch_s0", {1: 0.5, 2: 0.7}, "cm2")
    write(tmp_path, "volume_10la4ch_s0", {1: 0.6, 2: 0.8}, "cm2")
    areas = read_scores(tmp_path, arms=r"\w+")
    text = screening.markdown(screening.summarise(areas), None, by_run(areas))
    assert "| volume | 1 | 0.700 | 0.700 | +0.100 [" in text and "error" not in text
    both = scored(tmp_path)
    dice, volumes = screening.summarise(both), screening.summarise(both, "volume_error_ml")
    assert dice.set_index("arm").loc["volume", ["runs", "dice"]].tolist() == [3, pytest.approx((0.75 * 2 + 0.7) / 3)]
    assert volumes.set_index("arm").loc["volume", "runs"] == 2
    assert "| volume | 3 | 0.700 | 0.750 | 0.750 | 0.733 |" in screening.markdown(dice, volumes, by_run(both))


def test_arms_are_compared_on_the_chosen_sets(tmp_path: Path) -> None:
    scores = scored(tmp_path)
    assert set(screening.of_sets(scores, "2d")["set"]) == {"2d"} and len(screening.of_sets(scores, "")) == len(scores)
    with pytest.raises(SystemExit, match="no scored run on 8b; choose among 2a, 2d"):
        screening.of_sets(scores, "2d, 8b")


def test_the_output_names_runs_and_no_subject(tmp_path: Path) -> None:
    scores = scored(tmp_path)
    runs, volumes = by_run(scores), screening.summarise(scores, "volume_error_ml")
    assert set(runs.columns) == {"arm", "set", "seed", "lv_cavity", "dice", "volume_error_ml"} and len(runs) == 5
    text = screening.markdown(screening.summarise(scores), volumes, runs)
    assert "| volume | 2 | 0.750 | 0.750 | 0.750 | +0.150 [+0.1" in text and "] | 25.0 | -15.0 [-20.0, -10.0] |" in text
    assert "| scratch | 2 | 0.600 | 0.600 | 0.600 |  | 40.0 |  |" in text
    screening.figure(tmp_path / "f.png", screening.summarise(scores), runs)
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_the_command_with_runs_of_the_baseline_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline has runs of a long-axis plane only, without volumes; no other arm has a run."""
    write(tmp_path / "runs", "scratch_10la4ch_s0", {1: 0.5, 2: 0.7}, "cm2")
    monkeypatch.setattr("sys.argv", ["screening", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'out'}"])
    screening.main()
    assert "| scratch | 1 | 0.600 | 0.600 |  |" in (tmp_path / "out" / "screening.md").read_text()
    write(tmp_path / "runs", "volume_5sax_s0", {1: 0.6, 2: 0.8})
    screening.main()
    assert "| volume | 1 |  | 0.700 | 0.700 |  |" in (tmp_path / "out" / "screening.md").read_text()
    assert not (tmp_path / "out" / "screening_volumes.csv").exists()


def test_missing_runs_of_the_baseline_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "volume_2a_s0", {0: 0.6})
    with pytest.raises(SystemExit, match="no run of 'scratch'"):
        screening.summarise(read_scores(tmp_path, arms=r"\w+"))

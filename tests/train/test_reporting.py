from pathlib import Path
from types import SimpleNamespace

import pytest

from morphojax.train import reporting


def task(best=("dice", True), steps=40):
    return SimpleNamespace(best=best, steps=steps)


@pytest.mark.parametrize(
    ("best", "scores", "text"),
    [
        (("dice", True), {20: 0.9, 40: 0.8}, "; validation dice: best 0.900 at step 20, last 0.800"),
        (("dice", True), {20: 0.8, 40: 0.8}, "; validation dice: best 0.800 at step 40, last 0.800"),
        (("loss", False), {20: -2.5, 40: -3.0}, "; validation loss: best 2.500 at step 20, last 3.000"),
        (("dice", True), {20: 0.9}, "; validation dice: best 0.900 at step 20"),
        (("dice", True), {}, ""),
    ],
)
def test_the_end_of_a_run_names_its_scores(best, scores, text):
    said = reporting.describe_end(task(best), Path("runs/a"), scores, 125.4)
    assert said == f"complete in 2 min 5 s{text}; checkpoints in runs/a/checkpoints"


def test_the_first_step_is_announced_and_the_last_values_shown(capsys):
    with reporting.TrainingBar(task(steps=2), 0) as bar:
        assert "compiling the first step" in capsys.readouterr().out
        bar.update()
        assert "compiled in 0 s" in capsys.readouterr().out
        bar.show_loss(None)
        bar.show_loss(1.25)
        bar.show_score(0.5)
        bar.update()
    captured = capsys.readouterr()
    assert "2 of 2 steps, loss 1.250, val dice 0.500" in captured.err and not captured.out


def test_a_resumed_run_without_steps_left_announces_nothing(capsys):
    with reporting.TrainingBar(task(steps=2), 2):
        pass
    assert not capsys.readouterr().out

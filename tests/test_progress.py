import sys

import pytest

from morphojax import progress


class Terminal:
    """Standard error that is a terminal; keeps what is written."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_without_a_terminal_a_bar_is_lines(capsys):
    with progress.bar(total=3, desc="score test", unit="stack") as bar:
        for _ in range(3):
            bar.set_postfix_str("loss 0.5", refresh=False)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("score test: 0 of 3 stacks")
    assert lines[-1].startswith("score test: 3 of 3 stacks, loss 0.5; 00:00 left")
    assert len(lines) == 2  # the updates between came within SECONDS


def test_lines_come_every_few_seconds(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    list(progress.bar(range(4), desc="work", unit="file"))
    counts = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert counts[:5] == ["0", "1", "2", "3", "4"]


def test_a_terminal_gets_one_line_that_changes(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for item in progress.bar(range(2), desc="work", unit="file"):
        assert item in (0, 1)
    assert "\r" in terminal.text and terminal.text.count("\n") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_hidden_bar_writes_nothing(terminal, monkeypatch, capsys):
    if terminal:
        monkeypatch.setattr(sys, "stderr", fake := Terminal())
    with progress.bar(total=1, desc="work", unit="file", show=False) as bar:
        bar.update()
    assert (fake.text if terminal else capsys.readouterr().err) == ""

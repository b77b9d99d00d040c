"""`morphojax COMMAND`: its help, wrong commands, and the shipped configs."""

import re
import subprocess
import sys

import pytest

from morphojax import __version__, cli, completion, configs
from morphojax.tasks import config_files
from tests.processes import ROOT

# What takes long to import. scipy.ndimage takes a fifth of a second, and is not among them.
SLOW = {"jax", "pandas", "matplotlib", "orbax", "grain", "nibabel", "flax", "tensorboardX"}


def test_help_lists_every_command(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in cli.COMMANDS.items():
        assert any(re.fullmatch(rf"  {name} +{re.escape(command.summary)}", line) for line in lines)
    assert max(map(len, lines)) <= 120


def test_version_and_a_wrong_command(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"morphojax {__version__}\n"
    assert cli.main(["evalute"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'evalute'; did you mean evaluate?\n"
    assert cli.main(["xyz"]) == 2
    assert "`morphojax --help` lists them" in capsys.readouterr().err


def test_help_of_every_command_imports_nothing_slow():
    """In one process: what one command imports, the next has imported already."""
    code = """if True:
        import contextlib, io, sys
        from morphojax import cli
        for name in ("--help", *cli.COMMANDS):
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                cli.main([name] if name == "--help" else [name, "--help"])
            assert "usage: morphojax " in text.getvalue(), name
            print(name, *sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        name, *modules = line.split()
        assert not SLOW & set(modules), name
    assert len(done.stdout.splitlines()) == 1 + len(cli.COMMANDS)


def test_every_shipped_config_is_listed_with_its_first_line(capsys):
    assert cli.main(["configs"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(listed) == config_files.shipped_names()
    assert listed["segment_sax"].startswith("Image-only segmentation of short-axis slices")


def test_one_config_is_shown_with_its_keys(capsys):
    assert configs.main(["pretrain_arm:byol"]) == 0
    shown = capsys.readouterr().out
    assert "one arm of a comparison" in shown and "--config.objectives.byol.momentum=0.99" in shown.splitlines()
    assert configs.main(["pretrain_sxa"]) == 2
    assert "did you mean pretrain_sax?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completion_knows_every_command_and_its_flags(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert all(name in code for name in cli.COMMANDS)
    assert "--tolerance_mm" in code and "--launcher" in code

import pytest

from morphojax import inspect, predict
from morphojax.commands import inspect as work
from morphojax.commands.output import OutputError, writable


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path):
    for folder in (tmp_path, tmp_path / "a" / "b"):
        assert writable(folder) == folder
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=r"--output=.*file.*: cannot be written \(.*; name another folder"):
            writable(path)


def test_a_command_checks_its_folder_before_its_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(work, "_find", None)  # it would fail
    assert inspect.main([str(tmp_path), f"--output={tmp_path / 'file'}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output={tmp_path / 'file'}: cannot be written")
    assert predict.main(["--run=absent", "--input=absent", f"--output={tmp_path / 'file'}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output={tmp_path / 'file'}: cannot be written")

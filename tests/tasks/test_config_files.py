import ml_collections
import pytest

from morphojax import shipped
from morphojax.tasks import config_files
from morphojax.tasks.config_files import ConfigError


def test_a_shipped_config_is_found_by_name_and_by_file_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = shipped.CONFIGS / "segment_sax.py"
    for name in ("segment_sax", "configs/segment_sax.py", str(expected)):
        assert config_files.find(name) == (expected, None)
        assert config_files.load(name).task == "segment"
    for name in ("segment_sax:self_training", "configs/segment_sax.py:self_training"):
        assert config_files.find(name) == (expected, "self_training")
        assert config_files.load(name).unlabelled.batch_size > 0


def test_a_file_of_ones_own_has_precedence_and_may_import_shipped_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "segment_sax.py"
    own.parent.mkdir()
    own.write_text(
        "from configs import pretrain_sax\n"
        "def get_config():\n    config = pretrain_sax.get_config()\n    config.seed = 77\n    return config\n"
    )
    assert config_files.load("configs/segment_sax.py").seed == 77
    assert config_files.load("segment_sax").seed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 1 / 0\n", r"ZeroDivisionError in .*own.py, line 2: division by zero"),
        ("import no_such_module\n", r"ModuleNotFoundError in .*: No module named 'no_such_module'"),
        ("def get_config(:\n", r"SyntaxError in "),
        ("def get_config(arm):\n    raise ValueError(f'no arm {arm}')\n", r"missing 1 required positional argument"),
        ("x = 1\n", r"has no attribute 'get_config'"),
    ],
)
def test_an_error_in_a_config_names_the_file_and_the_line(text, message, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        config_files.load(str(path))
    assert str(caught.value).startswith(f"--config={path}: ")


def test_absent_configs_are_named_with_the_nearest():
    for name in ("segment_saxx", "configs/segment_saxx.py", "segment_saxx:volume"):
        with pytest.raises(ConfigError, match=r"there is no such config; did you mean segment_sax\?"):
            config_files.load(name)
    with pytest.raises(ConfigError, match=r"there is no such config \(`morphojax configs` lists"):
        config_files.load("zzzz")


def config() -> ml_collections.ConfigDict:
    values = {
        "flag": True, "count": 3, "rate": 0.5, "name": "a", "numbers": (1, 2), "rates": (0.1, 0.2), "ids": (),
        "inner": {"deep": {"count": 1}},
    }  # fmt: skip
    return ml_collections.ConfigDict(values).lock()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("flag=false", False),
        ("flag=True", True),
        ("count=-4", -4),
        ("rate=1e-3", 1e-3),
        ("rate=2", 2.0),
        ("name=12", "12"),
        ("name=", ""),
        ("name=a=b", "a=b"),
        ("numbers=4,5,6", (4, 5, 6)),
        ("numbers=(4, 5)", (4, 5)),
        ("rates=1", (1.0,)),
        ("ids=007,lists/a b.txt", ("007", "lists/a b.txt")),
        ("ids=('x',)", ("x",)),
        ("ids='x'", ("x",)),
        ("ids=", ()),
        ("ids=()", ()),
        ("inner.deep.count=9", 9),
    ],
)
def test_a_flag_is_parsed_as_the_type_of_its_key(flag, value):
    changed = config()
    config_files.override_from_flags(changed, [f"--config.{flag}"])
    found = config_files.get(changed, flag.partition("=")[0], "test")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.flag=maybe", "--config.flag=maybe: give true or false"),
        ("--config.count=1.5", "--config.count=1.5: give a whole number"),
        ("--config.rate=fast", "--config.rate=fast: give a number"),
        ("--config.numbers=a,b", "--config.numbers=a,b: give values with commas between them"),
        ("--config.numbers=(4, 5", "--config.numbers=(4, 5: give values with commas between them"),
        ("--config.cuont=3", "--config.cuont: the config has no key cuont; did you mean count?"),
        ("--config.inner.deap.count=3", "has no key inner.deap.count; did you mean inner.deep.count?"),
        ("--config.count.x=3", "--config.count.x: the config has no key count.x"),
        ("--config.inner=3", "--config.inner: inner is a group of keys; name one of deep"),
        ("--config.count", "unknown argument '--config.count'; keys of the config are set as --config.KEY=VALUE"),
        ("--count=3", "unknown argument '--count=3'"),
    ],
)
def test_a_wrong_flag_is_named(flag, message):
    with pytest.raises(ConfigError) as caught:
        config_files.override_from_flags(config(), [flag])
    assert message in str(caught.value)

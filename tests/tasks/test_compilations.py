"""A run compiles each of its functions once: whatever the steps, in the padded last batch of a
validation, and after a resume.
"""

import collections
import functools
import logging
import re
from pathlib import Path

import jax
import pytest

from configs import pretrain_sax, segment_sax
from morphojax.data.store.dataset import Dataset
from morphojax.models.encoders import ENCODERS
from morphojax.tasks import experiment
from morphojax.train import loop
from tests.tasks import synthetic
from tests.tasks.tiny import PRETRAIN, SEGMENT

PLANES = ("sax", "la_4ch")
SMALL = {
    "two_blocks": {},
    "convnext_pico": {"depths": (1, 1, 1, 1)},
    "swin_micro": {"depths": (1, 1, 1, 1)},
    "vit_tiny": {"depth": 4},
}
WIDTHS = {"model.decoder_widths": (4, 4, 4, 4)}  # the deepest of these pyramids has as many levels
CONFIGS = {"pretrain": (pretrain_sax, PRETRAIN), "segment": (segment_sax, SEGMENT | WIDTHS)}


@pytest.fixture(scope="module")
def data() -> Path:
    return synthetic.dataset(subjects=12, planes=PLANES)


def compiled(config, caplog: pytest.LogCaptureFixture) -> collections.Counter[str]:
    """How often each function was compiled in a run, by the name of the function."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        experiment.run(config)
    return collections.Counter(re.findall(r"Compiling (?:jit\()?([\w<>]+)", "\n".join(caplog.messages)))


@pytest.mark.parametrize(
    ("task", "encoder", "plane"),
    [
        ("segment", "two_blocks", "sax"),
        pytest.param("pretrain", "two_blocks", "sax", marks=pytest.mark.slow),
        pytest.param("segment", "swin_micro", "la_4ch", marks=pytest.mark.slow),
        pytest.param("segment", "vit_tiny", "sax", marks=pytest.mark.slow),
        pytest.param("segment", "convnext_pico", "sax", marks=pytest.mark.slow),
        pytest.param("pretrain", "swin_micro", "la_4ch", marks=pytest.mark.slow),
    ],
)
def test_a_run_compiles_each_function_once(
    task: str,
    encoder: str,
    plane: str,
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ENCODERS, encoder, functools.partial(ENCODERS[encoder], **SMALL[encoder]))  # pyrefly: ignore
    module, settings = CONFIGS[task]
    config = module.get_config()
    settings = settings | {"data.dataset": str(data), "data.plane": plane, "workdir": str(tmp_path)}
    settings |= {"steps": 4, "batch_size": 3, "eval_every": 2, "images_every": 2, "dynamics_every": 2}
    config.update_from_flattened_dict(settings | {"model.encoder": encoder})

    built, _ = experiment.TASKS[task](config, Dataset.open(data))
    built.train_batches.close()
    assert built.validation_batches is not None
    valid = [batch["valid"] for batch in built.validation_batches()]
    assert not valid[-1].all() and len(valid) > 1, "the validation must end in a padded batch"

    once = dict.fromkeys(("train_step", "evaluate", "diagnose"), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_agree", lambda asked, step, every: step == 3)
        first = compiled(config, caplog)
    assert {name: first[name] for name in once} == once
    resumed = compiled(config, caplog)  # takes up at step 3: the last step and the last validation
    assert {name: resumed[name] for name in ("train_step", "evaluate")} == {"train_step": 1, "evaluate": 1}

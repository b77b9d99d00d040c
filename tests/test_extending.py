"""docs/extending.md, followed once: a toy encoder, a toy unlabelled objective and a toy cohort,
each one row of a registry.
"""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphojax import prepare
from morphojax.data.sources import SOURCES
from morphojax.data.sources.base import FolderSource, Frame, Subject, View
from morphojax.models.encoders import ENCODERS
from morphojax.models.features import Features
from morphojax.tasks import experiment
from morphojax.tasks.segment import unlabelled
from morphojax.tasks.segment.unlabelled.base import UnlabelledObjective
from morphojax.tasks.segment.unlabelled.batch import UnlabelledBatch
from tests.tasks import tiny


class PatchEncoder(nn.Module):
    """One convolution at stride 2 and one at stride 4."""

    width: int = 8
    dtype: type = jnp.float32

    @property
    def levels(self) -> dict[str, str]:
        return {"first": "stem", "second": "stage1"}

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> Features:
        x = nn.relu(nn.Conv(self.width, (3, 3), 2, dtype=self.dtype, name="first")(image))
        y = nn.relu(nn.Conv(2 * self.width, (3, 3), 2, dtype=self.dtype, name="second")(x))
        return Features((x, y), y.mean((1, 2), dtype=jnp.float32))


def agreement(*, scale: float = 2.0) -> UnlabelledObjective:
    """A mean teacher: the student's strong view against the teacher's classes, by the fraction of
    each class.
    """

    def loss(batch: UnlabelledBatch) -> tuple[jax.Array, dict[str, jax.Array]]:
        moved = batch.to_strong(batch.teacher_probabilities.argmax(-1) + 1)  # 0: outside the image
        student = jax.nn.log_softmax(batch.strong.logits.astype(jnp.float32))
        target = jax.nn.one_hot(moved - 1, student.shape[-1])
        return -scale * jnp.mean((student * target).sum(-1)), {"inside": jnp.mean(moved > 0)}

    return UnlabelledObjective(loss, ema=True)


class Discs(FolderSource):
    """Subjects that are a disc in noise; one file names them all."""

    name = "discs"

    def subjects(self) -> list[str]:
        return sorted((self.root / "subjects.txt").read_text().split())

    def read(self, subject: str, planes) -> Subject:
        random = np.random.default_rng(int(subject))
        x, y = np.mgrid[:40, :40] - 20
        label = np.repeat((np.hypot(x, y) < random.uniform(6, 12)).astype(np.uint8)[..., None], 3, axis=2)
        image = (label + random.normal(0, 0.1, label.shape)).astype(np.float32)
        frame = Frame("ED", image, label, np.diag([1.5, 1.5, 8, 1]))
        return Subject(subject, {"sax": View("sax", (frame,), ("lv_cavity",))})

    def table(self) -> None:
        return None


def test_an_encoder_an_unlabelled_objective_and_a_cohort_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENCODERS, "patches", functools.partial(PatchEncoder))  # pyrefly: ignore
    monkeypatch.setitem(unlabelled.OBJECTIVES, "agreement", agreement)
    monkeypatch.setitem(SOURCES, "discs", Discs)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "subjects.txt").write_text(" ".join(map(str, range(12))))
    out = tmp_path / "data"
    flags = ["--spacing=1.5", "--size=32", "--workers=1", "--key=none"]
    assert prepare.main(["--source=discs", f"--input={tmp_path / 'raw'}", f"--output={out}", *flags]) == 0

    run = tmp_path / "run"
    settings = {"model.encoder": "patches", "model.decoder_widths": (4, 4), "input.frames": ("ED",), "eval_every": 0}
    settings |= {"data.fraction": 0.5, "unlabelled.batch_size": 2, "ema.decay": 0.9, "steps": 3}
    config = tiny.config("segment_sax", out, run, **settings)
    config.unlabelled.objectives = {"agreement": {"weight": 1.0, "start": 0.0, "ramp": 0.0, "scale": 1.0}}
    assert experiment.run(config)
    logged = (run / "metrics.jsonl").read_text()
    for name in ("unlabelled/agreement/loss", "unlabelled/agreement/inside", "grad_norm/encoder/stage1"):
        assert f'"train/{name}"' in logged
    assert "NaN" not in logged and "null" not in logged

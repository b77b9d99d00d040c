"""The studies in configs/: every key of every cell exists, and no two jobs are the same run."""

import pytest

from analysis.study import jobs, spec
from morphojax.tasks import config_files
from tests.processes import ROOT

WORDS = ("study_acdc.py:gpu", "study_null.py:7", "study_planes.py:multiplane", "study_subjects.py:small")


@pytest.mark.parametrize("name", [*sorted(path.name for path in (ROOT / "configs").glob("study_*.py")), *WORDS])
def test_every_shipped_study_plans(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = spec.from_config(config_files.load(f"configs/{name}"))
    planned = jobs.plan(study)
    assert len({job.identity for job in planned}) == len(planned)
    arms = {cell.values[spec.ARM] for cell in study.cells}
    assert study.baseline in arms
    assert {arm for pair in study.contrasts for arm in pair} <= arms

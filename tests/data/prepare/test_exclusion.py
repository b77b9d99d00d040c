"""Warnings count subjects, before and after an exclusion."""

import dataclasses

from morphojax.data.geometry import Grid
from morphojax.data.prepare.exclusion import exclude
from morphojax.data.sources.acdc import Acdc
from morphojax.data.store.dataset import Dataset
from tests.data import cohorts
from tests.data.preparing import prepare


class _WithWarnings(Acdc):
    """ACDC with a warning that each subject gives twice, and one that every subject but the first
    gives.
    """

    def read(self, subject, planes):
        contents = super().read(subject, planes)
        more = () if subject == "patient001" else ("once",)
        return dataclasses.replace(contents, warnings=("twice", "twice", *more))


def test_warnings_count_subjects_and_follow_an_exclusion(tmp_path):
    root = cohorts.acdc(tmp_path / "cohort", subjects=3)
    prepare(_WithWarnings(root), tmp_path / "out", name="acdc", grid=Grid(1.5, 16))
    assert Dataset.open(tmp_path / "out").manifest.warnings == {"twice": 3, "once": 2}
    (tmp_path / "out/contact_sheet.png").write_bytes(b"")
    exclude(tmp_path / "out", frozenset({"patient002"}))
    assert Dataset.open(tmp_path / "out").manifest.warnings == {"twice": 2, "once": 1}

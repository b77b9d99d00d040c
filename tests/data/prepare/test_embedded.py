"""The cache of the embedded synthetic cohort."""

import pytest

from morphojax.data.geometry import Grid
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.embedded import default_cache, ensure_synthetic
from morphojax.data.store.dataset import Dataset

GRID = Grid(1.5, 16)


def test_the_embedded_cohort_is_made_once(tmp_path):
    path = ensure_synthetic(tmp_path, subjects=2, seed=0, grid=GRID, planes=("sax", "la_4ch"), workers=1)
    stamp = (path / "dataset.json").stat().st_mtime_ns
    assert ensure_synthetic(tmp_path, subjects=2, seed=0, grid=GRID, planes=("sax", "la_4ch")) == path
    assert (path / "dataset.json").stat().st_mtime_ns == stamp
    dataset = Dataset.open(path)
    assert dataset.manifest.source == "synthetic" and len(dataset.subjects) == 2
    assert len(dataset.manifest.labelled["la_4ch"]) == 5 and "cardiac_morphometric" in dataset.schema.groups
    assert set(dataset.stacks("la_4ch")["phase"]) == {"ED", "mid", "ES"}
    # Another grid shares the cohort, not the dataset.
    other = ensure_synthetic(tmp_path, subjects=2, seed=0, grid=Grid(2.0, 16), planes=("sax",), workers=1)
    assert other != path and other.parent == path.parent


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrepareError, match="MORPHOJAX_CACHE"):
        ensure_synthetic(tmp_path / "file", subjects=2, seed=0, grid=GRID, planes=("sax",))


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MORPHOJAX_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("MORPHOJAX_CACHE")
    assert default_cache().name == "morphojax"

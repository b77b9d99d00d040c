"""The synthetic cohort: reproducible, readable as UK Biobank, and anatomically plausible."""

import csv
import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from morphojax.anatomy import LABEL_ID
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic import Synthetic, cohort, generate, imaging
from morphojax.data.sources.synthetic import columns as table
from morphojax.data.tables.dictionary import read_dictionary

LV, MYO, RV, LA, RA = (LABEL_ID[s] for s in ("lv_cavity", "lv_myocardium", "rv_cavity", "la_cavity", "ra_cavity"))


@pytest.fixture(scope="module")
def root(synthetic):
    """The folder of the shared cohort, of seed 3."""
    return synthetic.root


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_bytes_depend_on_the_seed_only_not_on_workers_or_growth(root, tmp_path):
    grown = generate(tmp_path / "grown", subjects=1, seed=3, workers=1, progress=False)
    first = digests(grown / "syn000001")
    before = (grown / "syn000001" / "sa.nii.gz").stat().st_mtime_ns
    generate(grown, subjects=4, seed=3, workers=2, progress=False)
    assert (grown / "syn000001" / "sa.nii.gz").stat().st_mtime_ns == before  # kept, not written again
    assert first == digests(grown / "syn000001")
    assert digests(grown) == digests(root)


def test_seeds_and_subjects_differ(root):
    images = [(root / f"syn00000{n}" / "sa_ED.nii.gz").read_bytes() for n in (1, 2)]
    assert images[0] != images[1] != cohort.subject_files(4, 2)["sa_ED.nii.gz"]


def test_asking_for_fewer_subjects_keeps_all(root):
    before = digests(root)
    generate(root, subjects=2, seed=3, workers=1, progress=False)
    assert digests(root) == before


def test_another_seed_or_version_or_other_files_are_refused(root, tmp_path, monkeypatch):
    with pytest.raises(CohortError, match=r"seed 3.*seed 4.*another folder"):
        generate(root, subjects=1, seed=4)
    monkeypatch.setattr(cohort, "VERSION", cohort.VERSION + 1)
    with pytest.raises(CohortError, match="generator version"):
        generate(root, subjects=1, seed=3)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(CohortError, match="not empty"):
        generate(tmp_path, subjects=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="at least 1"):
        generate(tmp_path / "none", subjects=0)


def test_a_failed_subject_leaves_no_files(tmp_path, monkeypatch):
    class Full(OSError):
        pass

    def full(*_):
        raise Full

    monkeypatch.setattr(cohort.Path, "write_bytes", full)
    with pytest.raises(Full):
        generate(tmp_path / "c", subjects=1, workers=1, progress=False)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [cohort.MARK]
    monkeypatch.undo()
    with pytest.raises(CohortError, match="never finished"):
        Synthetic(tmp_path / "c").subjects()
    assert Synthetic(generate(tmp_path / "c", subjects=1, workers=1, progress=False)).subjects() == ["syn000001"]


def test_the_reader_finds_all_phases_and_structures(root):
    source = Synthetic(root)
    assert source.subjects() == [f"syn00000{n}" for n in (1, 2, 3, 4)]
    subject = source.read("syn000002", ("sax", "la_2ch", "la_4ch"))
    assert subject.warnings == ()
    for plane, structures in (("sax", {0, LV, MYO, RV}), ("la_2ch", {0, LA}), ("la_4ch", {0, LV, MYO, RV, LA, RA})):
        view = subject.views[plane]
        assert [f.phase for f in view.frames] == ["ED", "mid", "ES"]
        ed, mid, es = view.frames
        assert mid.label is None and not np.array_equal(mid.image, ed.image)
        assert set(np.unique(ed.label)) == structures == set(np.unique(es.label))
    frame, schema = source.table()
    assert schema == table.SCHEMA and set(frame.index) <= set(source.subjects())


def test_the_reader_refuses_another_folder(tmp_path):
    with pytest.raises(CohortError, match="no synthetic cohort"):
        Synthetic(tmp_path).subjects()


def test_nifti_headers(root):
    folder = root / "syn000001"
    cine, still = nib.load(folder / "sa.nii.gz"), nib.load(folder / "sa_ES.nii.gz")
    assert cine.shape == (*still.shape, imaging.FRAMES) and nib.load(folder / "la_4ch.nii.gz").shape[2] == 1
    np.testing.assert_array_equal(np.asarray(cine.dataobj)[..., imaging.END_SYSTOLE], np.asarray(still.dataobj))
    for image in (cine, still, nib.load(folder / "label_sa_ED.nii.gz")):
        assert image.header["qform_code"] == image.header["sform_code"] == 1
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        np.testing.assert_array_equal(image.affine, cine.affine)
    assert cine.header.get_xyzt_units() == ("mm", "sec")
    assert 0.5 < cine.header["pixdim"][4] * imaging.FRAMES < 1.5  # one heart beat


def test_planes_cut_the_same_heart(root):
    """Affines map cavity voxels of the short axis into the same cavity of the 4-chamber plane."""
    for number in (1, 2, 3, 4):
        folder = root / f"syn00000{number}"
        sax, four = nib.load(folder / "label_sa_ED.nii.gz"), nib.load(folder / "seg4_la_4ch_ED.nii.gz")
        target = np.asarray(four.dataobj)[..., 0]
        for structure in (LV, RV):
            points = nib.affines.apply_affine(sax.affine, np.argwhere(np.asarray(sax.dataobj) == structure))
            index = nib.affines.apply_affine(np.linalg.inv(four.affine), points)
            index = index[np.abs(index[:, 2]) * 6.0 < 4.0]  # within 4 mm of the plane
            x, y = np.rint(index[:, :2]).astype(int).T
            assert len(x) > 50
            assert np.mean(target[x, y] == structure) > 0.85  # the rest: breath-hold shifts of a few mm


def test_slices_are_displaced_with_image_and_label_together(root):
    stack = nib.load(root / "syn000001" / "label_sa_ED.nii.gz")
    label = np.asarray(stack.dataobj) == LV
    centres = np.array([np.argwhere(label[..., z]).mean(0) for z in np.flatnonzero(label.any((0, 1)))])
    assert np.abs(np.diff(centres, n=2, axis=0)).max() > 0.3  # without displacement the centres would lie on a line
    image = np.asarray(nib.load(root / "syn000001" / "sa_ED.nii.gz").dataobj)
    myo = np.asarray(stack.dataobj) == MYO
    for z in np.flatnonzero(label.sum((0, 1)) > 200):
        assert image[..., z][label[..., z]].mean() > 1.2 * image[..., z][myo[..., z]].mean()


def test_no_intensity_threshold_segments_the_cavity(root):
    """The best intensity window over the whole stack has a low Dice score."""
    for number in (1, 2):
        folder = root / f"syn00000{number}"
        image = np.asarray(nib.load(folder / "sa_ED.nii.gz").dataobj)
        truth = np.asarray(nib.load(folder / "label_sa_ED.nii.gz").dataobj) == LV
        levels = np.percentile(image, np.arange(40, 100, 2))
        best = max(
            2 * np.sum(mask & truth) / (mask.sum() + truth.sum())
            for low in levels
            for high in levels[levels > low]
            for mask in [(image > low) & (image <= high)]
        )
        assert best < 0.6


def test_table_agrees_with_the_masks(root):
    rows = {r["subject"]: r for r in csv.DictReader((root / "table.csv").open())}
    compared = 0
    for name, row in rows.items():
        label = nib.load(root / name / "label_sa_ED.nii.gz")
        spacing = np.linalg.norm(label.affine[:3, :3], axis=0)
        for column, structure, density, error in (
            ("lv_edv", LV, 1, 0.076),
            ("rv_edv", RV, 1, 0.106),
            ("lv_mass", MYO, 1.05, 0.121),
        ):
            if row[column]:
                truth = np.count_nonzero(np.asarray(label.dataobj) == structure) * spacing.prod() / 1000 * density
                assert abs(float(row[column]) / truth - 1) < error
                compared += 1
        if row["lv_edv"] and row["lv_esv"]:
            edv, esv = float(row["lv_edv"]), float(row["lv_esv"])
            assert float(row["lv_ef"]) == pytest.approx(100 * (edv - esv) / edv, rel=2e-3)
    assert compared >= 6


def test_dictionary_covers_every_column(root):
    schema = read_dictionary(root / "dictionary.csv")
    header = next(csv.reader((root / "table.csv").open()))
    assert header == ["subject", *schema.names]
    assert schema == table.SCHEMA and 30 <= len(schema.names) <= 50 and len(schema.groups) == 6
    assert "infarction" not in schema.without_leaks("infarction").names
    assert all(c.unit or c.kind != "continuous" or c.name == "deprivation" for c in schema.columns)


def test_command(tmp_path, monkeypatch, capsys):
    from morphojax.data.sources.synthetic.__main__ import main

    monkeypatch.setattr("sys.argv", ["synthetic", f"--output={tmp_path / 'c'}", "--subjects=1", "--workers=1"])
    assert main() == 0
    assert json.loads((tmp_path / "c" / cohort.MARK).read_text()) == {
        "version": cohort.VERSION,
        "seed": 0,
        "subjects": 1,
    }
    monkeypatch.setattr("sys.argv", ["synthetic", f"--output={tmp_path / 'c'}", "--subjects=1", "--seed=9"])
    assert main() == 1 and "another folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 100_000, "7", "{}", '{"version": 1, "seed": 0, "subjects": [1]}', "\x00"])
def test_a_damaged_mark_is_named(tmp_path, text):
    (tmp_path / cohort.MARK).write_text(text)
    for use in (lambda: Synthetic(tmp_path).subjects(), lambda: generate(tmp_path, subjects=1, seed=0)):
        with pytest.raises(CohortError, match=cohort.MARK):
            use()

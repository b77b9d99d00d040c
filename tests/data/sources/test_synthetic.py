"""The synthetic cohort: reproducible, readable as UK Biobank, and anatomically plausible."""

import csv
import gzip
import hashlib
import json

import nibabel as nib
import numpy as np
import pytest

from morphojax.anatomy import LABEL_ID
from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic import Synthetic, cohort, generate, heart, imaging, measures, person
from morphojax.data.sources.synthetic import columns as table
from morphojax.data.tables.schema import read_dictionary

LV, MYO, RV, LA, RA = (LABEL_ID[s] for s in ("lv_cavity", "lv_myocardium", "rv_cavity", "la_cavity", "ra_cavity"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("synthetic") / "cohort", subjects=4, seed=3, workers=1, progress=False)


@pytest.fixture(scope="module")
def shaped():
    """Kind of heart -> file name -> content, all from the same random numbers."""
    return {shape: cohort.subject_files(5, 1, shape) for shape in person.SHAPES}


def opened(data: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(data))


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def measured(files: dict[str, bytes]) -> dict[str, float]:
    names = {"sax": "label_sa", "la_2ch": "label_la_2ch", "la_4ch": "seg4_la_4ch"}
    images = {(k, ph): opened(files[f"{v}_{ph}.nii.gz"]) for k, v in names.items() for ph in ("ED", "ES")}
    label = {k: np.asarray(v.dataobj) for k, v in images.items()}
    two = np.where(label["la_2ch", "ES"] == 1, LA, 0)
    sax = {ph: label["sax", ph] for ph in ("ED", "ES")}
    return measures.measure(sax, two, label["la_4ch", "ES"], {k: images[k, "ES"].affine for k in names})


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


def test_kinds_of_heart_differ_in_their_measures(shaped):
    by_shape = {shape: measured(files) for shape, files in shaped.items()}
    healthy = by_shape["healthy"]
    assert 45 < healthy["lv_ef"] < 80 and 45 < healthy["rv_ef"] < 80
    assert 20 < healthy["la_volume"] < 140 and 20 < healthy["ra_volume"] < 140
    assert by_shape["dilated"]["lv_edv"] > 1.3 * healthy["lv_edv"]
    assert by_shape["dilated"]["lv_ef"] < 45
    assert by_shape["hypertrophic"]["wall_thickness_max"] > 1.3 * healthy["wall_thickness_max"]
    assert by_shape["hypertrophic"]["lv_mass"] > 1.2 * healthy["lv_mass"]
    assert by_shape["infarcted"]["lv_ef"] < healthy["lv_ef"] - 3
    assert by_shape["rv_overload"]["rv_edv"] > 1.25 * healthy["rv_edv"]
    assert by_shape["rv_overload"]["rv_ef"] < healthy["rv_ef"]
    assert by_shape["rv_overload"]["ra_volume"] > healthy["ra_volume"]


def test_the_myocardium_keeps_its_volume(shaped):
    for files in shaped.values():
        ed, es = (np.asarray(opened(files[f"label_sa_{ph}.nii.gz"]).dataobj) for ph in ("ED", "ES"))
        assert np.count_nonzero(es == MYO) == pytest.approx(np.count_nonzero(ed == MYO), rel=0.2)


def test_wall_thickness_of_a_ring():
    x, y = np.mgrid[:101, :101] - 50.0
    r = np.hypot(x, y)
    label = np.where(r < 20, LV, np.where(r < 28, MYO, 0)).astype(np.uint8)[..., None].repeat(4, 2)
    mean, most = measures.wall_thickness(label, pixel=1.5)
    assert mean == pytest.approx(8 * 1.5, rel=0.02) and most == pytest.approx(8 * 1.5, rel=0.06)
    assert np.isnan(measures.wall_thickness(np.zeros((8, 8, 2), np.uint8), 1.0)).all()


def test_atrial_volume_of_a_sphere():
    """A sphere of 60 mm: area-length is exact, 4/3 pi 6^3 = 905 mL, in both planes."""
    x, y = np.mgrid[:141, :141] - 70.0
    disc = np.where(np.hypot(x, y) < 60, 1, 0)[..., None]
    blank = {"ED": np.zeros((4, 4, 1)), "ES": np.zeros((4, 4, 1))}
    affines = dict.fromkeys(("sax", "la_2ch", "la_4ch"), np.eye(4))
    values = measures.measure(blank, disc * LA, disc * LA, affines)
    assert values["la_volume"] == pytest.approx(4 / 3 * np.pi * 216, rel=0.02)
    assert np.isnan(values["lv_ef"]) and np.isnan(values["ra_volume"])  # the EF of an empty label is missing, not 0


def test_cavity_volumes_over_the_cycle():
    """The implicit solids have the EDV and EF of the person, and ES is the smallest volume."""
    rng = np.random.default_rng(0)
    who = person.draw(rng, "healthy")
    solid = heart.build(who, rng)
    axes = (np.arange(-60, 61, 2.0), np.arange(-60, 61, 2.0), np.arange(-4, 121, 2.0))
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)
    volumes = [
        0.008 * np.count_nonzero(heart.distances(solid, grid, heart.activation(t / 6), atria=False)["endo"] < 0)
        for t in range(6)
    ]
    assert volumes[0] == pytest.approx(who.lv_edv, rel=0.03)
    assert int(np.argmin(volumes)) == imaging.END_SYSTOLE
    assert 1 - volumes[imaging.END_SYSTOLE] / volumes[0] == pytest.approx(who.lv_ef, abs=0.02)


def test_dictionary_covers_every_column(root):
    schema = read_dictionary(root / "dictionary.csv")
    header = next(csv.reader((root / "table.csv").open()))
    assert header == ["subject", *schema.names]
    assert schema == table.SCHEMA and 30 <= len(schema.names) <= 50 and len(schema.groups) == 6
    assert "infarction" not in schema.without_leaks("infarction").names
    assert all(c.unit or c.kind != "continuous" or c.name == "deprivation" for c in schema.columns)


def people(n: int):
    """n random persons and their table rows."""
    masks = dict.fromkeys(("lv_edv", "lv_esv", "rv_edv", "rv_esv", "lv_mass", "la_volume", "ra_volume"), 100.0) | {
        "wall_thickness_mean": 8.0,
        "wall_thickness_max": 10.0,
    }
    for number in range(n):
        rng = np.random.default_rng([11, number])
        who = person.draw(rng)
        yield who, table.row(who, masks, rng)


def test_gaps_and_classes():
    rows = [row for _, row in people(600)]
    given = [r for r in rows if r is not None]
    assert 0 < len(rows) - len(given) < 40  # about 2 % have no row
    for column in table.SCHEMA.columns:
        cells = [r[column.name] for r in given]
        assert sum(c is None for c in cells) < 0.3 * len(given)
        if column.classes:
            assert {str(c) for c in cells if c is not None} == set(column.classes)
    for name in ("activity", "alcohol", "sbp", "lv_edv"):
        assert any(r[name] is None for r in given)
    assert all(r["lv_esv"] is None for r in given if r["lv_edv"] is None)  # one examination gives both


def test_covariates_are_correlated():
    who = [p for p, _ in people(600)]

    def r(a, b, keep=lambda p: True):
        pairs = np.array([(getattr(p, a), getattr(p, b)) for p in who if keep(p)], float)
        return np.corrcoef(pairs.T)[0, 1]

    assert r("bmi", "waist") > 0.7 and r("age", "sbp") > 0.2 and r("hypertension", "wall") > 0.1
    assert r("bsa", "lv_edv", lambda p: p.shape == "healthy") > 0.5
    assert r("lv_edv", "rv_edv", lambda p: p.shape == "healthy") > 0.7
    assert (
        np.mean([p.height for p in who if p.sex == "male"]) > np.mean([p.height for p in who if p.sex == "female"]) + 9
    )
    fractions = {s: np.mean([p.shape == s for p in who]) for s in person.SHAPES}
    assert fractions["healthy"] > 0.3 and min(fractions.values()) > 0.05
    with pytest.raises(ValueError, match="not one of"):
        person.draw(np.random.default_rng(0), "athlete")


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

"""Zips made from the synthetic cohort give its files when converted, its records when prepared."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from morphojax import anatomy, prepare
from morphojax.data.sources.synthetic import generate
from morphojax.data.sources.ukb_dicom import UkbDicom
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation import figures
from tests.data import cvi42_files, ukb_zips
from tests.data.tables.ukb_exports import export

FILES = {"sax": "sa", "la_2ch": "la_2ch", "la_4ch": "la_4ch"}
PLANES = "--planes=sax,la_2ch,la_4ch"
IDS = ("1000017", "1000028", "1000039", "1000040")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Zips, contours and a table of four subjects, and the folders that they were made from."""
    root = tmp_path_factory.mktemp("ukb")
    generate(root / "nifti", subjects=4, seed=0, workers=1, progress=False)
    folders = sorted(p for p in (root / "nifti").iterdir() if p.is_dir())
    for eid, folder in zip(IDS, folders, strict=True):
        # ED and ES alone: even so a zip holds hundreds of files.
        cines = {plane: nib.load(folder / f"{stem}.nii.gz") for plane, stem in FILES.items()}
        arrays = {plane: phases(folder, stem) for plane, stem in FILES.items()}
        short = ukb_zips.short_axis(arrays["sax"], cines["sax"].affine)
        long = [f for n in (2, 4) for f in ukb_zips.long_axis(arrays[f"la_{n}ch"], cines[f"la_{n}ch"].affine, n)]
        ukb_zips.write(root / "zips" / f"{eid}_20209_2_0.zip", short)
        ukb_zips.write(root / "zips" / f"{eid}_20208_2_0.zip", long, manifest=None)
        contours = cvi42_files.drawings(labels(folder, "sax"), lambda z, t: ukb_zips.uid(ukb_zips.sax_series(z), z, t))
        for n in (2, 4):
            contours |= cvi42_files.drawings(
                labels(folder, f"la_{n}ch"), lambda z, t, n=n: ukb_zips.uid(ukb_zips.lax_series(n), z, t)
            )
        cvi42_files.save(root / "zips" / f"{eid}.cvi42wsx", contours)
    export(root / "zips" / "table.csv")
    return root / "zips", dict(zip(IDS, folders, strict=True))


@pytest.fixture(autouse=True)
def no_contact_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "contact_sheet", lambda path, tiles, columns: path.write_bytes(b""))


def phases(folder: Path, stem: str) -> np.ndarray:
    return np.stack(
        [np.asarray(nib.load(folder / f"{stem}_{phase}.nii.gz").dataobj) for phase in ("ED", "ES")], axis=-1
    )


def labels(folder: Path, plane: str) -> np.ndarray:
    """[X, Y, Z, T] of canonical ids, of the structures that the workspace holds in that plane."""
    convention = anatomy.CONVENTIONS[f"ukb_{plane}"]
    if plane == "la_4ch":
        stored = phases(folder, "seg4_la_4ch")
        return np.where(np.isin(stored, [anatomy.LABEL_ID[s] for s in convention.labelled]), stored, 0)
    stored = phases(folder, f"label_{FILES[plane]}")
    return np.vectorize(convention.to_canonical().get)(stored).astype(np.uint8)


def command(*flags: str) -> int:
    return prepare.main([*flags, PLANES, "--key=none", "--workers=1", "--spacing=3", "--size=48"])


def test_converted_files_equal_those_that_the_zips_were_made_from(cohort, tmp_path: Path, capsys) -> None:
    zips, folders = cohort
    assert command("--source=ukb_dicom", f"--input={zips}", f"--output={tmp_path}", "--convert-only") == 0
    assert "4 subjects written, 0 already there" in capsys.readouterr().out
    for eid, folder in folders.items():
        for stem in FILES.values():
            made, origin = nib.load(tmp_path / eid / f"{stem}.nii.gz"), nib.load(folder / f"{stem}.nii.gz")
            np.testing.assert_array_equal(np.asarray(made.dataobj), phases(folder, stem))
            expected = origin.affine.copy()
            if made.shape[2] == 1 and np.linalg.det(expected[:3, :3]) < 0:
                expected[:3, 2] *= -1  # the headers of a single slice do not say which way is up
            np.testing.assert_allclose(made.affine, expected, atol=1e-4)
            assert made.get_data_dtype() == np.int16 and made.header["pixdim"][4] == pytest.approx(0.02)
    assert command("--source=ukb_dicom", f"--input={zips}", f"--output={tmp_path}", "--convert-only") == 0
    assert "0 subjects written, 4 already there" in capsys.readouterr().out


def test_zips_and_their_conversion_give_the_same_records(cohort, tmp_path: Path) -> None:
    zips, _ = cohort
    command("--source=ukb_dicom", f"--input={zips}", f"--output={tmp_path / 'nifti'}", "--convert-only")
    table = f"--table={zips / 'table.csv'}"
    assert command("--source=ukb_dicom", f"--input={zips}", f"--output={tmp_path / 'a'}", table, "--frames=4") == 0
    assert (
        command(
            "--source=ukb_nifti", f"--input={tmp_path / 'nifti'}", f"--output={tmp_path / 'b'}", table, "--frames=4"
        )
        == 0
    )
    a, b = (Dataset.open(tmp_path / name, verify=True) for name in "ab")
    assert a.subjects == b.subjects == IDS
    pd.testing.assert_frame_equal(a.table, b.table)
    assert "lv_ejection_fraction_24103" in a.table
    for plane in FILES:
        pd.testing.assert_frame_equal(a.stacks(plane), b.stacks(plane))
        assert a.stacks(plane)["labelled"].any()
        for one, two in zip(a.slices(plane), b.slices(plane), strict=True):
            np.testing.assert_array_equal(one["image"], two["image"])
            np.testing.assert_array_equal(one["label"], two["label"])
        for row in range(len(a.stacks(plane))):
            assert a.native(plane, row)[1].shape == b.native(plane, row)[1].shape
            np.testing.assert_allclose(a.native(plane, row)[1].affine, b.native(plane, row)[1].affine, atol=1e-4)


def test_contours_become_the_labels_that_they_were_drawn_from(cohort) -> None:
    zips, folders = cohort
    sums = np.zeros((3, 1 + len(anatomy.STRUCTURES)), int)
    for eid, folder in folders.items():
        subject = UkbDicom(zips).read(eid, tuple(FILES))
        assert not any("contours" in w for w in subject.warnings)
        for plane, view in subject.views.items():
            assert view.labelled == anatomy.CONVENTIONS[f"ukb_{plane}"].labelled
            truth = labels(folder, plane)
            for t, frame in enumerate(f for f in view.frames if f.phase != "mid"):
                for i in range(1, len(sums[0])):
                    a, b = truth[..., t] == i, frame.label == i
                    sums[:, i] += np.count_nonzero(a & b), np.count_nonzero(a), np.count_nonzero(b)
    both, true, read = sums[:, 1:]
    assert (true > 1000).all() and (2 * both / (true + read) > 0.99).all() and (abs(read / true - 1) < 0.01).all()


def test_labels_that_the_layout_cannot_express_are_not_written(cohort, tmp_path: Path) -> None:
    """A workspace without the right ventricle: zeros would be taken for background."""
    zips, out = tmp_path / "zips", tmp_path / "o"
    zips.mkdir()
    (zips / f"{IDS[0]}_20209_2_0.zip").write_bytes((cohort[0] / f"{IDS[0]}_20209_2_0.zip").read_bytes())
    workspace = (cohort[0] / f"{IDS[0]}.cvi42wsx").read_text()
    (zips / f"{IDS[0]}.cvi42wsx").write_text(workspace.replace("sarvendocardialContour", "aNameThatIsNotRead"))
    assert command("--source=ukb_dicom", f"--input={zips}", f"--output={out}", "--convert-only") == 0
    assert [p.name for p in (out / IDS[0]).iterdir()] == ["sa.nii.gz"]
    assert "cannot tell: no labels written" in (out / "report.csv").read_text()
    view = UkbDicom(zips).read(IDS[0], ["sax"]).views["sax"]
    assert view.labelled == ("lv_cavity", "lv_myocardium") and view.frames[0].label.max() == 2


def test_an_unreadable_subject_is_reported_and_left_out(cohort, tmp_path: Path, capsys) -> None:
    zips, _ = cohort
    for path in zips.glob("*.zip"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / f"{IDS[1]}_20209_2_0.zip"
    bad.write_bytes(bad.read_bytes()[:5000])
    out = tmp_path / "out"
    flags = ("--source=ukb_dicom", f"--input={tmp_path}", f"--output={out}", "--convert-only")
    assert command(*flags) == 0
    printed = capsys.readouterr().out
    assert "3 subjects written" in printed and "1 subjects could not be read" in printed and IDS[1] not in printed
    report = pd.read_csv(out / "report.csv", dtype=str)
    failed = report[report["status"] == "failed"]
    assert failed["subject"].tolist() == [IDS[1]] and "truncated or corrupt zip" in failed["message"].item()
    assert sorted(p.name for p in out.iterdir()) == sorted([IDS[0], *IDS[2:], "conversion.json", "report.csv"])
    assert command(*flags, "--strict") == 2 and "truncated" in capsys.readouterr().err


def test_other_planes_than_the_folder_was_begun_with_are_refused(cohort, tmp_path: Path, capsys) -> None:
    """A subject that is converted already would silently lack the other planes."""
    flags = (
        "--source=ukb_dicom",
        f"--input={cohort[0]}",
        f"--output={tmp_path / 'o'}",
        "--convert-only",
        "--workers=1",
    )
    assert prepare.main(list(flags)) == 0  # sax alone, by default
    assert sorted(p.name for p in (tmp_path / "o" / IDS[0]).iterdir()) == ["label_sa.nii.gz", "sa.nii.gz"]
    assert command(*flags) == 2 and "was begun with" in capsys.readouterr().err
    assert prepare.main([*flags, "--planes=sax,la_3ch"]) == 2 and "name each once among" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("not to be touched")
    assert command(*flags, f"--output={tmp_path / 'other'}") == 2 and "is not empty" in capsys.readouterr().err


def test_a_dry_run_of_a_conversion_is_refused(cohort, tmp_path: Path, capsys) -> None:
    out = tmp_path / "o"
    flags = ("--source=ukb_dicom", f"--input={cohort[0]}", f"--output={out}", "--convert-only", "--dry-run")
    assert command(*flags) == 2 and "cannot be combined" in capsys.readouterr().err and not out.exists()


def test_the_report_keeps_the_lines_of_an_earlier_run(cohort, tmp_path: Path) -> None:
    """A subject with images of the repeat visit alone is converted first, the other later."""
    zips, out = tmp_path / "zips", tmp_path / "o"
    zips.mkdir()
    flags = ("--source=ukb_dicom", f"--input={zips}", f"--output={out}", "--convert-only")
    for i, visit in ((0, 3), (1, 2)):
        for field in (20208, 20209):
            zipped = (cohort[0] / f"{IDS[i]}_{field}_2_0.zip").read_bytes()
            (zips / f"{IDS[i]}_{field}_{visit}_0.zip").write_bytes(zipped)
        assert command(*flags) == 0
    report = pd.read_csv(out / "report.csv", dtype=str)
    assert report.to_numpy().tolist() == [[IDS[0], "warning", "images of the repeat visit"]]


def test_only_dicom_sources_can_be_converted(tmp_path: Path, capsys) -> None:
    assert command("--source=acdc", f"--input={tmp_path}", f"--output={tmp_path / 'o'}", "--convert-only") == 2
    assert "is NIfTI already" in capsys.readouterr().err
    assert command("--source=acdc", f"--input={tmp_path}", f"--output={tmp_path / 'o'}", "--table_fields=24103") == 2
    assert "leave out --table_fields" in capsys.readouterr().err

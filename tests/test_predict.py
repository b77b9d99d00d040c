"""Files in, labels and measures out, with a toy run whose labels follow from the grey values."""

import dataclasses
import gzip
import math
import struct

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from morphojax import anatomy, predict
from morphojax.commands import predict as work
from morphojax.data import geometry
from morphojax.data.sources.nifti_geometry import QFORM_NOTE
from morphojax.inference import files, planes, segmenter
from morphojax.train.run import RunError
from tests.data import cohorts
from tests.toy_run import toy_image, toy_label, toy_run

AFFINE = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 20], [0, 0, 8.0, -10], [0, 0, 0, 1]])
LV = anatomy.LABEL_ID["lv_cavity"]


def write(path, data, affine=AFFINE, kind=nib.Nifti1Image, step=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(np.asarray(data, np.float32), affine)
    if step is not None:
        image.header.set_xyzt_units("mm", "sec")
        image.header["pixdim"][4] = step
    nib.save(image, path)
    return path


def predict_folder(tmp_path, source=None, run=None, **options):
    source = source or tmp_path / "in"
    run = run or toy_run()
    plane = planes.choose_plane(run, None)
    paths, _ = files.find_inputs(source, plane)
    return files.predict_files(run, plane, paths, source, tmp_path / "out", **options)[0]


def ml(label, structure="lv_cavity"):
    return (label == anatomy.LABEL_ID[structure]).sum() * 2 * 2 * 8 / 1000


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["heart.nii.gz", "deep/heart.nii"])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (0, 0)])
def test_labels_keep_the_exact_geometry(tmp_path, kind, name, codes):
    label = toy_label()
    image = kind(toy_image(label), None if codes == (0, 0) else AFFINE)
    image.set_qform(AFFINE, codes[0])
    image.set_sform(AFFINE, codes[1])
    if codes == (0, 0):  # then the header's spacing alone is the geometry
        image.header["pixdim"][1:4] = (2.0, 2.0, 8.0)
    image.header["descrip"] = b"Somebody"
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    nib.save(image, path)
    assert predict_folder(tmp_path) == []
    read, out = nib.load(path), nib.load(tmp_path / "out" / name)
    assert type(out) is kind and out.shape == read.shape and out.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(out.affine, read.affine)
    for field in (
        "pixdim",
        "qform_code",
        "sform_code",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "qoffset_x",
        "xyzt_units",
    ):
        np.testing.assert_array_equal(out.header[field], read.header[field], err_msg=field)
    assert out.header["descrip"].item() == b""
    np.testing.assert_array_equal(np.asarray(out.dataobj), label)


def test_scaled_integers_are_read_in_their_units_and_labels_are_not_scaled(tmp_path):
    label = toy_label()
    image = nib.Nifti1Image(toy_image(label), AFFINE)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, -20)
    path = tmp_path / "in" / "heart.nii.gz"
    path.parent.mkdir()
    nib.save(image, path)
    assert nib.load(path).dataobj.slope == 0.5
    assert predict_folder(tmp_path) == []
    out = nib.load(tmp_path / "out" / "heart.nii.gz").dataobj
    assert (out.slope, out.inter) == (1, 0)
    np.testing.assert_array_equal(out.get_unscaled(), label)


def test_integers_too_large_for_32_bit_floats_are_left_out(tmp_path):
    path = tmp_path / "in" / "heart.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(toy_image(toy_label()).astype(np.int32) + 2**30, AFFINE), path)
    (problem,) = predict_folder(tmp_path)
    assert problem.startswith(f"{path}: grey values from 1.07374182e+09") and problem.isprintable()
    assert not (tmp_path / "out" / "heart.nii.gz").exists()


@pytest.mark.parametrize("kind", cohorts.BLACK)
@pytest.mark.parametrize("frames", [1, 3])
def test_a_black_image_is_mentioned(tmp_path, kind, frames):
    write(tmp_path / "in" / "heart.nii.gz", toy_image(toy_label()))
    assert _notes(tmp_path) == []
    black = cohorts.BLACK[kind]((40, 36, 5))
    image = black if frames == 1 else np.stack([toy_image(toy_label()), black, black], -1)
    path = write(tmp_path / "in" / "black.nii.gz", image)
    count = "1 of 1" if frames == 1 else "2 of 3"
    assert _notes(tmp_path) == [f"{path}: {geometry.BLACK} ({count} frames); do not use its labels"]


def _notes(tmp_path):
    """The notes about the files of a folder, with a run that does not show their first columns."""
    run = dataclasses.replace(toy_run(size=16), percentiles=(1.0, 99.0))
    paths, _ = files.find_inputs(tmp_path / "in", "sax")
    problems, notes = files.predict_files(run, "sax", paths, tmp_path / "in", tmp_path / "out", overwrite=True)
    assert not problems
    return [note for note in notes if note.startswith(str(tmp_path))]


def test_label_numbers_on_disk(tmp_path):
    label = toy_label()
    write(tmp_path / "in" / "heart.nii.gz", toy_image(label))
    assert predict_folder(tmp_path, labels="acdc") == []
    out = np.asarray(nib.load(tmp_path / "out" / "heart.nii.gz").dataobj)
    for number, structure in {1: "rv_cavity", 2: "lv_myocardium", 3: "lv_cavity"}.items():
        np.testing.assert_array_equal((out == number), (label == anatomy.LABEL_ID[structure]))


def test_a_convention_without_the_structure_is_refused():
    with pytest.raises(files.PredictError, match="sunnybrook has no number for lv_myocardium, rv_cavity"):
        files.disk_numbers(toy_run(), "sunnybrook")


def test_stack_volumes(tmp_path):
    label = toy_label()
    write(tmp_path / "in" / "heart.nii.gz", toy_image(label))
    predict_folder(tmp_path)
    row = pd.read_csv(tmp_path / "out" / "measures.csv").iloc[0]
    assert (row["file"], row["kind"], row["quality"]) == ("heart", "stack", "good")
    assert row["lv_cavity_ml"] == pytest.approx(ml(label), rel=1e-4)
    assert row["rv_cavity_ml"] == pytest.approx(ml(label, "rv_cavity"), rel=1e-4)


def test_cine_measures_and_volume_curve(tmp_path):
    frames = [toy_label(radius=r) for r in (7, 8, 5, 6)]  # ED is frame 1, ES frame 2
    cine = np.stack([toy_image(f) for f in frames], -1)
    write(tmp_path / "in" / "sa.nii.gz", cine, step=0.25)
    assert predict_folder(tmp_path) == []
    out = nib.load(tmp_path / "out" / "sa.nii.gz")
    assert out.shape == cine.shape and out.header["pixdim"][4] == 0.25
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(np.asarray(out.dataobj)[..., t], frame)
    curve = pd.read_csv(tmp_path / "out" / "volumes.csv")
    np.testing.assert_allclose(curve["lv_cavity_ml"], [ml(f) for f in frames], rtol=1e-4)
    row = pd.read_csv(tmp_path / "out" / "measures.csv").iloc[0]
    assert (row["kind"], int(row["ed"]), int(row["es"])) == ("cine", 1, 2)
    assert row["lv_ef_percent"] == pytest.approx(100 * (1 - ml(frames[2]) / ml(frames[1])), rel=1e-4)
    assert row["heart_rate"] == pytest.approx(60)  # four frames of 0.25 s: one beat a second
    assert row["lv_co_l_min"] == pytest.approx((ml(frames[1]) - ml(frames[2])) * 60 / 1000, rel=1e-4)


@pytest.mark.parametrize("names", [("sa_ES", "sa_ED"), ("p_frame12", "p_frame01")])
def test_two_files_of_one_heart_are_measured_together(tmp_path, names):
    small, large = toy_label(radius=5), toy_label(radius=8)
    for name, label in zip(names, (small, large), strict=True):
        write(tmp_path / "in" / f"{name}.nii.gz", toy_image(label))
    write(tmp_path / "in" / "other" / f"{names[0]}.nii.gz", toy_image(small))  # another folder, another heart
    predict_folder(tmp_path)
    table = pd.read_csv(tmp_path / "out" / "measures.csv").set_index("kind")
    row = table.loc["frames"]
    assert row["file"] == names[0].rpartition("_")[0]
    assert [f"{row['file']}_{row[p]}" for p in ("es", "ed")] == list(names)
    assert row["lv_ef_percent"] == pytest.approx(100 * (1 - ml(small) / ml(large)), rel=1e-4)
    assert table.loc["stack", "lv_cavity_ml"] == pytest.approx(ml(small), rel=1e-4)


def test_an_ef_without_a_cavity_is_missing(tmp_path):
    frames = [toy_image(toy_label(radius=8)), toy_image(np.zeros((40, 36, 5), np.uint8))]
    write(tmp_path / "in" / "sa.nii.gz", np.stack(frames, -1))
    predict_folder(tmp_path)
    row = pd.read_csv(tmp_path / "out" / "measures.csv").iloc[0]
    assert math.isnan(row["lv_ef_percent"]) and row["lv_esv_ml"] == 0
    assert (row["quality"], row["reasons"]) == ("look", "ES: no LV cavity; ES: no LV myocardium; ES: no RV cavity")


def test_long_axis_plane(tmp_path):
    structures = ("la_cavity", "ra_cavity")
    run = toy_run("la_4ch", structures)
    label = toy_label((40, 36, 1), structures=structures)
    larger = toy_label((40, 36, 1), radius=9, structures=structures)  # the atrium is largest at the end of systole
    frames = [toy_image(x, structures) for x in (larger, label)]
    write(tmp_path / "in" / "la_4ch.nii.gz", np.stack(frames, -1))
    write(tmp_path / "in" / "sa.nii.gz", toy_image(toy_label()))
    paths, notes = files.find_inputs(tmp_path / "in", "la_4ch")
    assert [p.name for p in paths] == ["la_4ch.nii.gz"] and "planes other than la_4ch" in notes[0]
    assert predict_folder(tmp_path, run=run) == []
    area = (label == anatomy.LABEL_ID["la_cavity"]).sum() * 4 / 100
    assert pd.read_csv(tmp_path / "out" / "volumes.csv")["la_cavity_cm2"][1] == pytest.approx(area, rel=1e-4)
    row = pd.read_csv(tmp_path / "out" / "measures.csv").iloc[0]
    assert (int(row["ed"]), int(row["es"])) == (1, 0) and 0 < row["la_volume_ed_ml"] < row["la_volume_es_ml"]
    problems = predict_folder(tmp_path, source=tmp_path / "in" / "sa.nii.gz", run=run, overwrite=True)
    assert len(problems) == 1 and "5 slices" in problems[0] and "sa.nii.gz" in problems[0]


def test_a_long_axis_for_a_short_axis_run_is_left_out_unless_the_plane_is_stated(tmp_path, monkeypatch, capsys):
    write(tmp_path / "in" / "good.nii.gz", toy_image(toy_label()))
    single = write(tmp_path / "in" / "single.nii.gz", toy_image(toy_label((40, 36, 1))))
    named = write(tmp_path / "in" / "x_4CH.nii.gz", toy_image(toy_label()))
    monkeypatch.setattr(work, "load_ensemble", lambda *_: toy_run())
    base = ["--run=r", f"--input={tmp_path / 'in'}"]
    assert predict.main([*base, f"--output={tmp_path / 'out'}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in lines if line.startswith("left out: ")] == [
        f"left out: {single}: a single slice, and the run segments short-axis stacks: it may be a long axis",
        f"left out: {named}: its name says la_4ch, and the run segments sax",
    ]
    assert list(pd.read_csv(tmp_path / "out" / "measures.csv")["file"]) == ["good"]
    assert predict.main([*base, f"--output={tmp_path / 'all'}", "--plane=sax"]) == 0
    assert list(pd.read_csv(tmp_path / "all" / "measures.csv")["file"]) == ["good", "single", "x_4CH"]


def test_largest_component():
    label = np.zeros((8, 8, 3), np.uint8)
    label[:3, :3] = 1
    label[6:, 6:, 0] = 1
    label[0, 7, 0] = 2  # the only piece of its structure stays
    label[3, 3, 0] = 1  # touches by a corner only
    expected = label.copy()
    expected[6:, 6:, 0] = expected[3, 3, 0] = 0
    kept, islands = segmenter.largest_components(label)
    np.testing.assert_array_equal(kept, expected)
    assert islands == pytest.approx({"lv_cavity": 5 / 32, "lv_myocardium": 0})
    kept, islands = segmenter.largest_components(np.zeros((2, 2, 2), np.uint8))
    assert not kept.any() and islands == {}


def test_largest_component_option_reaches_the_files(tmp_path):
    label = toy_label()
    label[36:38, 2:4, 2] = LV
    write(tmp_path / "in" / "heart.nii.gz", toy_image(label))
    predict_folder(tmp_path, run=dataclasses.replace(toy_run(), largest_component=True))
    out = np.asarray(nib.load(tmp_path / "out" / "heart.nii.gz").dataobj)
    assert (out[36:38, 2:4, 2] == 0).all() and (out == LV).any()


def damage(folder):
    image = toy_image(toy_label())
    content = write(folder / "a_good.nii.gz", image).read_bytes()
    (folder / "b_truncated.nii.gz").write_bytes(content[: len(content) // 2])
    (folder / "c_text.nii").write_text("this is not an image")
    (folder / "d_not_gzip.nii.gz").write_bytes(gzip.decompress(content))
    nan = image.copy()
    nan[5, 5, 2] = np.nan
    write(folder / "e_nan.nii.gz", nan)
    write(folder / "f_five_axes.nii.gz", np.zeros((8, 8, 2, 2, 2)))
    raw = bytearray(gzip.decompress(content))
    raw[80:84] = np.float32(0).tobytes()  # pixdim[1]
    (folder / "g_spacing.nii").write_bytes(raw)
    write(folder / "h_other_axis.nii.gz", np.moveaxis(image, 2, 0), np.diag([8.0, 2.0, 2.0, 1.0]))
    (folder / "i_empty.nii.gz").write_bytes(b"")


def test_bad_files_are_reported_and_left_out(tmp_path):
    damage(tmp_path / "in")
    problems = predict_folder(tmp_path)
    for bad, problem in zip("bcdefghi", problems, strict=True):
        assert f"in/{bad}_" in problem, problem
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_good.nii.gz", "measures.csv", "volumes.csv"]
    assert list(pd.read_csv(tmp_path / "out" / "measures.csv")["file"]) == ["a_good"]


def test_labels_in_the_input_are_skipped(tmp_path):
    for name in ("p_frame01", "p_frame01_gt", "label_sa_ED", "seg_sa_ED", "seg4_la_4ch_ED"):
        write(tmp_path / "in" / f"{name}.nii.gz", np.zeros((4, 4, 2)))
    paths, notes = files.find_inputs(tmp_path / "in", "sax")
    assert [p.name for p in paths] == ["p_frame01.nii.gz"] and notes == ["skipped: 4 files named as labels"]


def test_linked_folders_are_searched_once(tmp_path):
    write(tmp_path / "elsewhere" / "heart.nii.gz", toy_image(toy_label()))
    write(tmp_path / "in" / "own.nii.gz", toy_image(toy_label()))
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")  # a circle
    assert predict_folder(tmp_path) == []
    assert list(pd.read_csv(tmp_path / "out" / "measures.csv")["file"]) == ["linked/heart", "own"]


def test_other_files_are_mentioned(tmp_path):
    write(tmp_path / "in" / "heart.nii.gz", toy_image(toy_label()))
    for name in ("b.NII.GZ", "c.dcm", "._heart.nii.gz"):
        (tmp_path / "in" / name).write_bytes(b"x")
    paths, notes = files.find_inputs(tmp_path / "in", "sax")
    assert [p.name for p in paths] == ["heart.nii.gz"]
    assert notes == ["skipped: 3 hidden files, or not named .nii or .nii.gz, such as ._heart.nii.gz"]


def test_whatever_a_file_raises_concerns_it_alone(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write(tmp_path / "in" / f"{name}.nii.gz", toy_image(toy_label()))
    segment = files.segment

    def broken(run, plane, path, name, stated):
        if name == "b":
            raise KeyError(57)
        return segment(run, plane, path, name, stated)

    monkeypatch.setattr(files, "segment", broken)
    (problem,) = predict_folder(tmp_path)
    assert problem == f"{tmp_path}/in/b.nii.gz: KeyError: 57"
    assert list(pd.read_csv(tmp_path / "out" / "measures.csv")["file"]) == ["a", "c"]


@pytest.mark.parametrize("code", [2, 66, 58])
def test_odd_units_of_time_give_no_heart_rate(tmp_path, code):
    cine = np.stack([toy_image(toy_label(radius=r)) for r in (8, 5)], -1)
    path = write(tmp_path / "in" / "sa.nii.gz", cine, step=0.5)
    _header(path, unit=code)
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[123] = code
    path.write_bytes(gzip.compress(bytes(data)))
    assert predict_folder(tmp_path) == []
    assert math.isnan(pd.read_csv(tmp_path / "out" / "measures.csv")["heart_rate"][0])


def _header(path, sform=None, unit=None):
    """Changes the bytes of a header, with which nibabel would not save."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    if sform is not None:
        data[254:256] = struct.pack("<h", 1)
        data[280:328] = np.asarray(sform[:3], "<f4").tobytes()
    if unit is not None:
        data[123] = data[123] & ~7 | unit
    path.write_bytes(gzip.compress(bytes(data)))


def test_a_shear_is_left_out(tmp_path):
    path = write(tmp_path / "in" / "heart.nii.gz", toy_image(toy_label()))
    affine = nib.load(path).affine.copy()
    affine[:3, 2] = np.linalg.norm(affine[:3, 2]) * np.array([np.sin(0.26), 0, np.cos(0.26)])
    _header(path, affine)
    (problem,) = predict_folder(tmp_path)
    assert "two axes of the affine" in problem and str(path) in problem


def test_volumes_are_in_the_unit_of_the_header(tmp_path):
    label = toy_label()
    path = tmp_path / "in" / "heart.nii.gz"
    path.parent.mkdir()
    affine = AFFINE.copy()
    affine[:3] /= 1000
    nib.save(nib.Nifti1Image(toy_image(label), affine), path)
    _header(path, unit=1)
    assert predict_folder(tmp_path) == []
    row = pd.read_csv(tmp_path / "out" / "measures.csv").iloc[0]
    assert row["lv_cavity_ml"] == pytest.approx(ml(label), rel=1e-4)
    assert nib.load(tmp_path / "out" / "heart.nii.gz").header.get_xyzt_units()[0] == "meter"


def test_notes_about_headers_are_returned(tmp_path):
    path = write(tmp_path / "in" / "heart.nii.gz", toy_image(toy_label()))
    image = nib.load(path)
    image.set_qform(image.affine, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    _header(path, np.eye(4))
    problems, notes = files.predict_files(toy_run(), "sax", [path], path.parent, tmp_path / "out")
    assert problems == [] and notes == [f"{path}: {QFORM_NOTE}"]


def test_missing_inputs_are_refused(tmp_path):
    with pytest.raises(files.PredictError, match="no such file"):
        files.find_inputs(tmp_path / "nowhere", "sax")
    with pytest.raises(files.PredictError, match="no image of sax"):
        files.find_inputs(tmp_path, "sax")


def test_overwriting_needs_the_flag(tmp_path):
    path = write(tmp_path / "in" / "heart.nii.gz", toy_image(toy_label()))
    with pytest.raises(files.PredictError, match="overwrite the images"):
        files.predict_files(toy_run(), "sax", [path], tmp_path / "in", tmp_path / "in", overwrite=True)
    predict_folder(tmp_path)
    with pytest.raises(files.PredictError, match="already exists"):
        predict_folder(tmp_path)
    assert predict_folder(tmp_path, overwrite=True) == []
    write(tmp_path / "in" / "heart.nii", toy_image(toy_label()))
    with pytest.raises(files.PredictError, match="both exist"):
        predict_folder(tmp_path, overwrite=True)


def test_a_failed_write_leaves_no_file(tmp_path, monkeypatch):
    write(tmp_path / "in" / "heart.nii.gz", toy_image(toy_label()))

    def full(image, path):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(files.nib, "save", full)
    with pytest.raises(files.PredictError, match=r"out/heart.nii.gz: cannot be written \(no space"):
        predict_folder(tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_heart_rate_needs_a_unit_and_a_sane_step():
    header = nib.Nifti1Header()
    header["pixdim"][4] = 0.02
    header.set_xyzt_units("mm", "sec")
    assert files.heart_rate(header, 50) == pytest.approx(60)
    assert math.isnan(files.heart_rate(header, 1)) and math.isnan(files.heart_rate(header, 2))
    header.set_xyzt_units("mm", "msec")
    assert math.isnan(files.heart_rate(header, 50))
    header.set_xyzt_units("mm", "unknown")
    assert math.isnan(files.heart_rate(header, 50))


def test_exit_codes(tmp_path, monkeypatch, capsys):
    damage(tmp_path / "in")
    monkeypatch.setattr(work, "load_ensemble", lambda *_: toy_run())
    base = ["--run=r", f"--input={tmp_path / 'in'}"]
    assert predict.main([*base, f"--output={tmp_path / 'out'}"]) == 1
    captured = capsys.readouterr()
    assert "1 of 9 files segmented" in captured.out and "need a look" not in captured.out
    assert captured.err.count("left out:") == 8
    assert predict.main([*base, f"--output={tmp_path / 'one'}", "--pattern=a_*"]) == 0
    assert predict.main([*base, f"--output={tmp_path / 'two'}", "--labels=sunnybrook"]) == 2
    assert "no number for" in capsys.readouterr().err

    def missing(directories, *_):
        raise RunError(f"{directories[0]}/config.json: not found")

    monkeypatch.setattr(work, "load_ensemble", missing)
    assert predict.main([*base, f"--output={tmp_path / 'three'}"]) == 2
    assert "r/config.json" in capsys.readouterr().err and not (tmp_path / "three").exists()


def test_an_unusable_sform_beside_the_qform_is_copied(tmp_path):
    """The reader uses the qform, and the label has the header of the image, bit for bit."""
    path = tmp_path / "heart.nii"
    image = nib.Nifti1Image(toy_image(toy_label()), AFFINE)
    image.set_qform(AFFINE, 1)
    nib.save(image, path)
    data = bytearray(path.read_bytes())
    data[312:316] = struct.pack("<f", math.nan)  # srow_z
    path.write_bytes(data)
    assert predict_folder(tmp_path, source=path) == []
    out = (tmp_path / "out/heart.nii").read_bytes()
    assert out[252:328] == data[252:328] and out[76:108] == data[76:108]  # qform and sform; pixdim

"""`morphojax.load`: arrays in memory are treated as `predict` treats files."""

import dataclasses
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import morphojax
from morphojax import anatomy, library, predict
from morphojax.data.store.dataset import Dataset
from morphojax.inference import embed
from morphojax.library import Model
from morphojax.train.run import DIGESTS, RunError
from tests.brightness import Cohort
from tests.data.cohorts import AFFINE
from tests.toy_run import toy_image, toy_label, toy_run

ROOT = Path(__file__).parents[1]
LONG = ("la_cavity", "ra_cavity")


@pytest.fixture(scope="module")
def model(segmented: Path) -> Model:
    return morphojax.load(segmented, "last")


def toy_model(*planes: str, structures=anatomy.PLANE_STRUCTURES["sax"]) -> Model:
    """A model of the toy run, whose labels follow from the grey values."""

    def no_encoder():
        raise AssertionError

    return Model(Path("toy"), toy_run(planes[0], structures, spacing=2.0), planes, no_encoder)


TOY_AFFINE = np.diag([-2.0, -2.0, 8.0, 1.0])


def test_the_package_has_the_names_of_the_library_alone() -> None:
    """That importing it does not import JAX is in tests/test_package.py."""
    assert {name: getattr(morphojax, name) for name in morphojax.__all__} == {
        name: getattr(library, name) for name in ("Model", "ModelError", "load")
    }
    with pytest.raises(AttributeError, match="module 'morphojax' has no attribute 'nothing'"):
        _ = morphojax.nothing


@pytest.mark.parametrize("shape", [(40, 36), (40, 36, 1), (40, 36, 5), (40, 36, 5, 3), (40, 36, 5, 1)])
def test_masks_have_the_shape_of_the_image(shape) -> None:
    depth, frames = [*shape, 1, 1][2:4]
    labels = [toy_label((40, 36, depth), radius=6 + t) for t in range(frames)]
    image = np.stack([toy_image(label) for label in labels], -1).reshape(shape, order="F")
    mask = toy_model("sax").segment(image, TOY_AFFINE)
    assert mask.dtype == np.uint8 and mask.shape == shape
    np.testing.assert_array_equal(mask, np.stack(labels, -1).reshape(shape, order="F"))


def test_a_long_axis(tmp_path: Path) -> None:
    model = toy_model("la_2ch", "la_4ch", structures=LONG)
    label = toy_label((40, 36, 1), structures=LONG)
    image = toy_image(label, LONG)
    np.testing.assert_array_equal(model.segment(image[..., 0], TOY_AFFINE, plane="la_4ch"), label[..., 0])
    cine = np.stack([image, image], -1)
    assert model.segment(cine, TOY_AFFINE, plane="la_4ch").shape == (40, 36, 1, 2)
    area = 4 * (label == anatomy.LABEL_ID["ra_cavity"]).sum() / 100
    assert model.measures(label[..., 0], (2, 2, 8), plane="la_4ch")["ra_cavity_cm2"] == pytest.approx(area)
    only_la = set(np.unique(model.segment(image, TOY_AFFINE, plane="la_2ch")))
    assert only_la <= {0, anatomy.LABEL_ID["la_cavity"]}
    for call in (model.segment, model.measures):
        with pytest.raises(morphojax.ModelError, match="plane=None: the run has la_2ch, la_4ch; give the plane"):
            call(label, TOY_AFFINE)
    with pytest.raises(ValueError, match="image: 5 slices, and an image of la_4ch has one"):
        model.segment(toy_image(toy_label()), TOY_AFFINE, plane="la_4ch")


def test_the_same_as_predict(model: Model, segmented: Path, tmp_path: Path) -> None:
    """Of the same file: labels, and measures of the cine."""
    cine = np.random.default_rng(0).integers(0, 1000, (32, 28, 5, 2)).astype(np.int16)
    image = nib.Nifti1Image(cine, np.diag([-5.0, -4.0, 8.0, 1.0]))
    image.header.set_slope_inter(0.5, -20)
    path = tmp_path / "heart.nii.gz"
    nib.save(image, path)
    flags = [f"--run={segmented}", "--checkpoint=last", f"--input={path}", f"--output={tmp_path / 'out'}"]
    assert predict.main(flags) == 0
    expected = np.asarray(nib.load(tmp_path / "out" / path.name).dataobj)
    read = nib.load(path)
    assert np.ptp(expected) > 0
    array, memory = np.asarray(read.dataobj), nib.Nifti1Image(np.asarray(read.dataobj), read.affine)
    for mask in (model.segment(read), model.segment(memory), model.segment(array, read.affine)):
        np.testing.assert_array_equal(mask, expected)
    row = pd.read_csv(tmp_path / "out" / "measures.csv").iloc[0].drop(["file", "kind", "reasons"])
    own = model.measures(expected, read.affine)
    assert [k for k in own if k != "reasons"] == list(row.index)
    for key, value in row.items():
        assert own[key] == (value if key == "quality" else pytest.approx(value, rel=1e-4, nan_ok=True)), key


def test_lists(model: Model) -> None:
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=(30, 30, 4)), draw.normal(size=(20, 24, 3))
    other = np.diag([-3.0, -3.0, 8.0, 1.0])
    for affines in (AFFINE, AFFINE.tolist(), [AFFINE, AFFINE]):
        masks, vectors = model.segment([one, two], affines), model.embed((one, two), affines)
        for image, mask, vector in zip((one, two), masks, vectors, strict=True):
            np.testing.assert_array_equal(mask, model.segment(image, AFFINE))
            np.testing.assert_array_equal(vector, model.embed(image, AFFINE))
    mixed = model.segment([nib.Nifti1Image(one, other), two], [None, AFFINE])
    np.testing.assert_array_equal(mixed[0], model.segment(one, other))
    with pytest.raises(morphojax.ModelError, match="affine: a list of 1 for 2 images"):
        model.segment([one, two], [AFFINE])
    two[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 1: 1 voxels are NaN or infinite"):
        model.segment([one, two], AFFINE)


def test_embeddings_are_those_of_the_dataset(model: Model, segmented: Path, brightness: Path) -> None:
    """Raw images of the cohort, against its prepared slices; subject 2 has more slices than 3."""
    expected = embed.embed(embed.load_encoder(segmented), Dataset.open(brightness), subjects=[1, 2], slices=3)
    for subject, values in zip(expected.subject, expected.values, strict=True):
        image = Cohort().read(f"secret{subject:02d}", ("sax",)).views["sax"].frames[0].image
        vector = model.embed(image, AFFINE, slices=3)
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, values, rtol=1e-5, atol=1e-6)
        depth = image.shape[2]  # 3 and 4: the batch of 8 is padded, and padding does not count
        expected_of_all = model.embed(image, AFFINE, slices=depth)
        np.testing.assert_allclose(model.embed(image, AFFINE, slices=8), expected_of_all, rtol=1e-5, atol=1e-6)
    assert np.abs(expected.values[0] - expected.values[1]).max() > 1e-3


def test_measures_of_a_pair_and_of_a_cine() -> None:
    model = toy_model("sax")
    large, small = (toy_label((40, 36, 8), radius=r) for r in (8, 5))
    volumes = [(x == 1).sum() * 32 / 1000 for x in (large, small)]
    pair = model.measures((large, small), (2.0, 2.0, 8.0), heart_rate=60)
    assert pair["lv_ef_percent"] == pytest.approx(100 * (1 - volumes[1] / volumes[0]))
    assert pair["lv_co_l_min"] == pytest.approx(60 * (volumes[0] - volumes[1]) / 1000)
    assert not {"file", "kind", "ed", "es"} & pair.keys()
    cine = model.measures(np.stack([small, large], -1), TOY_AFFINE, heart_rate=60)
    assert (cine.pop("ed"), cine.pop("es"), cine.pop("heart_rate")) == (1, 0, 60)
    assert cine.pop("quality") == pair.pop("quality") == "good" and cine.pop("reasons") == pair.pop("reasons") == ""
    assert cine == pytest.approx(pair, nan_ok=True)
    assert model.measures((small, large), TOY_AFFINE)["reasons"].startswith("LV larger at ES than at ED")


def test_two_threads_give_the_results_of_one(model: Model, segmented: Path) -> None:
    """From the first call of a new model on, which compiles it and loads the encoder."""
    threaded = morphojax.load(segmented, "last")
    draw = np.random.default_rng(0)
    images = [draw.normal(size=(28 + n, 30, 3 + n % 3)) for n in range(6)]

    def both(image):
        return threaded.segment(image, AFFINE), threaded.embed(image, AFFINE)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(both, images))
    for image, (mask, vector) in zip(images, results, strict=True):
        np.testing.assert_array_equal(mask, model.segment(image, AFFINE))
        np.testing.assert_array_equal(vector, model.embed(image, AFFINE))


STACK = np.random.default_rng(0).normal(size=(20, 24, 4))
SHEARED = np.array([[1.5, 0, 3.0, 0], [0, 1.5, 0, 0], [0, 0, 8.0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("segment", (STACK,), "image: an array needs `affine`"),
        ("segment", (nib.Nifti1Image(STACK, AFFINE), AFFINE), "image: a nibabel image has an affine of its own"),
        ("segment", (nib.MGHImage(STACK.astype(np.float32), AFFINE),), "image: not a NIfTI image but MGHImage"),
        ("segment", (STACK, np.eye(3)), r"image: an affine of shape \(3, 3\); give 4 x 4 numbers"),
        ("segment", (STACK, 0 * AFFINE), "image: voxels of 0 x 0 x 0 mm"),
        ("segment", (STACK, SHEARED), "image: two axes of the affine have a cosine"),
        ("segment", (STACK, AFFINE[[2, 1, 0, 3]][:, [2, 1, 0, 3]]), "image: the slices seem to lie along axis 0"),
        ("segment", (STACK > 0, AFFINE), "image: voxels of type bool are not grey values"),
        ("segment", (STACK[0, 0], AFFINE), r"image: has shape \(4,\)"),
        ("segment", (STACK[..., None, None, None].repeat(2, -1), AFFINE), r"image: has shape \(20, 24, 4, 1, 1, 2\)"),
        (
            "embed",
            (np.stack([STACK, STACK], -1), AFFINE),
            r"image: a cine of 2 frames; embed one of them, image\[..., t\]",
        ),
        ("measures", ([np.ones((4, 4, 2), int)], AFFINE), "masks: a list of 1; give one mask, or the two"),
        ("measures", (STACK, AFFINE), r"masks: float64 of shape \(20, 24, 4\); give whole numbers"),
        ("measures", (np.full((4, 4, 2), 6), AFFINE), "masks: ids from 6 to 6; canonical ids are 0 to 5"),
        ("measures", (np.ones((4, 4, 2), int), (1.5, 1.5)), r"affine: float64 of shape \(2,\)"),
        ("measures", (np.ones((4, 4, 2), int), (1.5, 0, 8)), r"affine: a spacing of \[1.5, 0.0, 8.0\] mm; it must be"),
        ("measures", ([np.ones((4, 4, 2, 2), int)] * 2, AFFINE), "masks_ED: a cine of 2 frames in a pair"),
    ],
)
def test_bad_arguments_are_named_in_one_line(model: Model, call, arguments, message) -> None:
    with pytest.raises(ValueError, match="^" + message) as error:
        getattr(model, call)(*arguments)
    assert len(str(error.value).splitlines()) == 1


def test_other_bad_arguments(model: Model, segmented: Path, tmp_path: Path) -> None:
    with pytest.raises(morphojax.ModelError, match="checkpoint='first' is unknown: choose best or last"):
        morphojax.load(segmented, "first")
    with pytest.raises(ValueError, match="weights='mine' is unknown: choose model or ema"):
        morphojax.load(segmented, weights="mine")
    with pytest.raises(RunError, match=r"preprocessing.json: not found"):
        morphojax.load(tmp_path)
    with pytest.raises(morphojax.ModelError, match="plane='la_4ch': the run has sax; give the plane"):
        model.segment(STACK, AFFINE, plane="la_4ch")
    with pytest.raises(morphojax.ModelError, match="slices=0: at least one is needed"):
        model.embed(STACK, AFFINE, slices=0)


def test_weights_and_components_are_those_asked_for(model: Model, segmented: Path) -> None:
    ema = morphojax.load(segmented, "last", "ema", largest_component=False)
    assert not np.array_equal(ema.embed(STACK, AFFINE), model.embed(STACK, AFFINE))
    whole = morphojax.load(segmented, "last", largest_component=False).segment(STACK, AFFINE)
    assert (whole > 0).sum() > (model.segment(STACK, AFFINE) > 0).sum()


def test_a_run_that_does_not_segment_only_embeds(model: Model, segmented: Path, tmp_path: Path) -> None:
    for path in segmented.iterdir():
        if path.name not in ("preprocessing.json", DIGESTS):
            (tmp_path / path.name).symlink_to(path)
    images = json.loads((segmented / "preprocessing.json").read_text())
    (tmp_path / "preprocessing.json").write_text(json.dumps(images | {"structures": []}))
    run = morphojax.load(tmp_path, "last")
    np.testing.assert_array_equal(run.embed(STACK, AFFINE), model.embed(STACK, AFFINE))
    assert run.structures == ()
    for call in (run.segment, run.measures):
        with pytest.raises(RunError, match="is no segmentation run, and can only embed"):
            call(STACK, AFFINE)


def test_the_encoder_is_loaded_once(segmented: Path) -> None:
    encoder, loads = embed.load_encoder(segmented), []

    def load():
        loads.append(1)
        time.sleep(0.05)
        return dataclasses.replace(encoder, channels="cycle")

    run = Model(segmented, None, ("sax",), load)

    def refused(_) -> str:
        with pytest.raises(RunError) as error:
            run.embed(STACK, AFFINE)
        return str(error.value)

    with ThreadPoolExecutor(4) as pool:
        errors = set(pool.map(refused, range(4)))
    assert loads == [1]
    assert errors == {f"{segmented}: its encoder reads frames as channels; `morphojax probe` embeds with it"}


def test_the_page_runs(segmented: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """All code of docs/library.md, in its order, with the run and the image that it names."""
    code = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "library.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(code) >= 8
    (tmp_path / "runs").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "runs" / "segment_sax").symlink_to(segmented)
    nib.save(nib.Nifti1Image(STACK, AFFINE), tmp_path / "images" / "heart.nii.gz")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in code:
        exec(block, names)
    assert "image: an array needs `affine`, 4 x 4 numbers, voxel -> mm\n" in capsys.readouterr().out
    assert names["vectors"].shape == (2, *names["vector"].shape) and names["vector"].dtype == np.float32

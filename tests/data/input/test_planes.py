"""Several planes of a subject in one dataset: present, absent, and partly annotated."""

from pathlib import Path

import numpy as np
import pytest

from morphojax import anatomy
from morphojax.data.geometry import Grid
from morphojax.data.input.stream import StreamError
from morphojax.data.input.subjects import CHANNELS
from morphojax.data.sources.synthetic import generate
from morphojax.data.sources.ukb_nifti import UkbNifti
from morphojax.data.store.dataset import Dataset
from tests.data.input.streams import pretraining, segmentation
from tests.data.preparing import prepare

SUBJECTS = 5
ATRIA = ("la_cavity", "ra_cavity")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five hearts: the first without a 2-chamber view, the second without a short axis. The last
    two have only atria annotated in the 4-chamber view, with the numbers of such files.
    """
    import nibabel as nib

    root = tmp_path_factory.mktemp("planes") / "cohort"
    generate(root, subjects=SUBJECTS, seed=3, workers=1)
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    for path in [*folders[0].glob("*la_2ch*"), *folders[1].glob("*sa.nii.gz"), *folders[1].glob("*sa_*")]:
        path.unlink()
    for folder in folders[3:]:
        for path in folder.glob("seg4_la_4ch_*"):
            image = nib.load(path)
            four = np.asarray(image.dataobj)
            two = np.where(four == 4, 1, np.where(four == 5, 2, 0)).astype(np.uint8)
            nib.save(nib.Nifti1Image(two, image.affine, image.header), folder / path.name.replace("seg4_", "label_"))
            path.unlink()
    return root


@pytest.fixture(scope="module")
def dataset(cohort: Path) -> Dataset:
    out = cohort.parent / "dataset"
    prepare(
        UkbNifti(cohort), out, name="ukb_nifti", planes=anatomy.PLANES, grid=Grid(5.0, 32), workers=1, progress=False
    )
    return Dataset.open(out)


def stream(dataset: Dataset, planes=anatomy.PLANES, train=True, **options):
    n = len(dataset.subjects)
    defaults = {"values": np.zeros((n, 0)), "missing": np.zeros((n, 0), bool), "subjects": range(n), "batch_size": n}
    return pretraining(dataset, planes=planes, seed=1, train=train, **defaults | {"slices": 3} | options)


def only(made):
    batch = next(made)
    made.close()
    order = np.argsort(batch["subject"])
    return {name: x[order] for name, x in batch.items()}


def test_planes_are_named_once_in_their_order():
    assert anatomy.parse_planes("la_4ch, sax") == ("sax", "la_4ch")
    for wrong in ("", "sax,sax", "la_3ch"):
        with pytest.raises(ValueError, match="sax, la_2ch, la_4ch"):
            anatomy.parse_planes(wrong)


def test_every_plane_has_its_columns_and_a_missing_one_is_masked(dataset):
    batch = only(stream(dataset))
    assert batch["image"].shape[:2] == (SUBJECTS, 5)  # three of the short axis, one of each long axis
    mask = np.ones((SUBJECTS, 5), bool)
    mask[0, 3], mask[1, :3] = False, False
    np.testing.assert_array_equal(batch["slice_mask"], mask)
    assert not batch["image"][~mask].any() and batch["image"][mask].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_column_shows_what_its_plane_alone_would(dataset, channels):
    together = only(stream(dataset, train=False, channels=channels))
    at = 0
    for plane in anatomy.PLANES:
        alone = only(stream(dataset, (plane,), train=False, channels=channels, batch_size=SUBJECTS))
        k = alone["image"].shape[1]
        rows = np.searchsorted(together["subject"], alone["subject"][alone["valid"]])
        for name in ("image", "slice_mask", "position"):
            np.testing.assert_array_equal(together[name][rows, at : at + k], alone[name][alone["valid"]], err_msg=name)
        at += k


def test_planes_are_dropped_in_training_and_one_is_kept(dataset):
    made = stream(dataset, plane_dropout=0.5)
    ends = np.cumsum([3, 1, 1])[:-1]
    shown = np.concatenate([
        np.stack([part.any(1) for part in np.split(only(made)["slice_mask"], ends, axis=1)], 1) for _ in range(40)
    ])  # fmt: skip
    assert shown.any(1).all()
    present = np.tile(only(stream(dataset))["slice_mask"][:, [0, 3, 4]], (40, 1))
    assert not (shown & ~present).any()
    # Of three planes each is kept half of the time, and a third of an eighth more, where all would
    # have gone.
    all_three = present.all(1)
    assert abs(shown[all_three].mean() - (1 / 2 + 1 / 24)) < 0.08
    evaluated = only(stream(dataset, train=False, plane_dropout=0.5))["slice_mask"]
    np.testing.assert_array_equal(evaluated, only(stream(dataset, train=False))["slice_mask"])


def test_an_impossible_dropout_is_refused(dataset):
    with pytest.raises(StreamError, match="plane_dropout=1"):
        stream(dataset, plane_dropout=1.0)


def test_a_structure_counts_where_it_was_annotated(dataset):
    assert dataset.manifest.labelled["la_4ch"] == anatomy.STRUCTURES
    assert any("la_4ch: only some" in message for message in dataset.manifest.warnings)
    annotated, stacks = dataset.annotated("la_4ch"), dataset.stacks("la_4ch")
    labelled, atria_alone = stacks["labelled"].to_numpy(), stacks["subject"].to_numpy() >= 3
    assert not annotated[~labelled].any() and annotated[labelled & ~atria_alone].all()
    assert (annotated[labelled & atria_alone] == [False, False, False, True, True]).all()


def test_segmentation_mixes_planes_and_knows_what_is_annotated(dataset):
    structures = ("lv_cavity", "la_cavity", "ra_cavity")
    made = segmentation(
        dataset,
        planes=anatomy.PLANES,
        structures=structures,
        subjects=range(SUBJECTS),
        batch_size=4,
        seed=0,
        train=False,
    )
    batches = list(made)
    examples = {name: np.concatenate([b[name][b["valid"]] for b in batches]) for name in batches[0]}
    assert set(examples["plane"]) == {0, 1, 2}
    sax, two, four = (examples["plane"] == i for i in range(3))
    assert examples["annotated"][sax].all()  # the short axis shows no atrium: it is background
    assert (
        examples["annotated"][two] == [False, True, True]
    ).all()  # the left ventricle is not annotated, and the right atrium is not in the plane
    late = four & (examples["subject"] >= 3)
    assert (examples["annotated"][late] == [False, True, True]).all() and examples["annotated"][four & ~late].all()
    label_ids = {name: anatomy.LABEL_ID[name] for name in anatomy.STRUCTURES}
    assert set(np.unique(examples["label"][late])) <= {0, label_ids["la_cavity"], label_ids["ra_cavity"]}
    ventricle = segmentation(
        dataset,
        planes=("la_4ch",),
        structures=("lv_cavity",),
        subjects=range(SUBJECTS),
        batch_size=2,
        seed=0,
        train=False,
    )
    assert ventricle.examples == 6  # ED and ES of the three subjects in whom it was drawn

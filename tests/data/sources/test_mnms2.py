import pytest

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.mnms2 import Mnms2
from tests.data import cohorts
from tests.data.sources.challenge_files import mnms2, sheared


def test_table_and_splits(synthetic, tmp_path):
    root = cohorts.mnms2(synthetic, tmp_path)
    assert Mnms2(root).splits() == dict.fromkeys(("001", "002", "003", "004"), "train")
    frame, schema = Mnms2(root).table()
    assert list(frame.index) == ["001", "002", "003", "004"] and frame.loc["002", "field_tesla"] == 1.5
    assert schema.groups == ("medical_history", "acquisition")
    subject = Mnms2(root, frames="2").read("003", ("sax", "la_2ch"))
    assert subject.warnings == ("la_2ch: no images",) and [f.phase for f in subject.views["sax"].cine] == [
        "t000",
        "t001",
    ]
    assert Mnms2(root / "dataset").table() is not None
    (root / "dataset_information.csv").unlink()
    assert Mnms2(root).table() is None
    for old, new in (("001", "160"), ("002", "161"), ("003", "200"), ("004", "201")):
        (root / "dataset" / old).rename(root / "dataset" / new)
    assert Mnms2(root).splits() == {"160": "train", "161": "val", "200": "val", "201": "test"}
    (root / "dataset/201").rename(root / "dataset/361")
    with pytest.raises(CohortError, match="only the subjects 001 to 360"):
        Mnms2(root).splits()


def test_a_subject_without_a_cine(tmp_path):
    mnms2(tmp_path)
    subject = Mnms2(tmp_path, frames="4").read("007", ("sax", "la_4ch"))
    assert subject.warnings == ("sax: no cine", "la_4ch: no images")
    assert [f.phase for f in subject.views["sax"].frames] == ["ED", "ES"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cohorts.save(f / "007_SA_ED_gt.nii.gz", cohorts.label() + 4), "not in the convention mnms2"),
        (lambda f: cohorts.save(f / "007_SA_ES_gt.nii.gz", cohorts.label((20, 24, 3))), "label of shape"),
        (lambda f: cohorts.save(f / "007_SA_ES_gt.nii.gz", cohorts.label(), cohorts.AFFINE * 2), "affine differs|mm"),
        (lambda f: (f / "007_SA_ED.nii.gz").unlink(), "has no image 007_SA_ED"),
        (lambda f: [p.unlink() for p in f.glob("007_SA_ED*")], "no ED of the plane sax"),
        (lambda f: cohorts.save(f / "007_SA_CINE.nii.gz", cohorts.image((20, 24, 5, 3))), "shape .* differs"),
        (
            lambda f: cohorts.save(f / "007_SA_CINE.nii.gz", cohorts.image((20, 24, 4, 1))),
            "no time axis|are the same frame",
        ),
        (lambda f: cohorts.save(f / "007_SA_ES.nii.gz", cohorts.image(), sheared(0.2)), "cosine of 0.2"),
    ],
)
def test_bad_input_is_refused(tmp_path, damage, message):
    damage(mnms2(tmp_path))
    with pytest.raises(CohortError, match=message) as caught:
        Mnms2(tmp_path).read("007", ("sax",))
    assert "007" in str(caught.value)


def test_two_rows_of_a_subject_are_refused(tmp_path):
    mnms2(tmp_path)
    with (tmp_path / "dataset_information.csv").open("a") as file:
        file.write("7,ARR,GE,X,3\n")
    with pytest.raises(CohortError, match="line 3: this subject_code already has a row"):
        Mnms2(tmp_path).table()

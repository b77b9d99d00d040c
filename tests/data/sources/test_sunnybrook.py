import numpy as np
import pytest

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.sunnybrook import Sunnybrook
from tests.data.cohorts import image, label, save


@pytest.fixture
def root(tmp_path):
    for phase, slices in (("ED", 5), ("ES", 3)):
        save(tmp_path / f"S-1/sa_{phase}.nii.gz", image((16, 16, slices)))
        save(tmp_path / f"S-1/label_sa_{phase}.nii.gz", label((16, 16, slices), (1,)))
    (tmp_path / "participants.csv").write_text(
        "subject,sex,age_years,pathology,lv_edv_ml,lv_esv_ml,lv_ef_percent\nS-1,Male,53,Normal,135.2,100.8,25.4\n"
    )
    return tmp_path


def test_end_systole_may_have_fewer_slices(root):
    view = Sunnybrook(root).read("S-1", ("sax",)).views["sax"]
    assert [f.image.shape[2] for f in view.frames] == [5, 3]
    assert [f.phase for f in view.frames] == ["ED", "ES"]
    assert view.labelled == ("lv_cavity",) and set(np.unique(view.frames[0].label)) == {0, 1}


def test_table(root):
    frame, schema = Sunnybrook(root).table()
    assert frame.loc["S-1", "lv_edv_ml"] == 135.2
    assert set(schema.groups) == {"cardiac_morphometric", "demographic", "medical_history"}


def test_an_absent_es_is_a_warning_and_an_absent_ed_an_error(root):
    (root / "S-1/sa_ES.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"sa_ES.nii.gz is absent"):  # but its label exists
        Sunnybrook(root).read("S-1", ("sax",))
    (root / "S-1/label_sa_ES.nii.gz").unlink()
    assert Sunnybrook(root).read("S-1", ("sax",)).warnings == ("sax: no ES image",)
    (root / "S-1/sa_ED.nii.gz").rename(root / "S-1/sa_ES.nii.gz")
    with pytest.raises(CohortError, match=r"sa_ED.nii.gz is absent"):
        Sunnybrook(root).read("S-1", ("sax",))


def test_asking_for_cine_frames_gives_a_warning(root):
    subject = Sunnybrook(root, frames="8").read("S-1", ("sax",))
    assert subject.warnings == ("sax: no cine",) and len(subject.views["sax"].cine) == 0

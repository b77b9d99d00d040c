"""Counts and annotated structures of a dataset, from rows written by hand."""

from morphojax.data.prepare.contents import annotated_structures, count_contents


def _stack(subject: int, structures: str, voxels: int = 0, cut: int = 0, slices: int = 2) -> dict[str, object]:
    return {"subject": subject, "structures": structures, "voxels": voxels, "cut": cut, "slices": slices}


def test_counts_by_hand():
    stacks = [
        _stack(0, "lv_cavity", voxels=7, cut=3),
        _stack(0, ""),
        _stack(1, "lv_cavity rv_cavity"),  # annotated, though the label is empty
        _stack(2, "", slices=5),
    ]
    statuses = ["failed", "no row", "no row", "no images", "no images", "no images", "left out", "warning"]
    counts = count_contents(["train", "test", "train"], {"sax": stacks, "la_2ch": []}, statuses)
    assert counts["subjects"] == {"train": 2, "val": 0, "test": 1}
    assert counts["planes"]["sax"] == {
        "subjects": 3,
        "stacks": 4,
        "slices": 11,
        "labelled_stacks": 2,
        "labelled_subjects": 2,
        "label_voxels": 7,
        "label_voxels_cut": 3,
    }
    assert set(counts["planes"]["la_2ch"].values()) == {0}
    lines = {key: counts[key] for key in ("failed", "without_row", "rows_without_images", "left_out")}
    assert lines == {"failed": 1, "without_row": 2, "rows_without_images": 3, "left_out": 1}


def test_structures_that_some_subjects_lack_are_counted():
    sax = [_stack(0, "lv_cavity lv_myocardium"), _stack(1, "lv_cavity"), _stack(2, "lv_cavity"), _stack(3, "")]
    annotated, warnings = annotated_structures({"sax": sax, "la_2ch": [_stack(0, "la_cavity")]})
    assert annotated == {"sax": ("lv_cavity", "lv_myocardium"), "la_2ch": ("la_cavity",)}
    assert len(warnings) == 1 and warnings.popitem()[1] == 2

"""The plane that a file's name states, and images whose name or shape contradicts the run."""

from pathlib import Path

import pytest

from morphojax.inference.measures import PredictError
from morphojax.inference.planes import check_plane, choose_plane, named_plane
from tests.toy_run import toy_run

STACK, SLICE, SPACING = (40, 36, 10), (40, 36, 1), (1.5, 1.5, 8.0)


@pytest.mark.parametrize(
    ("name", "plane"),
    [
        ("la_2ch", "la_2ch"),
        ("patient7_LAX4ch_ED", "la_4ch"),
        ("lax-3ch", "la_3ch"),
        ("CINE_4_CH", "la_4ch"),
        ("2chamber_view", "la_2ch"),
        ("001_LA_ED", "la"),
        ("long axis", "la"),
        ("2ch_4ch", "la"),
        ("001_SA_ED", "sax"),
        ("heart-sax2", "sax"),
        ("short_axis_cine", "sax"),
        ("patient101_frame01", None),
        ("salary_flag_chest", None),
        ("SA0012_4ch", None),  # the first part may be an id: the shape decides
        ("scan12ch", None),
    ],
)
def test_names_that_state_a_plane(name: str, plane: str | None) -> None:
    assert named_plane(name) == plane


@pytest.mark.parametrize(
    ("name", "plane", "shape", "depth", "reason"),
    [
        ("heart", "sax", SLICE, 8, "a single slice, and the run segments short-axis stacks: it may be a long axis"),
        ("heart", "sax", (40, 36, 3), 8, "3 slices of 8 mm are 24 mm deep, and a short-axis stack is at least 30 mm"),
        ("heart", "sax", (40, 36, 30), 33.3, "30 slices of 33.3 mm are 999 mm deep, and a short-axis stack at most"),
        ("LAX", "sax", STACK, 8, "its name says a long axis, and the run segments sax"),
        ("la_4ch", "sax", STACK, 8, "its name says la_4ch, and the run segments sax"),
        ("la_4ch", "la_2ch", SLICE, 8, "its name says la_4ch, and the run segments la_2ch"),
        ("sa_ED", "la_4ch", SLICE, 8, "its name says a short axis, and the run segments la_4ch"),
    ],
)
def test_a_file_that_contradicts_the_run_is_refused(name, plane, shape, depth, reason) -> None:
    with pytest.raises(PredictError) as error:
        check_plane(Path("in") / f"{name}.nii.gz", name, plane, shape, (1.5, 1.5, depth))
    assert str(error.value).startswith(f"in/{name}.nii.gz: {reason}")
    assert str(error.value).endswith(f"; if it shows {plane}, say so with --plane={plane}")


@pytest.mark.parametrize(
    ("name", "plane", "shape"),
    [
        ("heart", "sax", (40, 36, 4)),
        ("sa", "sax", (40, 36, 30)),
        ("heart", "la_2ch", SLICE),
        ("001_LA_ED", "la_4ch", SLICE),
        ("la_4ch", "la_4ch", SLICE),
    ],
)
def test_a_file_that_fits_is_accepted(name, plane, shape) -> None:
    check_plane(Path(name), name, plane, shape, SPACING)


def test_the_plane_of_a_run_of_one_plane_need_not_be_stated() -> None:
    assert choose_plane(toy_run("la_4ch"), None) == "la_4ch"
    with pytest.raises(PredictError, match="--plane=la_2ch: the run segments sax"):
        choose_plane(toy_run(), "la_2ch")

"""JSON is parsed and compared with a structure; every difference is a ValueError."""

import pytest

from morphojax.data.json_text import parse, problem

SHAPE = {"name": str, "sizes": [int], "scale?": float, "by_plane": {str: {"ok": bool}}, "rest?": object}
GOOD = '{"name": "a", "sizes": [1, 2], "scale": 2, "by_plane": {"sax": {"ok": true}}, "more": null}'


def test_a_value_of_the_structure_is_returned():
    assert parse(GOOD, SHAPE)["sizes"] == [1, 2] and parse(GOOD.encode(), SHAPE) == parse(GOOD)
    assert problem({"name": "", "sizes": [], "by_plane": {}}, SHAPE) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("", "Expecting value"),
        (b"\xff\xfe{", "utf"),
        ("[]", "must be an object with names"),
        ("{}", "lacks 'name'"),
        (GOOD.replace('"a"', "7"), "name must be a text"),
        (GOOD.replace('"a"', r'"\ud800"'), "name must be a text"),
        (GOOD.replace("[1, 2]", "12"), "sizes must be a list"),
        (GOOD.replace("[1, 2]", "[1, 2.5]"), r"sizes\[1\] must be a whole number"),
        (GOOD.replace("[1, 2]", "[true]"), r"sizes\[0\] must be a whole number"),
        (GOOD.replace("[1, 2]", f"[{10**30}]"), r"sizes\[0\] must be a whole number"),
        (GOOD.replace('"scale": 2', '"scale": NaN'), "scale must be a number"),
        (GOOD.replace('"scale": 2', '"scale": "2"'), "scale must be a number"),
        (GOOD.replace("true", "1"), r"by_plane.sax.ok must be true or false"),
        (GOOD.replace('"sax"', r'"\ud800"'), "by_plane has a damaged name"),
    ],
)
def test_anything_else_is_a_value_error_that_says_where(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, SHAPE)

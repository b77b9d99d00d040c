import numpy as np

from morphojax.data.sources.synthetic import columns as table
from morphojax.data.sources.synthetic import person


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

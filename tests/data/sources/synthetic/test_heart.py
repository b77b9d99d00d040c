import numpy as np
import pytest

from morphojax.data.sources.synthetic import heart, imaging, person


def test_cavity_volumes_over_the_cycle():
    """The implicit solids have the EDV and EF of the person, and ES is the smallest volume."""
    rng = np.random.default_rng(0)
    who = person.draw(rng, "healthy")
    solid = heart.build(who, rng)
    axes = (np.arange(-60, 61, 2.0), np.arange(-60, 61, 2.0), np.arange(-4, 121, 2.0))
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)
    volumes = [
        0.008 * np.count_nonzero(heart.distances(solid, grid, heart.activation(t / 6), atria=False)["endo"] < 0)
        for t in range(6)
    ]
    assert volumes[0] == pytest.approx(who.lv_edv, rel=0.03)
    assert int(np.argmin(volumes)) == imaging.END_SYSTOLE
    assert 1 - volumes[imaging.END_SYSTOLE] / volumes[0] == pytest.approx(who.lv_ef, abs=0.02)

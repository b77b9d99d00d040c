import numpy as np
import pytest

from morphojax.data.sources.synthetic import person


def test_covariates_are_correlated():
    persons = [person.draw(np.random.default_rng([11, number])) for number in range(600)]

    def correlation(a, b, keep=lambda p: True):
        pairs = np.array([(getattr(p, a), getattr(p, b)) for p in persons if keep(p)], float)
        return np.corrcoef(pairs.T)[0, 1]

    assert (
        correlation("bmi", "waist") > 0.7
        and correlation("age", "sbp") > 0.2
        and correlation("hypertension", "wall") > 0.1
    )
    assert correlation("bsa", "lv_edv", lambda p: p.shape == "healthy") > 0.5
    assert correlation("lv_edv", "rv_edv", lambda p: p.shape == "healthy") > 0.7
    assert (
        np.mean([p.height for p in persons if p.sex == "male"])
        > np.mean([p.height for p in persons if p.sex == "female"]) + 9
    )
    fractions = {s: np.mean([p.shape == s for p in persons]) for s in person.SHAPES}
    assert fractions["healthy"] > 0.3 and min(fractions.values()) > 0.05
    with pytest.raises(ValueError, match="not one of"):
        person.draw(np.random.default_rng(0), "athlete")

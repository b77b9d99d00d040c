"""A person: correlated random covariates, and the heart that depends on them."""

import dataclasses

import numpy as np

SHAPES = ("healthy", "dilated", "hypertrophic", "infarcted", "rv_overload")


@dataclasses.dataclass(frozen=True)
class Person:
    """Volumes in mL, heart lengths in mm, fractions 0..1; other units as in the data dictionary.

    The fields from `lv_edv` on describe the heart at end-diastole; `heart.build` makes it.
    """

    shape: str
    sex: str
    age: float
    ethnicity: str
    height: float
    weight: float
    bmi: float
    bsa: float
    waist: float
    hip: float
    body_fat: float
    smoking: str
    alcohol: float
    activity: float
    sleep: float
    diet: str
    deprivation: float
    hypertension: bool
    diabetes: bool
    high_cholesterol: bool
    atrial_fibrillation: bool
    sbp: float
    dbp: float
    heart_rate: float
    stiffness: float
    lv_edv: float
    lv_ef: float
    lv_length: float
    wall: float
    septal: float
    flat: float
    scar: float
    scar_angle: float
    scar_width: float
    rv_edv: float
    rv_ef: float
    la_size: float
    ra_size: float


@dataclasses.dataclass(frozen=True)
class _Body:
    """The covariates of a person that the heart depends on; units as in `Person`."""

    male: bool
    age: float
    height: float
    activity: float
    bmi: float
    weight: float
    bsa: float
    body_fat: float
    waist: float
    hip: float
    deprivation: float
    smoking: str
    high_cholesterol: bool
    hypertension: bool
    diabetes: bool

    @property
    def fitness(self) -> float:
        """Physical activity in SDs from its mean, on a log scale."""
        return np.clip((np.log(self.activity) - 3.3) / 0.7, -2, 2)


@dataclasses.dataclass(frozen=True)
class _Chambers:
    """The heart before the sizes of the body and the last random factors are applied."""

    lv_indexed: float  # LV end-diastolic volume per body surface area, mL/m2
    lv_ef: float
    rv_indexed: float
    rv_ef: float
    wall: float  # mm
    septal: float
    length_factor: float = 1.0
    flat: float = 0.0
    scar: float = 0.0
    la_size: float = 1.0
    ra_size: float = 1.0


def draw(rng: np.random.Generator, shape: str | None = None) -> Person:
    """A random person. Without `shape`, the kind of heart depends on age, sex and risk factors.

    Means and slopes are rounded from published population means: LV and RV volumes per body surface
    area and EF by sex as in Petersen et al. (JCMR 2017), body surface area by Du Bois and Du Bois
    (1916).
    """
    body = _draw_body(rng)
    drawn = _draw_shape(rng, body)
    shape = drawn if shape is None else shape
    if shape not in SHAPES:
        raise ValueError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")
    age, bmi, male = body.age, body.bmi, body.male
    sbp = float(132 + 13 * body.hypertension + 0.45 * (age - 64) + 0.5 * (bmi - 27) + 2 * male + rng.normal(0, 12))
    dbp = float(0.42 * sbp + 22 + 0.25 * (bmi - 27) - 0.15 * (age - 64) + rng.normal(0, 5.5))
    heart_rate = float(
        63 - 2.2 * body.fitness + 0.3 * (bmi - 27) - 1.5 * male + 8 * (shape == "dilated") + rng.normal(0, 8)
    )
    chambers = _remodel(rng, shape, _healthy_chambers(rng, body, sbp))
    af = _chance(rng, -3.4 + 0.07 * (age - 64) + 1.2 * (shape == "dilated") + 0.5 * body.hypertension)
    edv = float(np.clip(chambers.lv_indexed, 42, 210)) * body.bsa
    size = (body.bsa / 1.88) ** 0.4
    length = (92 if male else 85) * size * chambers.length_factor * (edv / (80 * body.bsa)) ** 0.18
    # Keep the order of the arguments: some of them draw, and the files of a seed must not change.
    return Person(
        shape=shape,
        sex="male" if male else "female",
        age=age,
        ethnicity=str(rng.choice(["white", "asian", "black", "mixed_or_other"], p=[0.93, 0.03, 0.02, 0.02])),
        height=body.height,
        weight=body.weight,
        bmi=bmi,
        bsa=body.bsa,
        waist=body.waist,
        hip=body.hip,
        body_fat=body.body_fat,
        smoking=body.smoking,
        alcohol=float(rng.gamma(1.3, 7 if male else 4.5)),
        activity=body.activity,
        sleep=float(rng.normal(7.2 - 0.03 * (bmi - 27), 1.0)),
        diet=str(rng.choice(["omnivore", "pescatarian", "vegetarian"], p=[0.93, 0.04, 0.03])),
        deprivation=body.deprivation,
        hypertension=body.hypertension,
        diabetes=body.diabetes,
        high_cholesterol=body.high_cholesterol,
        atrial_fibrillation=af,
        sbp=sbp,
        dbp=dbp,
        heart_rate=float(np.clip(heart_rate + 6 * af, 42, 110)),
        stiffness=float(9.2 + 0.06 * (age - 64) + 0.03 * (sbp - 135) + 0.5 * male + rng.normal(0, 1.8)),
        lv_edv=edv,
        lv_ef=float(chambers.lv_ef),
        lv_length=float(length * rng.normal(1, 0.03)),
        wall=float(np.clip(chambers.wall, 4.5, 17)),
        septal=float(chambers.septal),
        flat=float(chambers.flat),
        scar=float(chambers.scar),
        scar_angle=float(rng.choice([-0.9, 1.5, 2.9]) + rng.normal(0, 0.2)),  # LAD, RCA and LCX territories
        scar_width=float(rng.uniform(1.3, 2.6)),
        rv_edv=float(np.clip(chambers.rv_indexed, 45, 200)) * body.bsa,
        rv_ef=float(chambers.rv_ef),
        la_size=float(chambers.la_size * size * (1 + 0.08 * af) * rng.normal(1, 0.07)),
        ra_size=float(chambers.ra_size * size * (1 + 0.08 * af) * rng.normal(1, 0.07)),
    )


def _draw_body(rng: np.random.Generator) -> _Body:
    male = rng.random() < 0.48
    age = float(np.clip(rng.normal(64, 7.7), 44, 83))
    height = float(rng.normal(176, 6.6) if male else rng.normal(163, 6.2)) - 0.08 * (age - 64)
    activity = float(rng.lognormal(3.3, 0.7))
    bmi = float(
        np.clip(26.6 + 0.5 * male - 0.6 * (np.log(activity) - 3.3) + 4.0 * rng.standard_gamma(4) / 2 - 8, 17.5, 48)
    )
    weight = bmi * (height / 100) ** 2
    body_fat = float(
        np.clip((22 if male else 33) + 1.25 * (bmi - 26.6) + 0.08 * (age - 64) + rng.normal(0, 2.8), 6, 58)
    )
    waist = float((94 if male else 83) + 2.35 * (bmi - 26.8) + 0.1 * (age - 64) + rng.normal(0, 4))
    hip = float(102.5 + 1.85 * (bmi - 26.8) + 0.15 * (height - 169) + rng.normal(0, 3))
    deprivation = float(rng.normal(-1.9, 2.7))
    smoking_weights = [0.61, 0.33 + 0.05 * male, 0.06 + 0.012 * max(deprivation, 0)]
    smoking = str(rng.choice(["never", "previous", "current"], p=_probabilities(smoking_weights)))
    return _Body(
        male=male,
        age=age,
        height=height,
        activity=activity,
        bmi=bmi,
        weight=weight,
        bsa=0.007184 * weight**0.425 * height**0.725,
        body_fat=body_fat,
        waist=waist,
        hip=hip,
        deprivation=deprivation,
        smoking=smoking,
        high_cholesterol=_chance(rng, -1.2 + 0.05 * (age - 64) + 0.06 * (bmi - 27)),
        hypertension=_chance(rng, -1.0 + 0.06 * (age - 64) + 0.12 * (bmi - 27) + 0.3 * male),
        diabetes=_chance(rng, -3.1 + 0.03 * (age - 64) + 0.16 * (bmi - 27) + 0.3 * male),
    )


def _draw_shape(rng: np.random.Generator, body: _Body) -> str:
    """A kind of heart, more often diseased with age and risk factors."""
    risk = (
        0.06 * (body.age - 64)
        + 0.5 * body.male
        + 0.5 * body.diabetes
        + 0.7 * (body.smoking == "current")
        + 0.3 * body.high_cholesterol
    )
    weights = [
        0.44,
        0.13 * (1.4 if body.male else 0.7),
        0.13 * (1.9 if body.hypertension else 0.7),
        0.15 * np.exp(risk - 0.4),
        0.13,
    ]
    return str(rng.choice(SHAPES, p=_probabilities(weights)))


def _healthy_chambers(rng: np.random.Generator, body: _Body, sbp: float) -> _Chambers:
    male = body.male
    lv_indexed = (82 if male else 73) - 0.35 * (body.age - 64) + 2.5 * body.fitness + rng.normal(0, 9)
    lv_ef = float(np.clip(rng.normal(0.60 if male else 0.62, 0.045), 0.5, 0.74))
    rv_indexed = lv_indexed * rng.normal(1.07, 0.07) + 3 * male
    rv_ef = float(np.clip(rng.normal(0.56 if male else 0.59, 0.045), 0.45, 0.70))
    wall = (7.4 if male else 6.4) + 0.9 * body.hypertension + 0.025 * (sbp - 135) + 0.06 * (body.bmi - 27)
    wall += rng.normal(0, 0.5)
    return _Chambers(lv_indexed, lv_ef, rv_indexed, rv_ef, wall, septal=max(rng.normal(0.08, 0.08), 0.0))


def _remodel(rng: np.random.Generator, shape: str, healthy: _Chambers) -> _Chambers:
    """The chambers after the disease of `shape`. Keep the order of the arguments: they draw."""
    h = healthy
    if shape == "dilated":
        return dataclasses.replace(
            h,
            lv_indexed=h.lv_indexed * rng.uniform(1.45, 2.0),
            lv_ef=rng.uniform(0.18, 0.40),
            wall=h.wall * rng.uniform(0.85, 1.0),
            rv_indexed=h.rv_indexed * rng.uniform(1.0, 1.25),
            rv_ef=h.rv_ef * rng.uniform(0.65, 0.9),
            length_factor=0.94,
            la_size=rng.uniform(1.1, 1.3),
            ra_size=rng.uniform(1.0, 1.15),
        )
    if shape == "hypertrophic":
        return dataclasses.replace(
            h,
            lv_indexed=h.lv_indexed * rng.uniform(0.78, 0.95),
            lv_ef=min(h.lv_ef + rng.uniform(0.04, 0.1), 0.78),
            wall=h.wall * rng.uniform(1.4, 1.8),
            septal=rng.uniform(0.2, 0.75),
            la_size=rng.uniform(1.05, 1.25),
        )
    if shape == "infarcted":
        return dataclasses.replace(
            h,
            lv_indexed=h.lv_indexed * rng.uniform(1.1, 1.5),
            lv_ef=rng.uniform(0.38, 0.56),
            scar=rng.uniform(0.75, 1.0),
            la_size=rng.uniform(1.0, 1.15),
        )
    if shape == "rv_overload":
        return dataclasses.replace(
            h,
            rv_indexed=h.rv_indexed * rng.uniform(1.4, 1.85),
            rv_ef=rng.uniform(0.25, 0.45),
            lv_indexed=h.lv_indexed * rng.uniform(0.85, 1.0),
            flat=rng.uniform(0.24, 0.38),
            ra_size=rng.uniform(1.15, 1.35),
        )
    return h


def _probabilities(weights) -> np.ndarray:
    weights = np.asarray(weights, float)
    return weights / weights.sum()


def _chance(rng: np.random.Generator, logit: float) -> bool:
    return bool(rng.random() < 1 / (1 + np.exp(-logit)))

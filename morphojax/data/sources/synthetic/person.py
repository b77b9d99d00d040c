"""A person: covariates drawn as they hang together in people, and the heart that goes with them."""

import dataclasses

import numpy as np

SHAPES = ("healthy", "dilated", "hypertrophic", "infarcted", "rv_overload")


@dataclasses.dataclass(frozen=True)
class Person:
    """Volumes in mL, lengths in mm, fractions 0..1; the rest in the units of the data dictionary."""

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


def draw(rng: np.random.Generator, shape: str | None = None) -> Person:
    """A random person; `shape` fixes the kind of heart, otherwise it follows from age, sex and risk factors.

    Levels and slopes are rounded from published population means: LV and RV volumes per body surface area and EF by sex
    as in Petersen et al. (JCMR 2017), body surface area by Du Bois and Du Bois (1916).
    """
    male = rng.random() < 0.48
    age = float(np.clip(rng.normal(64, 7.7), 44, 83))
    height = float(rng.normal(176, 6.6) if male else rng.normal(163, 6.2)) - 0.08 * (age - 64)
    activity = float(rng.lognormal(3.3, 0.7))
    bmi = float(
        np.clip(26.6 + 0.5 * male - 0.6 * (np.log(activity) - 3.3) + 4.0 * rng.standard_gamma(4) / 2 - 8, 17.5, 48)
    )
    weight = bmi * (height / 100) ** 2
    bsa = 0.007184 * weight**0.425 * height**0.725
    body_fat = float(
        np.clip((22 if male else 33) + 1.25 * (bmi - 26.6) + 0.08 * (age - 64) + rng.normal(0, 2.8), 6, 58)
    )
    waist = float((94 if male else 83) + 2.35 * (bmi - 26.8) + 0.1 * (age - 64) + rng.normal(0, 4))
    hip = float(102.5 + 1.85 * (bmi - 26.8) + 0.15 * (height - 169) + rng.normal(0, 3))
    deprivation = float(rng.normal(-1.9, 2.7))
    smoking = str(
        rng.choice(
            ["never", "previous", "current"], p=_odds([0.61, 0.33 + 0.05 * male, 0.06 + 0.012 * max(deprivation, 0)])
        )
    )
    high_cholesterol = _chance(rng, -1.2 + 0.05 * (age - 64) + 0.06 * (bmi - 27))
    hypertension = _chance(rng, -1.0 + 0.06 * (age - 64) + 0.12 * (bmi - 27) + 0.3 * male)
    diabetes = _chance(rng, -3.1 + 0.03 * (age - 64) + 0.16 * (bmi - 27) + 0.3 * male)

    risk = 0.06 * (age - 64) + 0.5 * male + 0.5 * diabetes + 0.7 * (smoking == "current") + 0.3 * high_cholesterol
    weights = [
        0.44,
        0.13 * (1.4 if male else 0.7),
        0.13 * (1.9 if hypertension else 0.7),
        0.15 * np.exp(risk - 0.4),
        0.13,
    ]
    drawn = str(rng.choice(SHAPES, p=_odds(weights)))
    shape = drawn if shape is None else shape
    if shape not in SHAPES:
        raise ValueError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")

    sbp = float(132 + 13 * hypertension + 0.45 * (age - 64) + 0.5 * (bmi - 27) + 2 * male + rng.normal(0, 12))
    dbp = float(0.42 * sbp + 22 + 0.25 * (bmi - 27) - 0.15 * (age - 64) + rng.normal(0, 5.5))
    fitness = np.clip((np.log(activity) - 3.3) / 0.7, -2, 2)
    heart_rate = float(63 - 2.2 * fitness + 0.3 * (bmi - 27) - 1.5 * male + 8 * (shape == "dilated") + rng.normal(0, 8))

    indexed = (82 if male else 73) - 0.35 * (age - 64) + 2.5 * fitness + rng.normal(0, 9)
    ef = float(np.clip(rng.normal(0.60 if male else 0.62, 0.045), 0.5, 0.74))
    rv_indexed = indexed * rng.normal(1.07, 0.07) + 3 * male
    rv_ef = float(np.clip(rng.normal(0.56 if male else 0.59, 0.045), 0.45, 0.70))
    wall = (7.4 if male else 6.4) + 0.9 * hypertension + 0.025 * (sbp - 135) + 0.06 * (bmi - 27) + rng.normal(0, 0.5)
    stretch, septal, flat, scar, la_size, ra_size = 1.0, max(rng.normal(0.08, 0.08), 0.0), 0.0, 0.0, 1.0, 1.0
    if shape == "dilated":
        indexed, ef, wall = indexed * rng.uniform(1.45, 2.0), rng.uniform(0.18, 0.40), wall * rng.uniform(0.85, 1.0)
        rv_indexed, rv_ef, stretch = rv_indexed * rng.uniform(1.0, 1.25), rv_ef * rng.uniform(0.65, 0.9), 0.94
        la_size, ra_size = rng.uniform(1.1, 1.3), rng.uniform(1.0, 1.15)
    elif shape == "hypertrophic":
        indexed, ef, wall = (
            indexed * rng.uniform(0.78, 0.95),
            min(ef + rng.uniform(0.04, 0.1), 0.78),
            wall * rng.uniform(1.4, 1.8),
        )
        septal, la_size = rng.uniform(0.2, 0.75), rng.uniform(1.05, 1.25)
    elif shape == "infarcted":
        indexed, ef, scar = indexed * rng.uniform(1.1, 1.5), rng.uniform(0.38, 0.56), rng.uniform(0.75, 1.0)
        la_size = rng.uniform(1.0, 1.15)
    elif shape == "rv_overload":
        rv_indexed, rv_ef = rv_indexed * rng.uniform(1.4, 1.85), rng.uniform(0.25, 0.45)
        indexed, flat, ra_size = indexed * rng.uniform(0.85, 1.0), rng.uniform(0.24, 0.38), rng.uniform(1.15, 1.35)
    af = _chance(rng, -3.4 + 0.07 * (age - 64) + 1.2 * (shape == "dilated") + 0.5 * hypertension)
    edv = float(np.clip(indexed, 42, 210)) * bsa
    size = (bsa / 1.88) ** 0.4
    return Person(
        shape=shape,
        sex="male" if male else "female",
        age=age,
        ethnicity=str(rng.choice(["white", "asian", "black", "mixed_or_other"], p=[0.93, 0.03, 0.02, 0.02])),
        height=height,
        weight=weight,
        bmi=bmi,
        bsa=bsa,
        waist=waist,
        hip=hip,
        body_fat=body_fat,
        smoking=smoking,
        alcohol=float(rng.gamma(1.3, 7 if male else 4.5)),
        activity=activity,
        sleep=float(rng.normal(7.2 - 0.03 * (bmi - 27), 1.0)),
        diet=str(rng.choice(["omnivore", "pescatarian", "vegetarian"], p=[0.93, 0.04, 0.03])),
        deprivation=deprivation,
        hypertension=hypertension,
        diabetes=diabetes,
        high_cholesterol=high_cholesterol,
        atrial_fibrillation=af,
        sbp=sbp,
        dbp=dbp,
        heart_rate=float(np.clip(heart_rate + 6 * af, 42, 110)),
        stiffness=float(9.2 + 0.06 * (age - 64) + 0.03 * (sbp - 135) + 0.5 * male + rng.normal(0, 1.8)),
        lv_edv=edv,
        lv_ef=float(ef),
        lv_length=float((92 if male else 85) * size * stretch * (edv / (80 * bsa)) ** 0.18 * rng.normal(1, 0.03)),
        wall=float(np.clip(wall, 4.5, 17)),
        septal=float(septal),
        flat=float(flat),
        scar=float(scar),
        scar_angle=float(rng.choice([-0.9, 1.5, 2.9]) + rng.normal(0, 0.2)),  # LAD, RCA and LCX territories
        scar_width=float(rng.uniform(1.3, 2.6)),
        rv_edv=float(np.clip(rv_indexed, 45, 200)) * bsa,
        rv_ef=float(rv_ef),
        la_size=float(la_size * size * (1 + 0.08 * af) * rng.normal(1, 0.07)),
        ra_size=float(ra_size * size * (1 + 0.08 * af) * rng.normal(1, 0.07)),
    )


def _odds(weights) -> np.ndarray:
    weights = np.asarray(weights, float)
    return weights / weights.sum()


def _chance(rng: np.random.Generator, logit: float) -> bool:
    return bool(rng.random() < 1 / (1 + np.exp(-logit)))

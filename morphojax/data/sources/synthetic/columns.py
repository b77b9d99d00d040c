"""The table of the synthetic cohort: its schema, and rows with errors and missing cells."""

import numpy as np

from morphojax.data.sources.synthetic.person import Person
from morphojax.data.tables.schema import Column, Schema

NO_ROW = 0.02  # fraction of subjects with images but without a row


def _continuous(group: str, leak: tuple[str, ...], **columns: tuple[str, ...]) -> list[Column]:
    """Each column is (unit, description) or (unit, description, measures)."""
    return [Column(name, "continuous", group, unit, (), leak, *text) for name, (unit, *text) in columns.items()]


def _binary(group: str, **columns: tuple[tuple[str, ...], str]) -> list[Column]:
    return [Column(name, "binary", group, "", (), leak, text) for name, (leak, text) in columns.items()]


def _categorical(group: str, name: str, categories: str, text: str) -> Column:
    return Column(name, "categorical", group, "", tuple(categories.split(";")), (), text)


SCHEMA = Schema(
    tuple(
        # Measured on the subject's own masks, so each leaks the segmentation label of its subject.
        _continuous(
            "cardiac_morphometric",
            ("segmentation",),
            lv_edv=("mL", "LV volume at end-diastole", "lv_cavity:ED:ml"),
            lv_esv=("mL", "LV volume at end-systole", "lv_cavity:ES:ml"),
            lv_sv=("mL", "LV stroke volume"),
            lv_ef=("%", "LV ejection fraction", "lv_cavity:EF:%"),
            cardiac_output=("L/min", "LV stroke volume times heart rate"),
            lv_mass=("g", "LV myocardial mass at end-diastole", "lv_myocardium:ED:g"),
            wall_thickness_mean=("mm", "LV wall thickness at end-diastole, mean over sectors"),
            wall_thickness_max=("mm", "LV wall thickness at end-diastole, thickest sector"),
            rv_edv=("mL", "RV volume at end-diastole", "rv_cavity:ED:ml"),
            rv_esv=("mL", "RV volume at end-systole", "rv_cavity:ES:ml"),
            rv_sv=("mL", "RV stroke volume"),
            rv_ef=("%", "RV ejection fraction", "rv_cavity:EF:%"),
            la_volume=("mL", "LA volume at end-systole, biplane area-length", "la_cavity:ES:ml"),
            ra_volume=("mL", "RA volume at end-systole, single plane", "ra_cavity:ES:ml"),
        )
        + _continuous(
            "body_morphometric",
            (),
            height=("cm", "standing height"),
            weight=("kg", "weight"),
            bmi=("kg/m2", "body mass index"),
            bsa=("m2", "body surface area, Du Bois"),
            waist=("cm", "waist circumference"),
            hip=("cm", "hip circumference"),
            body_fat=("%", "body fat by bioimpedance"),
        )
        + _continuous(
            "haemodynamic",
            (),
            sbp=("mmHg", "systolic blood pressure"),
            dbp=("mmHg", "diastolic blood pressure"),
            heart_rate=("1/min", "heart rate during the scan"),
            arterial_stiffness=("m/s", "arterial stiffness index"),
        )
        + [_categorical("demographic", "sex", "female;male", "sex")]
        + _continuous("demographic", (), age=("years", "age at imaging"), deprivation=("", "area deprivation index"))
        + [
            _categorical("demographic", "ethnicity", "white;asian;black;mixed_or_other", "ethnic background"),
            _categorical("lifestyle", "smoking", "never;previous;current", "smoking status"),
            _categorical("lifestyle", "diet", "omnivore;pescatarian;vegetarian", "diet"),
        ]
        + _continuous(
            "lifestyle",
            (),
            alcohol=("units/week", "alcohol intake"),
            activity=("MET h/week", "physical activity"),
            sleep=("h/day", "sleep duration"),
        )
        + _binary(
            "medical_history",
            hypertension=((), "diagnosed hypertension"),
            diabetes=((), "diagnosed diabetes"),
            high_cholesterol=((), "diagnosed high cholesterol"),
            atrial_fibrillation=((), "diagnosed atrial fibrillation"),
            infarction=(("infarction",), "diagnosed myocardial infarction: the label of infarction itself"),
            cardiomyopathy=(
                ("cardiomyopathy",),
                "diagnosed dilated or hypertrophic cardiomyopathy: the label of cardiomyopathy",
            ),
            pulmonary_hypertension=(("rv_overload",), "diagnosed pulmonary hypertension: the label of RV overload"),
            heart_failure=((), "diagnosed heart failure"),
        )
    )
)

# How often cells are missing: whole blocks (the columns of one examination), then single columns.
_BLOCKS = (
    (0.05, ("lv_edv", "lv_esv", "lv_sv", "lv_ef", "cardiac_output", "lv_mass", "rv_edv", "rv_esv", "rv_sv", "rv_ef")),
    (0.07, ("wall_thickness_mean", "wall_thickness_max")),
    (0.08, ("la_volume", "ra_volume")),
    (0.03, ("weight", "bmi", "bsa", "body_fat")),
    (0.05, ("sbp", "dbp")),
)
_SINGLE = {
    "arterial_stiffness": 0.15,
    "body_fat": 0.04,
    "waist": 0.02,
    "hip": 0.02,
    "heart_rate": 0.02,
    "deprivation": 0.01,
    "ethnicity": 0.01,
    "smoking": 0.02,
    "diet": 0.04,
    "alcohol": 0.08,
    "activity": 0.17,
    "sleep": 0.05,
    "high_cholesterol": 0.03,
}


def row(
    person: Person, measured: dict[str, float], rng: np.random.Generator
) -> dict[str, float | int | str | None] | None:
    """The row of a person; None for a missing cell, or instead of the whole row.

    measured: values of `measures.measure`. Reported volumes differ from them by about 3 %, wall
    thickness by 5 %, atria by 7 %; SV and EF follow from the reported volumes.
    """
    reported: dict[str, float] = {}
    for name, error in {
        "lv_edv": 0.025, "lv_esv": 0.035, "rv_edv": 0.035, "rv_esv": 0.045, "lv_mass": 0.04,
        "wall_thickness_mean": 0.05, "wall_thickness_max": 0.05, "la_volume": 0.07, "ra_volume": 0.07,
    }.items():  # fmt: skip
        reported[name] = measured[name] * float(
            np.clip(1 + error * rng.standard_normal(), 1 - 3 * error, 1 + 3 * error)
        )
    # Both thicknesses have the same relative error, so the maximum stays above the mean.
    ratio = reported["wall_thickness_mean"] / measured["wall_thickness_mean"]
    reported["wall_thickness_max"] = measured["wall_thickness_max"] * ratio
    for side in ("lv", "rv"):
        edv, stroke = reported[f"{side}_edv"], reported[f"{side}_edv"] - reported[f"{side}_esv"]
        reported |= {f"{side}_sv": stroke, f"{side}_ef": 100 * stroke / edv if edv > 0 else np.nan}
    reported["cardiac_output"] = reported["lv_sv"] * person.heart_rate / 1000
    for name in ("height", "weight", "bmi", "bsa", "waist", "hip", "body_fat", "heart_rate", "age", "deprivation"):
        reported[name] = getattr(person, name)
    for name in ("alcohol", "activity", "sleep"):
        reported[name] = getattr(person, name)
    reported |= {
        "sbp": person.sbp + rng.normal(0, 4),
        "dbp": person.dbp + rng.normal(0, 3),
        "arterial_stiffness": person.stiffness,
    }
    cells: dict[str, float | int | str | None] = {
        k: float(f"{v:.4g}") if np.isfinite(v) else None for k, v in reported.items()
    }
    cells |= {name: getattr(person, name) for name in ("sex", "ethnicity", "smoking", "diet")}
    for name in ("hypertension", "diabetes", "high_cholesterol", "atrial_fibrillation"):
        cells[name] = int(getattr(person, name))
    # Histories miss cases, and contain a few that the heart does not show.
    cells["infarction"] = int(rng.random() < (0.85 if person.shape == "infarcted" else 0.01))
    cells["cardiomyopathy"] = int(rng.random() < (0.6 if person.shape in ("dilated", "hypertrophic") else 0.004))
    cells["pulmonary_hypertension"] = int(rng.random() < (0.55 if person.shape == "rv_overload" else 0.005))
    cells["heart_failure"] = int(
        rng.random() < {"dilated": 0.6, "infarcted": 0.2, "rv_overload": 0.2}.get(person.shape, 0.02)
    )

    for fraction, names in _BLOCKS:
        if rng.random() < fraction:
            cells |= dict.fromkeys(names)
    for name, fraction in _SINGLE.items():
        if rng.random() < fraction:
            cells[name] = None
    no_row = rng.random() < NO_ROW
    return None if no_row else {name: cells[name] for name in SCHEMA.names}

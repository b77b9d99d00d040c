"""UK Biobank exports, written in every dialect of header from the same values."""

from pathlib import Path

import numpy as np
import pandas as pd

from morphojax.data.tables.ukb_fields import registry

IDS = ["1000017", "1000028", "1000039", "1000040"]
# (field, instance, array) -> cells as exported. 4080 has two readings; in 1289, -10 means less than
# one; 924 holds codes.
VALUES = {
    (31, 0, 0): ["0", "1", "1", "0"],
    (24103, 2, 0): ["61.5", "", "55", "40.25"],
    (24103, 3, 0): ["60", "59", "", ""],
    (24100, 2, 0): ["150", "160.5", "171", ""],
    (4080, 2, 0): ["120", "131", "", ""],
    (4080, 2, 1): ["122", "", "", "140"],
    (1289, 2, 0): ["-10", "2", "-1", "-3"],
    (924, 2, 0): ["3", "-7", "2", "1"],
}
EXPECTED = {
    "sex_31": ["0", "1", "1", "0"],
    "lv_ejection_fraction_24103": [61.5, np.nan, 55, 40.25],
    "lv_end_diastolic_volume_24100": [150, 160.5, 171, np.nan],
    "systolic_blood_pressure_automated_reading_4080": [121, 131, np.nan, 140],
    "cooked_vegetable_intake_1289": [0.5, 2, np.nan, np.nan],
    "usual_walking_pace_924": ["3", None, "2", "1"],
}


def showcase(field: int, instance: int, array: int) -> str:
    return f"{field}-{instance}.{array}"


def platform(field: int, instance: int, array: int) -> str:
    visit = "" if field == 31 else f"_i{instance}"
    return f"p{field}{visit}" + (f"_a{array}" if field == 4080 else "")


def verbose(field: int, instance: int, array: int) -> str:
    visit = "" if field == 31 else f" | Instance {instance}"
    return registry()[field].title + visit + (f" | Array {array}" if field == 4080 else "")


DIALECTS = {
    "eid": showcase,
    "f.eid": lambda *key: "f.{}.{}.{}".format(*key),
    "n_eid": lambda *key: "n_{}_{}_{}".format(*key),
    "participant.eid": lambda *key: "participant." + platform(*key),
    "Participant ID": platform,
}


def export(path: Path, key: str = "eid", name=showcase, values=None, ids=IDS, sep: str = ",") -> Path:
    """Writes an export. `key` and `name` give the dialect, `values` the cells as in VALUES."""
    frame = pd.DataFrame({name(*k): v for k, v in (VALUES if values is None else values).items()})
    frame.insert(0, key, ids)
    for i in range(3):  # fields outside the registry
        frame[f"9000{i}-2.0"] = "text, with a comma"
    frame.to_csv(path, index=False, sep=sep)
    return path

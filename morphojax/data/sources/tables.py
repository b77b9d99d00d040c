"""The table beside a cohort: a CSV with a key column and, for cohorts of free form, a data dictionary."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from morphojax.data.sources.base import CohortError
from morphojax.data.table import Schema, TableError, check, read_dictionary


def read_table(path: Path, key: str, schema: Schema | Path) -> tuple[pd.DataFrame, Schema]:
    """Rows of a CSV indexed by subject id (str), with the columns of the schema, and the schema.

    `schema` may be the path of a data dictionary. Raises CohortError for an unreadable file, a missing key column or
    described column, a repeated or empty id, or text in a numeric column.
    """
    try:
        if isinstance(schema, Path):
            schema = read_dictionary(schema)
        # Classes are read as texts: "01" stays "01".
        texts: dict[Hashable, Any] = {c.name: str for c in schema.columns if c.kind != "continuous"}
        texts[key] = str
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""], float_precision="round_trip")
        if key not in frame.columns:
            raise CohortError(f"{path}: no key column {key!r} among {', '.join(map(str, frame.columns))}")
        check(frame, schema)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(f"{path}: cannot be read as a CSV table ({error})") from error
    except TableError as error:
        raise CohortError(f"{path}: {error}") from error
    if frame[key].isna().any():
        row = int(frame[key].isna().to_numpy().argmax())
        raise CohortError(f"{path}: row {row} (counting from 0) has no {key}; fill it or remove the row")
    repeated = frame[key][frame[key].duplicated()].tolist()
    if repeated:
        raise CohortError(
            f"{path}: {key} {repeated[0]} has several rows ({len(repeated)} repeated in all); keep one each"
        )
    frame = frame.set_index(key)
    frame.index.name = None
    return frame[list(schema.names)], schema


def choose(given: str | Path | None, *candidates: Path) -> Path | None:
    """The path asked for, which must exist, else the first candidate that does, else None."""
    if given is not None:
        if not Path(given).is_file():
            raise CohortError(f"{given}: no such file; correct the path of the table or dictionary")
        return Path(given)
    return next((c for c in candidates if c.is_file()), None)


def folders(root: Path, holds: tuple[str, ...]) -> dict[str, Path]:
    """Name -> path of the subfolders that hold a file matching one of the patterns; CohortError where none does."""
    if not root.is_dir():
        raise CohortError(f"{root}: no such folder")
    found = {
        p.name: p
        for p in sorted(root.iterdir())
        if p.is_dir() and not p.name.startswith(".") and any(any(p.glob(pattern)) for pattern in holds)
    }
    if not found:
        raise CohortError(f"{root}: no subfolder holds {' or '.join(holds)}; is this the folder of the subjects?")
    return found

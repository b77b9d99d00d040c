"""Raw columns of a UK Biobank export -> participant ids, and a value per participant and field.

Errors give the row, counted from 0, and never a participant id.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from morphojax.data.tables.schema import LARGEST_NUMBER, TableError
from morphojax.data.tables.ukb_fields import Field

LESS_THAN_ONE = -10.0  # the code of several counts; read as one half


def participants(ids: pd.Series, key: str) -> pd.Series:
    """The ids as texts of digits. key: the column's header. Raises TableError for damaged ids."""
    if pd.api.types.is_float_dtype(ids) and (ids == np.floor(ids)).all():
        ids = ids.astype("int64")
    texts = ids.astype("string").str.strip()

    def first_row(bad: pd.Series) -> int:
        return int(np.argmax(bad.to_numpy(bool)))

    if (again := (texts.str.lower() == key.strip().lower()).fillna(False)).any():
        raise TableError(
            f"row {first_row(again)} repeats the header ({again.sum()} such rows): files were joined; keep the first header only"
        )
    if (bad := ~texts.str.fullmatch(r"[0-9]+").fillna(False)).any():
        raise TableError(
            f"row {first_row(bad)} has no participant id made of digits only ({bad.sum()} rows): an empty line, or ids that a "
            "spreadsheet rounded (1.23E+06); export it again and do not save it from a spreadsheet"
        )
    if len(lengths := texts.str.len().value_counts()) > 1:
        raise TableError(
            f"ids have {' and '.join(map(str, sorted(lengths.index)))} digits: some lost digits; export it again"
        )
    if (repeated := texts.duplicated()).any():
        raise TableError(
            f"row {first_row(repeated)} repeats a participant ({repeated.sum()} rows in all); keep one row each"
        )
    if texts.empty:
        raise TableError("it has a header and no rows; export it again")
    return texts.astype(str)


def combine(readings: Sequence[pd.Series], field: Field) -> pd.Series:
    """One value per participant from the readings of a field: mean of numbers, or first class."""
    if field.column.kind != "continuous":
        answers = [_classes(values, field) for values in readings]
        return functools.reduce(lambda first, second: first.where(first.notna(), second), answers)
    codes = field.missing_numbers
    numbers = [_numbers(values) for values in readings]
    numbers = [n.mask(n.isin(codes)) for n in numbers] if codes else numbers
    numbers = [n.replace(LESS_THAN_ONE, 0.5) for n in numbers] if field.less_than_one else numbers
    return numbers[0] if len(numbers) == 1 else pd.concat(numbers, axis=1).mean(axis=1)


def _numbers(values: pd.Series) -> pd.Series:
    """Float64, NaN where missing. Raises TableError for text, truth values, and numbers beyond
    LARGEST_NUMBER.
    """
    if pd.api.types.is_float_dtype(values) and max(values.max(), -values.min()) <= LARGEST_NUMBER:
        return values.astype(float)  # fast path: most columns hold finite numbers already
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = values.notna() & numbers.isna()
    if values.dtype == object:
        wrong |= values.map(lambda cell: isinstance(cell, bool))
    elif values.dtype == bool:
        wrong |= True
    numbers = numbers.astype(float)
    if (wrong := wrong.to_numpy(bool) | (np.abs(numbers.to_numpy()) > LARGEST_NUMBER)).any():
        raise TableError(
            f"{values.name!r}: {wrong.sum()} entries are not numbers or too large, the first in row "
            f"{int(np.argmax(wrong))} (did a spreadsheet turn it into a date?); export it again"
        )
    return numbers


def _classes(values: pd.Series, field: Field) -> pd.Series:
    """The classes of one reading as texts, NaN where there is no answer.

    Cells of a field that only the user's dictionary describes stay as they are written.
    """
    verbatim = field.from_dictionary
    texts = {v: str(v).strip() for v in values.dropna().unique()} if verbatim else _code_texts(values)
    known = {*field.missing, *field.column.classes, ""}
    wrong = [v for v, text in texts.items() if not (verbatim or text in known or re.fullmatch(r"-?[0-9]+", text))]
    if wrong:
        rows = values.isin(wrong).to_numpy()
        raise TableError(
            f"{values.name!r}: {rows.sum()} entries are not codes, the first in row {int(np.argmax(rows))}; "
            "export codes (raw values), not their meanings"
        )
    return values.map({v: t for v, t in texts.items() if t and t not in field.missing}).astype(object)


def _code_texts(values: pd.Series) -> dict[Any, str]:
    """Each distinct code of a column -> its text: 1, 1.0 and "1" become "1"; other texts stay."""
    unique = values.dropna().unique()
    numbers = pd.to_numeric(pd.Series(unique, dtype=object), errors="coerce")
    return {v: f"{n:.0f}" if n == np.round(n) else str(v).strip() for v, n in zip(unique, numbers, strict=True)}

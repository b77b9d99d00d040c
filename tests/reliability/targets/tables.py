"""Tables, data dictionaries, UK Biobank exports, and lists of subjects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from morphojax.data.geometry import Grid
from morphojax.data.prepare import withdrawals
from morphojax.data.prepare.checks import PrepareError
from morphojax.data.prepare.pseudonyms import KeyFileError, Pseudonyms
from morphojax.data.prepare.spec import PrepareSpec
from morphojax.data.sources import table_files
from morphojax.data.sources.base import CohortError, FolderSource
from morphojax.data.sources.ukb_nifti import UkbNifti
from morphojax.data.tables import cells
from morphojax.data.tables.encoder import TableEncoder
from morphojax.data.tables.schema import Schema, TableError
from morphojax.data.tables.ukb_headers import UkbTableSpec
from tests.data.tables.ukb_exports import export
from tests.reliability import mutations
from tests.reliability.mutations import Mutate, bits
from tests.reliability.targets import Target, require

TABLE = "subject,dose,kind,lvedv,smokes\np1,1.5,x,150,1\np2,,y,,0\np3,2.25,x,171.5,\np4,1e3,,90,1\n"
DICTIONARY = (
    "name,kind,group,unit,categories,leak,description,measures\n"
    "dose,continuous,lifestyle,mg,,,amount,\n"
    "kind,categorical,demographic,,x;y,,,\n"
    "lvedv,continuous,cardiac_morphometric,mL,,segmentation,volume,lv_cavity:ED:ml\n"
    "smokes,binary,lifestyle,,,,,\n"
)
UKB_DICTIONARY = "name,kind,group,field,missing\nextra,continuous,lifestyle,,-1\npace,categorical,lifestyle,924,-7;-3\n"
HEX = "0123456789abcdef" * 4


def check_table(frame: pd.DataFrame, schema: Schema) -> None:
    """As a training does: reads, encodes and measures. Raises Implausible."""
    require(frame.index.is_unique and list(frame.columns) == list(schema.names), f"columns {list(frame.columns)}")
    require(all(isinstance(i, str) and i.strip() == i != "" for i in frame.index), f"ids {list(frame.index)}")
    cells.check(frame, schema)
    cells.describe(frame, schema)
    volumes = cells.volumes(frame, schema, ("lv_cavity",), ("ED", "ES"))
    known = volumes[~np.isnan(volumes)]
    require((known > 0).all() and np.isfinite(known).all(), f"volumes {known}")
    encoder = TableEncoder.fit(frame, schema, "iterative")
    values, missing = encoder.encode(frame)
    require(np.isfinite(values).all() and values.shape == missing.shape, f"encoded {values}")


def build_table(folder: Path) -> Sequence[tuple[str, Mutate]]:
    (folder / "table.csv").write_text(TABLE)
    (folder / "dictionary.csv").write_text(DICTIONARY)
    mutate = mutations.text("lv_cavity:ED:ml", "continuous", "subject", "sep=;\n")
    return [("table.csv", mutate), ("dictionary.csv", mutate)]


def read_table(folder: Path, changed: Sequence[Path]) -> None:
    frame, schema = table_files.read_table(folder / "table.csv", "subject", folder / "dictionary.csv")
    try:
        check_table(frame, schema)
    except TableError as error:  # the commands name the file
        raise CohortError(f"{folder / 'table.csv'}: {error}") from error


def build_export(folder: Path) -> Sequence[tuple[str, Mutate]]:
    export(folder / "t.csv")
    export(folder / "t.tsv", "f.eid", lambda *key: "f.{}.{}.{}".format(*key), sep="\t")
    for name in ("t.csv", "t.tsv"):
        path = folder / name
        sep = "\t" if name == "t.tsv" else ","
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0] + sep + "extra", *(f"{line}{sep}{n}" for n, line in enumerate(lines[1:]))]))
    (folder / "dictionary.csv").write_text(UKB_DICTIONARY)
    (folder / "fields.txt").write_text("31 24103\n24100\n")
    mutate = mutations.text("eid", "31-0.0", "1000017", "published_118", "1.23E+06", "-10")
    return [("t.csv", mutate), ("t.csv", mutate), ("t.tsv", mutate), ("dictionary.csv", mutate), ("fields.txt", mutate)]


def build_parquet(folder: Path) -> Sequence[tuple[str, Mutate]]:
    frame = pd.read_csv(export(folder / "t.csv"))
    frame["eid"] = frame["eid"].astype(str)
    frame["extra"] = 1.5
    frame.to_parquet(folder / "t.parquet")
    (folder / "t.csv").unlink()
    (folder / "dictionary.csv").write_text(UKB_DICTIONARY)
    (folder / "fields.txt").write_text("31 24103\n24100\n")
    return [("t.parquet", bits)]


def read_export(folder: Path, changed: Sequence[Path]) -> None:
    tables = [path for path in changed if path.stem == "t"] or [folder / "t.csv"]
    chosen = folder / "fields.txt" in changed
    for path in tables:
        spec = UkbTableSpec(fields=str(folder / "fields.txt") if chosen else "")
        source = UkbNifti(folder, table=path, dictionary=folder / "dictionary.csv", export=spec)
        table = source.table()
        require(table is not None, "no table")
        frame, schema = table  # pyrefly: ignore
        try:
            check_table(frame, schema)
        except TableError as error:
            raise CohortError(f"{path}: {error}") from error


def build_lists(folder: Path) -> Sequence[tuple[str, Mutate]]:
    (folder / "withdrawn.csv").write_text("eid\n1000017\n1000028,\n\n")
    (folder / "subjects.txt").write_text("subject\np1\n'p2',\np3\n")
    (folder / "morphojax.key").write_text(HEX + "\n")
    return [(name, mutations.text("1.5", "subject")) for name in ("withdrawn.csv", "subjects.txt", "morphojax.key")]


def read_lists(folder: Path, changed: Sequence[Path]) -> None:
    from morphojax.tasks import cohort

    for path in changed:
        if path.suffix == ".key":
            key = Pseudonyms.read(path)
            require(len(key.key) == 32 and len(key("p1")) == 16, "key")
        else:
            own = path.name == "subjects.txt"
            ids = cohort.read_list(path, "config.data.subjects") if own else withdrawals.read_list(path)
            require(ids and all(i and i.strip() == i for i in ids), f"ids {ids}")


class _Source(FolderSource):
    def subjects(self) -> Sequence[str]:
        return ["p1", "p2", "p3"]

    def table(self) -> None:
        return None


def build_splits(folder: Path) -> Sequence[tuple[str, Mutate]]:
    (folder / "split.csv").write_text("subject,split\np1,train\np2,val\np3,test\np4,none\n")
    return [("split.csv", mutations.text("train", "none", "p1"))]


def read_splits(folder: Path, changed: Sequence[Path]) -> None:
    source: Any = _Source(folder)
    spec = PrepareSpec(source, folder.with_name("out"), "acdc", Grid(1.5, 16), split_file=folder / "split.csv")
    splits, _ = spec.subject_splits()
    require(set(source.subjects()) <= set(splits), f"splits {splits}")
    require(set(splits.values()) <= {"train", "val", "test", "none"}, f"splits {splits}")


TARGETS = (
    Target("table", build_table, read_table, (CohortError,)),
    Target("ukb_export", build_export, read_export, (CohortError,)),
    Target("parquet", build_parquet, read_export, (CohortError,)),
    Target("subject_lists", build_lists, read_lists, (CohortError, KeyFileError, ValueError)),
    Target("split_file", build_splits, read_splits, (PrepareError, CohortError)),
)

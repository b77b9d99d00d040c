"""Time to read a wide UK Biobank export, against a plain pandas read of the same columns.

    python -m benchmarks.table --rows=50000 --columns=3000

The file is made first, in a temporary folder: every field of the published table, among fields
that are not read. The two reads alternate. The ratio is ours over pandas': its median over the
repeats, and its range.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from morphojax.data.tables.ukb_export import read_export
from morphojax.data.tables.ukb_fields import registry
from morphojax.data.tables.ukb_headers import UkbTableSpec


def export(path: Path, rows: int, columns: int) -> None:
    """Writes a CSV; the published columns are among its columns; one value in five is empty."""
    rng = np.random.default_rng(0)
    wanted = [f for f in registry().values() if f.published]
    spread = dict(zip(np.linspace(0, columns - 1, len(wanted)).astype(int), wanted, strict=True))
    names = [
        f"{spread[i].id}-{0 if spread[i].once else 2}.0" if i in spread else f"{900000 + i}-2.0" for i in range(columns)
    ]
    coded = {i for i, f in spread.items() if f.column.kind != "continuous"}
    with path.open("w") as file:
        file.write(",".join(["eid", *names]) + "\n")
        for row in tqdm(range(rows), desc="export", unit="row"):
            values, empty = rng.normal(100, 20, columns), rng.random(columns) < 0.2
            cells = [
                "" if e else "1" if i in coded else f"{v:.2f}"
                for i, (v, e) in enumerate(zip(values, empty, strict=True))
            ]
            file.write(f"{1000000 + row}," + ",".join(cells) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export.csv"
        export(path, options.rows, options.columns)
        _, schema = read_export(path, UkbTableSpec("published_118"))
        ids = {c.name: int(c.name.rsplit("_", 1)[1]) for c in schema.columns}
        wanted = ["eid", *(f"{i}-{0 if registry()[i].once else 2}.0" for i in ids.values())]
        ratios = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            pd.read_csv(path, usecols=wanted)
            middle = time.perf_counter()
            read_export(path, UkbTableSpec("published_118"))
            ratios.append((time.perf_counter() - middle) / (middle - start))
        size = path.stat().st_size / 1e6
    print(
        f"{options.rows} x {options.columns} ({size:.0f} MB) to {len(ids)} columns: ours / pandas {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()

"""The files of an attribution: attribution.csv, attribution.png and attribution.md."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.attribution.rows import Measures
from morphojax import anatomy
from morphojax.data.store.records import write_atomically
from morphojax.evaluation.statistics import bootstrap_mean
from morphojax.reports.document import Block, Section, to_markdown

COLUMNS = ("method", "kind", "name", "group", "measure", "n", "mean", "low", "high")
SIMILARITY, SPECIFIC = "similarity", "own_minus_others"  # of which integrated gradients are taken
GRADIENTS, PERMUTED, REPLACED, OCCLUDED = "integrated_gradients", "permutation", "group_replaced", "occlusion"
TITLES = {
    "top1_split": "top-1 of the split",
    "top1_batch": "top-1 of a batch",
    "own_minus_others": "own minus others",
}
SHOWN = 10  # columns in the Markdown table
NOT_SHOWN = (
    "Columns that carry the same information divide the effect: a low value does not mean that a column is irrelevant.",
    "It describes what this similarity uses, not what causes the image, and not what helps segmentation.",
    "Permuted and replaced columns give rows that no subject has; the encoder never saw such rows.",
    "Intervals cover the subjects of the split, not another training run, and are not corrected for their number.",
    "An occluded image is no image of a heart: part of an effect can come from the edge of the patch.",
)


@dataclasses.dataclass(frozen=True)
class About:
    """What the report says of its origin. error: the largest of completeness."""

    objective: str
    split: str
    subjects: int
    batch_size: int
    permutations: int
    steps: int
    error: float
    patch: int

    def lines(self) -> list[str]:
        return [
            f"{self.subjects} subjects of the {self.split} split; objective {self.objective}; "
            f"chance is {1 / self.subjects:.3f} for the top-1 of the split "
            f"and {1 / min(self.batch_size, self.subjects):.3f} for that of a batch of "
            f"{min(self.batch_size, self.subjects)}.",
            f"Integrated gradients: {self.steps} steps, largest error of completeness {self.error:.1g}.",
            f"Permutation: mean of {self.permutations} permutations.",
            f"Occlusion: patches of {self.patch} pixels.",
            "Brackets: 95 % bootstrap interval over subjects.",
        ]


def table(rows: Sequence[tuple[str, str, str, str, Mapping[str, np.ndarray]]]) -> pd.DataFrame:
    """COLUMNS for every (method, kind, name, group, {measure: values by subject})."""
    lines = []
    for method, kind, name, group, by_measure in rows:
        for measure, values in by_measure.items():
            i = bootstrap_mean(values)
            lines.append((method, kind, name, group, measure, i.n, i.mean, i.low, i.high))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def entries(
    method: str, kind: str, by_name: Mapping[str, Measures], group_of: Mapping[str, str]
) -> list[tuple[str, str, str, str, Measures]]:
    """The rows of `table` for one method."""
    return [(method, kind, name, group_of[name], by_measure) for name, by_measure in by_name.items()]


def structure_entries(found: Mapping[str, np.ndarray]) -> list[tuple[str, str, str, str, Measures]]:
    """The rows of `table` for `image.preferences`. A subject without the structure has no ratio."""
    rows = []
    for name, values in found.items():
        effect, area = values.T
        ratio = np.divide(effect, area, out=np.full(len(area), np.nan), where=area > 0)
        by_measure = {"ratio": ratio, "effect_fraction": effect, "area_fraction": area}
        rows.append((OCCLUDED, "structure", name, "", by_measure))
    return rows


def write(output: Path, results: pd.DataFrame, about: About) -> list[Path]:
    """Writes the three files; each is complete or absent."""
    output.mkdir(parents=True, exist_ok=True)
    paths = [output / f"attribution.{ending}" for ending in ("csv", "png", "md")]
    text = to_markdown("Attribution", sections(results, about), output)
    for path, data in zip(
        paths, (results.to_csv(index=False, float_format="%.6g").encode(), draw(results), text.encode()), strict=True
    ):
        write_atomically(path, data)
    return paths


def draw(results: pd.DataFrame) -> bytes:
    """PNG: a bar per column, columns by group, for integrated gradients and permutation. It needs
    no colour: a grey band and a name mark every second group.
    """
    columns = results[results["kind"] == "column"]
    panels = {
        "integrated gradients: similarity": (GRADIENTS, SIMILARITY),
        "integrated gradients: own minus others": (GRADIENTS, SPECIFIC),
        "permutation: fall of own minus others": (PERMUTED, SPECIFIC),
    }
    names = _by_group(columns)
    figure = Figure(figsize=(11, 0.17 * len(names) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (axes, (title, key)) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True)
    ):
        shown = _pick(columns, *key).loc[names.index]
        y = np.arange(len(shown))
        axes.barh(y, shown["mean"], color="0.55", edgecolor="black", linewidth=0.4, height=0.7)
        axes.hlines(y, shown["low"], shown["high"], color="black", linewidth=0.9)
        for i, (group, rows) in enumerate(pd.Series(y, index=names).groupby(level=0, sort=False)):
            if i % 2 == 0:
                axes.axhspan(rows.min() - 0.5, rows.max() + 0.5, color="0.93", zorder=0)
            if number == len(panels) - 1:
                axes.annotate(
                    str(group).replace("_", "\n"),
                    (1.01, rows.mean()),
                    xycoords=("axes fraction", "data"),
                    fontsize=6,
                    va="center",
                )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(title, fontsize=8)
        axes.locator_params(axis="x", nbins=5)
        axes.set_yticks(y, names.index, fontsize=6)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_ylim(len(names) - 0.5, -0.5)
    out = io.BytesIO()
    figure.savefig(out, dpi=150, format="png")
    return out.getvalue()


def _by_group(columns: pd.DataFrame) -> pd.Series:
    """Group by column, groups as in the table, in each the largest permutation importance first."""
    shown = columns[(columns["method"] == PERMUTED) & (columns["measure"] == SPECIFIC)].copy()
    shown["order"] = shown["group"].map({g: i for i, g in enumerate(dict.fromkeys(shown["group"]))})
    shown = shown.sort_values(["order", "mean"], ascending=[True, False], kind="stable")
    return shown.set_index("name")["group"]


def sections(results: pd.DataFrame, about: About) -> list[Section]:
    intact = results[results["method"] == "intact"].set_index("measure")
    measured = [f"{title}: {_cell(intact.loc[key])}" for key, title in TITLES.items()]
    blocks = [
        Block("list", lines=[*about.lines(), *measured]),
        Block("text", text="![Attribution by column](attribution.png)"),
    ]
    measured_head = (
        "gradients: similarity",
        "gradients: own minus others",
        *(f"permuted: {t}" for t in TITLES.values()),
    )
    columns = results[results["kind"] == "column"]
    first = _pick(columns, PERMUTED, SPECIFIC).sort_values("mean", ascending=False).index[:SHOWN]
    structures = _structures(results)
    return [
        Section("The similarity as it is", blocks),
        Section(
            "Groups",
            [
                Block(
                    "table",
                    head=("group", *measured_head, "replaced: own minus others"),
                    rows=_rows(results[results["kind"] == "group"], True),
                )
            ],
        ),
        Section(
            f"The {len(first)} columns whose permutation matters most",
            [Block("table", head=("column", *measured_head), rows=_rows(columns, False, list(first)))],
        ),
        Section("Structures", [structures]),
        Section("What this does not show", [Block("list", lines=NOT_SHOWN)]),
    ]


def _structures(results: pd.DataFrame) -> Block:
    ratios = _pick(results, OCCLUDED, "ratio")
    if ratios.empty:
        return Block("text", text="No subject of the split has an annotated image.")
    lines = [
        f"{anatomy.LABEL_NAME[str(name)]}: effect per area {_cell(row)} (1: no preference; {row['n']} subjects)"
        for name, row in ratios.iterrows()
    ]
    return Block("list", lines=lines)


def _rows(part: pd.DataFrame, replaced: bool, names: Sequence[str] | None = None) -> list[list[str]]:
    """The cells of a table; all names where `names` is None."""
    keys = [(GRADIENTS, SIMILARITY), (GRADIENTS, SPECIFIC), *((PERMUTED, measure) for measure in TITLES)]
    keys += [(REPLACED, SPECIFIC)] if replaced else []
    shown = [_pick(part, *key) for key in keys]
    return [
        [name.replace("_", " ") if replaced else name, *(_cell(rows.loc[name]) for rows in shown)]
        for name in (list(shown[0].index) if names is None else names)
    ]


def _pick(part: pd.DataFrame, method: str, measure: str) -> pd.DataFrame:
    return part[(part["method"] == method) & (part["measure"] == measure)].set_index("name")


def _cell(row: Any) -> str:
    """row: with mean, low and high."""
    bounds = "" if np.isnan(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['mean']:.3f}{bounds}"

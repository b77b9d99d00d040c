"""The section of a report on how its runs trained."""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.dynamics import curves, figures, logs, members, tables
from analysis.dynamics.images import COUNTED
from analysis.study.jobs import Job
from analysis.study.spec import Study
from analysis.study.state import DONE, State
from morphojax.reports.document import Block, Section

HEADING = "Training dynamics"
_FIGURES = {"dice": "segment", "effective_rank": "pretrain", "feature_rank": "pretrain"}  # and the table of cka
_READING = (
    "A line is the mean over the finished runs of an arm (seeds, and labelled sets of the same size), at the points that all "
    "of them have logged; its band goes from the smallest to the largest value. Of fine-tuning the labelled images are "
    "counted, of pretraining images x views."
)


def training_dynamics(study: Study, jobs: Sequence[Job], states: Mapping[str, State]) -> Section:
    """Figures and tables of what the finished runs have logged, and a sentence on what they have
    not.
    """
    log, unreadable = _read(study, jobs, states)
    lines, absent = figures.lines_of(log), []
    blocks: list[Block] = []

    def add(name: str, made: Sequence[Block]) -> None:
        blocks.extend(made)
        absent.extend([] if made else [name])

    add("Dice of the validation subjects", _curves(log, "dice", lines))
    add("images to a Dice", _reached(log))
    add("CKA of the features", _cka(log))
    add("alignment and uniformity", _sphere(log, lines))
    add("effective rank of the embeddings", _curves(log, "effective_rank", lines))
    add("effective rank of the features", _curves(log, "feature_rank", lines))
    left_out = [f"Left out, because no finished run has logged it: {', '.join(absent)}."] if absent else []
    if unreadable:
        left_out.append(f"Without a readable log: {', '.join(unreadable[:5])}{' ...' if unreadable[5:] else ''}.")
    reading = [Block("text", _READING)] if blocks else []
    return Section(HEADING, [*reading, *blocks, *([Block("list", lines=left_out)] if left_out else [])])


def _read(study: Study, jobs: Sequence[Job], states: Mapping[str, State]) -> tuple[pd.DataFrame, list[str]]:
    """The logs of the finished runs, and the names of those that have none."""
    cells = [
        members.Member(
            folder=job.run,
            values=job.cell.values,
            labels=job.cell.labels,
            pretraining=job.needs.run if job.needs else None,
            done=states[job.name].status == DONE,
        )
        for job in jobs
        if job.cell is not None
    ]
    order = {axis: {name: n for n, name in enumerate(names)} for axis, names in study.axes.items()}

    def place(cell: members.Member) -> tuple:
        """By the other axes and the number of labels, which are drawn apart; then by the rest."""
        of_axis = {axis: order[axis][value] for axis, value in cell.values.items()}
        return *(of_axis[axis] for axis in study.strata), cell.labels or 0.0, *of_axis.values()

    cells.sort(key=place)
    # A pretraining counts as done, too, where it was removed after its cells were.
    pretrained = [j.run for j in jobs if j.cell is None and states[j.name].status == DONE and j.run.is_dir()]
    wanted = curves.patterns((*_FIGURES, "cka"))
    frames, unreadable = [logs.read([], wanted)], []
    for run in members.runs_of(cells, pretrained):
        try:
            frames.append(logs.read_run(run, wanted))
        except logs.DynamicsError:
            unreadable.append(run.name)
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True), unreadable


def _curves(log: pd.DataFrame, figure: str, lines: figures.Lines) -> list[Block]:
    """Of fine-tuning the mean Dice alone, of pretraining the embeddings of the images."""
    rows, label = curves.select(log, figure)
    points = curves.over_runs(rows[rows["name"].str.fullmatch("(?:.+, )?(?:mean|image|first)")], "images")
    if points.empty:
        return []
    return [
        Block(
            "figure", label[0].upper() + label[1:], svg=figures.curves(points, lines, label, COUNTED[_FIGURES[figure]])
        )
    ]


def _sphere(log: pd.DataFrame, lines: figures.Lines) -> list[Block]:
    points, source = curves.sphere(log)
    if points.empty:
        return []
    text = "Alignment against uniformity (Wang and Isola 2020) of pretrainings; arrows in the direction of time"
    return [Block("figure", text, svg=figures.sphere(points, lines, source))]


def _reached(log: pd.DataFrame) -> list[Block]:
    """Labelled images until the validation reached a Dice, by arm."""
    table = tables.images_to_dice(log, tables.DICE)
    rows = []
    for (panel, line), of_line in table.groupby(["panel", "line"], sort=False):
        cells = [_range(of_line.loc[of_line["dice"] == dice, "images"]) for dice in tables.DICE]
        rows.append([line, panel, *cells])
    if not rows:
        return []
    note = (
        "Labelled images seen at the first validation whose mean Dice reaches a value, from the fewest to the most "
        "(runs that reach it). Runs are validated every config.eval_every steps: nothing between is known."
    )
    head = ["arm", "part", *(f"Dice {dice:g}" for dice in tables.DICE)]
    return [Block("text", note), Block("table", head=head, rows=rows)]


def _range(images: pd.Series) -> str:
    """From the fewest to the most images, of the runs that reached the Dice, and their number."""
    reached = images.dropna()
    if reached.empty:
        return f"{tables.NOT_REACHED} (0 of {len(images)})"
    low, high = reached.min(), reached.max()
    return f"{low}{f' to {high}' if high > low else ''} ({len(reached)} of {len(images)})"


def _cka(log: pd.DataFrame) -> list[Block]:
    """The last CKA of every level with the start of the fine-tuning, by arm."""
    table = tables.last_cka(log)
    levels = [name for name in table.columns if name not in ("run", "line", "panel", "step", "images")]
    rows = []
    for (panel, line), of_line in table.groupby(["panel", "line"], sort=False):
        means = [
            ""
            if (values := of_line[level].dropna()).empty
            else f"{values.mean():.2f} [{values.min():.2f}, {values.max():.2f}]"
            for level in levels
        ]
        rows.append([line, panel, f"{len(of_line)}", *means])
    if not rows:
        return []
    note = (
        "Linear CKA (Kornblith et al. 2019) of the encoder's features after fine-tuning with those before it, mean [smallest, "
        "largest] over runs; level1 is the finest. An arm without pretraining is compared with its random start. Pooled "
        "features are one per image, which biases their CKA upwards."
    )
    return [Block("text", note), Block("table", head=["arm", "part", "runs", *levels], rows=rows)]

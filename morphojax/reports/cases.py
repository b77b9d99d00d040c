"""Which subjects a report shows, and their pictures."""

from collections.abc import Iterator

import pandas as pd

from morphojax.inference import cases
from morphojax.reports import figures
from morphojax.reports.document import Block, Section
from morphojax.reports.evaluated import Evaluated

_NOTE = (
    "By a subject's mean Dice over phases and structures. Left: the image alone; right: outlines of the reference (solid) and of "
    "the prediction (dashed). The slice is the middle one of the left ventricle at ED (or the first annotated phase), on the "
    "network's grid."
)


def chosen(means: pd.Series) -> dict[str, int]:
    """Best, median and worst subject, each subject once. means: subject -> score."""
    order = [int(subject) for subject in means.sort_values(kind="stable").index]
    named = {"best": order[-1], "worst": order[0]} if len(order) > 1 else {"only": order[0]} if order else {}
    if len(order) > 2:
        named["median"] = order[(len(order) - 1) // 2]
    return {name: named[name] for name in ("best", "median", "worst", "only") if name in named}


def section(evaluated: Evaluated) -> Section:
    """The cases of every plane."""
    blocks = [block for plane in evaluated.planes for block in _of_plane(evaluated, plane)]
    note = [Block("text", _NOTE)] if any(block.kind == "panels" for block in blocks) else []
    return Section("Best, median and worst cases", [*note, *blocks])


def _of_plane(evaluated: Evaluated, plane: str) -> Iterator[Block]:
    path = evaluated.folder / f"cases_{evaluated.split}.npz"
    means = evaluated.by_subject(plane)
    panels = []
    try:
        for name, subject in chosen(means).items():
            case = cases.read(path, subject, plane)
            if case is not None:
                title = (
                    f"{name}: subject {subject}, Dice {means[subject]:.3f}\n{plane} {case.phase}, slice {case.slice}"
                )
                panels.append(figures.case(case.picture, title))
    except FileNotFoundError:
        yield Block("text", f"{plane}: no pictures, because there is no {path.name}: run evaluate again to get them.")
        return
    except ValueError as error:
        yield Block("text", f"{plane}: no pictures. {error}")
        return
    if panels:
        yield Block("panels", f"{plane}: {', '.join(chosen(means))}", panels=panels)
    else:
        yield Block("text", f"{plane}: no pictures. {path.name} holds none of the subjects that were scored.")

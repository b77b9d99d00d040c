"""All figures of the project. The only module that uses matplotlib; it keeps no global state.

Figures show the index of a subject, never its id.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sklearn.metrics import roc_curve

from morphojax import anatomy
from morphojax.evaluation import agreement

FILL = 0.35  # opacity inside a structure, so that the image stays visible
_PALETTE = np.zeros((256, 3), np.float32)
for _name, _id in anatomy.LABEL_ID.items():
    _PALETTE[_id] = anatomy.COLOUR[_name]


def _rgb(structure: str) -> tuple[float, float, float]:
    red, green, blue = anatomy.COLOUR[structure]
    return red / 255, green / 255, blue / 255


def _grey(image: np.ndarray) -> np.ndarray:
    """[H, W] uint8, or float in [0, 1], -> [H, W] float32 in [0, 255]."""
    grey = image.astype(np.float32)
    if np.issubdtype(image.dtype, np.floating):
        grey = grey * 255
    return np.clip(np.nan_to_num(grey), 0, 255)


def _paint(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """[H, W] image and label -> uint8 [H, W, 3]: opaque outlines, transparent structures."""
    if image.ndim != 2 or image.shape != label.shape:
        raise ValueError(f"overlay needs image and label of the same [H, W] shape, got {image.shape} and {label.shape}")
    padded = np.pad(label, 1, mode="edge")
    edge = np.zeros(label.shape, bool)
    for shifted in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= shifted != label
    opacity = np.where(label > 0, np.where(edge, 1.0, FILL), 0.0)[..., None]
    rgb = _grey(image)[..., None] * (1 - opacity) + _PALETTE[label] * opacity
    return np.rint(rgb).astype(np.uint8)


def overlay(image: np.ndarray, label: np.ndarray, prediction: np.ndarray | None = None) -> np.ndarray:
    """The label over the grey image; with a prediction, label left and prediction right.

    image [H, W], uint8 or float in [0, 1]; label and prediction [H, W] of canonical ids. Returns
    uint8 [H, W or 2W, 3].
    """
    label = np.asarray(label, np.uint8)
    panels = [_paint(np.asarray(image), label)]
    if prediction is not None:
        panels.append(_paint(np.asarray(image), np.asarray(prediction, np.uint8)))
    return np.concatenate(panels, axis=1)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    """Writes it completely or not at all. An OSError names the file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        figure.savefig(part, dpi=120, format=path.suffix[1:])
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = str(path)  # a full disk names none
        raise


def _legend(figure: Figure, structures: Sequence[str]) -> None:
    patches = [Patch(color=_rgb(s), label=anatomy.LABEL_NAME[s]) for s in structures]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=8)


def _gallery(
    path: str | Path,
    pictures: Sequence[tuple[np.ndarray, str]],
    columns: int,
    structures: Sequence[str],
    caption: str = "",
) -> None:
    if not pictures:
        raise ValueError(f"nothing to draw in {path}: no tiles were given")
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0][0].shape[:2]
    figure = _figure(2.0 * columns * max(1.0, width / height), 2.2 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (picture, title) in zip(axes, pictures, strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=7)
    if caption:
        figure.suptitle(caption, fontsize=8)
    _legend(figure, structures)
    _save(figure, path)


def _present(labels: Sequence[np.ndarray]) -> tuple[str, ...]:
    ids = set(np.unique(np.concatenate([np.ravel(x) for x in labels]))) if labels else set()
    return tuple(s for s in anatomy.STRUCTURES if anatomy.LABEL_ID[s] in ids)


def contact_sheet(path: str | Path, tiles: Sequence[tuple[np.ndarray, np.ndarray, str]], columns: int = 8) -> None:
    """Slices with overlaid labels on one page.

    tiles: (image [H, W] uint8, label [H, W] canonical ids, title).
    """
    pictures = [(overlay(image, label), title) for image, label, title in tiles]
    _gallery(path, pictures, columns, _present([label for _, label, _ in tiles]))


def worst_cases(
    path: str | Path, tiles: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, str]], columns: int = 3
) -> None:
    """Slices with the lowest scores, reference left. tiles: (image, label, prediction, title)."""
    pictures = [(overlay(image, label, prediction), title) for image, label, prediction, title in tiles]
    shown = _present([x for _, label, prediction, _ in tiles for x in (label, prediction)])
    _gallery(path, pictures, columns, shown, caption="left: reference, right: prediction")


def bland_altman(path: str | Path, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Bland-Altman plots, one panel per measure: `agreement_panel`.

    pairs: title with unit -> (reference [N], predicted [N]), NaN = missing.
    """
    if not pairs:
        raise ValueError(f"nothing to draw in {path}: no measures were given")
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = _figure(4.0 * columns, 3.2 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(pairs) :]:
        axis.set_axis_off()
    for axis, (title, pair) in zip(axes, pairs.items(), strict=False):
        agreement_panel(axis, title, *pair)
    _save(figure, path)


def agreement_panel(axis: Any, title: str, reference: np.ndarray, predicted: np.ndarray) -> None:
    """Difference against mean on matplotlib axes, with the bias (line), the limits of agreement
    (dashes) and their 95 % intervals (bands).

    title: with the unit, as `LV EDV (mL)` or `LV EDV (mL), la_4ch`. reference, predicted: [N] in
      that unit, NaN = missing.
    """
    reference, predicted = agreement.pairs(reference, predicted)
    axis.scatter((reference + predicted) / 2, predicted - reference, s=14, color="#0072b2", alpha=0.7, linewidths=0)
    result = agreement.bland_altman(reference, predicted)
    _levels(axis, result)
    name, _, rest = title.partition(" (")
    unit, _, plane = rest.partition(")")
    in_unit = f" ({unit})" if unit else ""
    axis.set_title(f"{name}{plane} (n = {result.n})", fontsize=9)
    axis.set_xlabel(f"mean of the two{in_unit}", fontsize=8)
    axis.set_ylabel(f"predicted - reference{in_unit}", fontsize=8)
    axis.tick_params(labelsize=7)


def _levels(axis: Any, result: agreement.Agreement) -> None:
    """The bias, the limits of agreement, and the bands of their intervals."""
    bounds = agreement.intervals(result)
    limits = ((result.lower, bounds.lower, "--", 0.12), (result.upper, bounds.upper, "--", 0.12))
    for level, (low, high), style, opacity in ((result.bias, bounds.bias, "-", 0.3), *limits):
        if np.isfinite(low):
            axis.axhspan(low, high, color="#d55e00", alpha=opacity, linewidth=0)
        if np.isfinite(level):
            axis.axhline(level, color="#d55e00", linestyle=style, linewidth=1)
            at = (1, level)
            axis.annotate(f"{level:.3g}", at, xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)


def score_strip(path: str | Path, scores: Mapping[tuple[str, str], np.ndarray], ylabel: str = "Dice") -> None:
    """A box plot with all points per (structure, phase).

    scores: (structure, phase) -> [N], NaN = not counted.
    """
    if not scores:
        raise ValueError(f"nothing to draw in {path}: no scores were given")
    figure = _figure(1.6 + 1.1 * len(scores), 3.6)
    axis = figure.subplots()
    random = np.random.default_rng(0)
    for x, ((structure, _), values) in enumerate(scores.items()):
        values = np.asarray(values, float)
        values = values[np.isfinite(values)]
        colour = _rgb(structure)
        if values.size:
            axis.boxplot(
                values, positions=[x], widths=0.55, showfliers=False, manage_ticks=False, medianprops={"color": "black"}
            )
        jitter = random.uniform(-0.18, 0.18, values.size)
        axis.scatter(x + jitter, values, s=10, color=[colour], alpha=0.7, linewidths=0)
    axis.set_xticks(range(len(scores)), [f"{anatomy.LABEL_NAME[s]}\n{phase}" for s, phase in scores], fontsize=8)
    axis.set_ylabel(ylabel)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    _save(figure, path)


def predictions(
    path: str | Path,
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    classes: Sequence[str] = (),
    unit: str = "",
) -> None:
    """One panel per predictor: ROC curves, or without classes, predicted against reference values.

    panels: title -> (target int [N], probability [N, C]), or (reference [N], predicted [N]) in
      `unit`.
    """
    if not panels:
        raise ValueError(f"nothing to draw in {path}: no predictions were given")
    figure = _figure(3.8 * len(panels), 3.8)
    axes = figure.subplots(1, len(panels), squeeze=False).ravel()
    for axis, (title, (target, predicted)) in zip(axes, panels.items(), strict=True):
        (_roc if classes else _scatter)(axis, np.asarray(target), np.asarray(predicted), classes)
        x, y = ("false positive rate", "true positive rate") if classes else ("reference", "predicted")
        axis.set_xlabel(f"{x} ({unit})" if unit else x, fontsize=8)
        axis.set_ylabel(f"{y} ({unit})" if unit else y, fontsize=8)
        axis.set_title(f"{title} (n = {len(target)})", fontsize=9)
        axis.set_aspect("equal", adjustable="datalim")
        axis.tick_params(labelsize=7)
    _save(figure, path)


def _roc(axis: Any, target: np.ndarray, probability: np.ndarray, classes: Sequence[str]) -> None:
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    for c, name in enumerate(classes):
        positive = target == c
        # With two classes the curves mirror each other: draw one.
        if positive.all() or not positive.any() or (len(classes) == 2 and c == 0):
            continue
        false, true, _ = roc_curve(positive, probability[:, c])
        axis.plot(false, true, linewidth=1.2, label=name)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, frameon=False, loc="lower right")


def _scatter(axis: Any, reference: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> None:
    del classes
    axis.scatter(reference, predicted, s=14, color="#0072b2", alpha=0.7, linewidths=0)
    if len(reference):
        ends = [min(reference.min(), predicted.min()), max(reference.max(), predicted.max())]
        axis.plot(ends, ends, color="0.7", linewidth=0.8, zorder=0)

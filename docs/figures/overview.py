"""Draws docs/figures/overview.png from one subject of the embedded synthetic cohort: python
docs/figures/overview.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from morphojax.data.geometry import Grid
from morphojax.data.prepare.embedded import default_cache, ensure_synthetic
from morphojax.data.store.dataset import Dataset
from morphojax.evaluation.figures import overlay

BLUE, GREY = "#2b5c8a", "#555555"
COLUMNS = ("lv_edv", "lv_ef", "rv_edv", "lv_mass")


def box(ax, x: float, y: float, text: str, width: float = 1.5) -> None:
    ax.add_patch(FancyBboxPatch((x, y), width, 0.5, boxstyle="round,pad=0.05", fc="#eef3f8", ec=BLUE))
    ax.text(x + width / 2, y + 0.25, text, ha="center", va="center", fontsize=9)


def arrow(ax, start: tuple[float, float], end: tuple[float, float], label: str = "") -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=GREY))
    if label:
        ax.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.1, label, ha="center", fontsize=8, color=GREY)


def main() -> None:
    path = ensure_synthetic(default_cache(), subjects=200, seed=0, grid=Grid(2.0, 96), planes=("sax",))
    dataset = Dataset.open(path)
    stack = dataset.stacks("sax").query("phase == 'ED' and labelled").iloc[0]
    example = dataset.slices("sax")[int(stack["first"] + stack["slices"] // 2)]
    image, label = (example[name][16:80, 16:80] for name in ("image", "label"))
    masked = overlay(image, label, label)[:, image.shape[1] :]
    row = dataset.table.iloc[int(stack["subject"])]
    figure, ax = plt.subplots(figsize=(10, 4.4), dpi=130)
    ax.set(xlim=(0, 10), ylim=(0, 4.4))
    ax.axis("off")
    gray = np.repeat(image[..., None], 3, axis=-1)
    for picture, (x, y) in ((gray, (0.2, 2.75)), (gray, (0.2, 0.35)), (masked, (8.4, 0.35))):
        ax.imshow(picture, extent=(x, x + 1.3, y, y + 1.3), interpolation="nearest", zorder=2)
    ax.text(0, 4.2, "1. Pretraining, biobank: image and table", weight="bold", fontsize=10, color=BLUE)
    ax.text(
        0,
        1.8,
        "2. Fine-tuning and test, clinic: image only, few labels",
        weight="bold",
        fontsize=10,
        color=BLUE,
        bbox={"fc": "white", "ec": "none", "pad": 2},
        zorder=3,
    )
    box(ax, 2.3, 3.15, "image encoder")
    cells = "\n".join(f"{name}  {row[name]:.0f}" for name in COLUMNS if name in row.index)
    ax.text(8.35, 3.4, cells, va="center", fontsize=8, family="monospace", bbox={"fc": "white", "ec": GREY})
    box(ax, 6.2, 3.15, "table encoder")
    box(ax, 4.3, 3.15, "contrast", width=1.2)
    arrow(ax, (1.55, 3.4), (2.2, 3.4))
    arrow(ax, (3.9, 3.4), (4.2, 3.4))
    arrow(ax, (6.1, 3.4), (5.6, 3.4))
    arrow(ax, (8.25, 3.4), (7.8, 3.4))
    box(ax, 2.3, 0.75, "image encoder")
    box(ax, 4.6, 0.75, "decoder")
    arrow(ax, (3.05, 3.05), (3.05, 1.35))
    ax.text(3.15, 2.25, "weights", fontsize=8, color=GREY)
    arrow(ax, (1.55, 1.0), (2.2, 1.0))
    arrow(ax, (3.9, 1.0), (4.5, 1.0))
    arrow(ax, (6.2, 1.0), (8.3, 1.0), "masks, volumes")
    ax.set_aspect("auto")
    figure.savefig(Path(__file__).with_suffix(".png"), bbox_inches="tight")


if __name__ == "__main__":
    main()
